"""Threat models say how far an input may be moved; keyed noise and frozen networks serve whoever moves it."""

from robust_lowrank.threat.behaviour import KINDS as KINDS
from robust_lowrank.threat.behaviour import NUMBERS as NUMBERS
from robust_lowrank.threat.behaviour import OBSERVED as OBSERVED
from robust_lowrank.threat.behaviour import observe as observe
from robust_lowrank.threat.frozen import frozen_eval as frozen_eval
from robust_lowrank.threat.masked import Masked as Masked
from robust_lowrank.threat.models import L1 as L1
from robust_lowrank.threat.models import L2 as L2
from robust_lowrank.threat.models import THREATS as THREATS
from robust_lowrank.threat.models import Linf as Linf
from robust_lowrank.threat.models import Threat as Threat
from robust_lowrank.threat.models import per_example as per_example
from robust_lowrank.threat.models import radius as radius
from robust_lowrank.threat.models import threat as threat
from robust_lowrank.threat.noise import KeyedNoise as KeyedNoise
