"""Jobs train, attack and compare networks as a whole, and keep files of all that is finished."""

from robust_lowrank.jobs.entry import Bench as Bench
from robust_lowrank.jobs.entry import bench as bench
from robust_lowrank.jobs.entry import report as report
from robust_lowrank.jobs.entry import train as train
from robust_lowrank.jobs.events import Event as Event
from robust_lowrank.jobs.experiment import AttackConfig as AttackConfig
from robust_lowrank.jobs.experiment import Experiment as Experiment
from robust_lowrank.jobs.experiment import experiment_names as experiment_names
from robust_lowrank.jobs.experiment import load_experiment as load_experiment
