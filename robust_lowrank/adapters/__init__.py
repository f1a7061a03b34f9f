"""Adapters train on frozen weights."""

from robust_lowrank.adapters.adapting import adapt as adapt
from robust_lowrank.adapters.importing import from_peft as from_peft
