"""Optimizers for factored networks."""

from robust_lowrank.optim.moments import transport as transport
from robust_lowrank.optim.optimizer import LowRankOptimizer as LowRankOptimizer
