"""Layers store their weight as factors."""

from robust_lowrank.layers.adapter import Adapter as Adapter
from robust_lowrank.layers.adapter import without_updates as without_updates
from robust_lowrank.layers.base import FactoredLayer as FactoredLayer
from robust_lowrank.layers.base import named_factored_layers as named_factored_layers
from robust_lowrank.layers.conv import LowRankConv2d as LowRankConv2d
from robust_lowrank.layers.conv import TuckerConv2d as TuckerConv2d
from robust_lowrank.layers.free import DiagonalConv2d as DiagonalConv2d
from robust_lowrank.layers.free import DiagonalLinear as DiagonalLinear
from robust_lowrank.layers.free import TripleConv2d as TripleConv2d
from robust_lowrank.layers.free import TripleLinear as TripleLinear
from robust_lowrank.layers.free import VanillaConv2d as VanillaConv2d
from robust_lowrank.layers.free import VanillaLinear as VanillaLinear
from robust_lowrank.layers.linear import LowRankLinear as LowRankLinear
from robust_lowrank.layers.whole import WholeConv2d as WholeConv2d
from robust_lowrank.layers.whole import WholeLinear as WholeLinear
