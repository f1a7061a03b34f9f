"""Layers are operators on images, with norms, their bounds, and singular values on a torus."""

from robust_lowrank.conditioning.operators.convolution import Convolution as Convolution
from robust_lowrank.conditioning.operators.convolution import convolution as convolution
from robust_lowrank.conditioning.operators.lanczos import Estimate as Estimate
from robust_lowrank.conditioning.operators.lanczos import conv_norm as conv_norm
from robust_lowrank.conditioning.operators.symbol import circular_singular_values as circular_singular_values
from robust_lowrank.conditioning.operators.symbol import conv_bound as conv_bound
from robust_lowrank.conditioning.operators.table import operators as operators
