"""Adapters train on frozen weights."""

from robust_lowrank.adapters.adapting import adapt as adapt
from robust_lowrank.adapters.combining import add_weighted_adapter as add_weighted_adapter
from robust_lowrank.adapters.files import load_adapter as load_adapter
from robust_lowrank.adapters.files import save_adapter as save_adapter
from robust_lowrank.adapters.importing import from_peft as from_peft
from robust_lowrank.adapters.switching import delete_adapter as delete_adapter
from robust_lowrank.adapters.switching import merge_adapter as merge_adapter
from robust_lowrank.adapters.switching import set_adapter as set_adapter
from robust_lowrank.adapters.switching import unmerge_adapter as unmerge_adapter
