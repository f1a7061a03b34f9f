"""Training turns a configuration into a run directory."""

from robust_lowrank.training.adversarial_config import AdversarialConfig as AdversarialConfig
from robust_lowrank.training.config import DataConfig as DataConfig
from robust_lowrank.training.config import ModelConfig as ModelConfig
from robust_lowrank.training.config import MonitorConfig as MonitorConfig
from robust_lowrank.training.config import TrainConfig as TrainConfig
from robust_lowrank.training.config import TrainingConfig as TrainingConfig
from robust_lowrank.training.config import load_config as load_config
from robust_lowrank.training.config import parse_config as parse_config
from robust_lowrank.training.costs import record_costs as record_costs
from robust_lowrank.training.method_config import MethodConfig as MethodConfig
from robust_lowrank.training.naming import describe as describe
from robust_lowrank.training.networks import config_of as config_of
from robust_lowrank.training.networks import described as described
from robust_lowrank.training.networks import load_network as load_network
from robust_lowrank.training.recorded import RecordedConfig as RecordedConfig
from robust_lowrank.training.recorded import is_recorded as is_recorded
from robust_lowrank.training.recorded import read_examples as read_examples
from robust_lowrank.training.rundir import read_trained as read_trained
from robust_lowrank.training.trainer import Progress as Progress
from robust_lowrank.training.trainer import train as train
