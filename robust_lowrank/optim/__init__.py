"""Optimizers drive factored nets."""

from robust_lowrank.optim.clipping import clip_grad_norm_ as clip_grad_norm_
from robust_lowrank.optim.elementwise import transport as transport
from robust_lowrank.optim.optimizer import LowRankOptimizer as LowRankOptimizer
from robust_lowrank.optim.reduction import average_gradients as average_gradients
