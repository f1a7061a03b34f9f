"""Layers whose weight is stored as factors."""

from robust_lowrank.layers.base import FactoredLayer as FactoredLayer
from robust_lowrank.layers.base import Factors as Factors
from robust_lowrank.layers.base import named_factored_layers as named_factored_layers
from robust_lowrank.layers.conv import LowRankConv2d as LowRankConv2d
from robust_lowrank.layers.conv import TuckerConv2d as TuckerConv2d
from robust_lowrank.layers.linear import LowRankLinear as LowRankLinear
from robust_lowrank.layers.vanilla import VanillaConv2d as VanillaConv2d
from robust_lowrank.layers.vanilla import VanillaLinear as VanillaLinear
