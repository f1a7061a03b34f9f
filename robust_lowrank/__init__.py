"""Networks train in low-rank form, well conditioned, and attacks are fit to publish."""

from typing import Any

from robust_lowrank import data as data
from robust_lowrank import models as models
from robust_lowrank.adapters import adapt as adapt
from robust_lowrank.adapters import add_weighted_adapter as add_weighted_adapter
from robust_lowrank.adapters import delete_adapter as delete_adapter
from robust_lowrank.adapters import from_peft as from_peft
from robust_lowrank.adapters import load_adapter as load_adapter
from robust_lowrank.adapters import merge_adapter as merge_adapter
from robust_lowrank.adapters import save_adapter as save_adapter
from robust_lowrank.adapters import set_adapter as set_adapter
from robust_lowrank.adapters import unmerge_adapter as unmerge_adapter
from robust_lowrank.averaging import AveragedModel as AveragedModel
from robust_lowrank.checkpoint import load as load
from robust_lowrank.checkpoint import save as save
from robust_lowrank.compression import CompressionReport as CompressionReport
from robust_lowrank.compression import compress as compress
from robust_lowrank.compression import plan as plan
from robust_lowrank.conditioning import JsonlWriter as JsonlWriter
from robust_lowrank.conditioning import MemoryWriter as MemoryWriter
from robust_lowrank.conditioning import Monitor as Monitor
from robust_lowrank.conditioning import ParquetWriter as ParquetWriter
from robust_lowrank.conditioning import TensorBoardWriter as TensorBoardWriter
from robust_lowrank.conditioning import spectra as spectra
from robust_lowrank.errors import TrainingError as TrainingError
from robust_lowrank.errors import UserError as UserError
from robust_lowrank.evaluation import Evaluation as Evaluation
from robust_lowrank.evaluation import evaluate as evaluate
from robust_lowrank.exporting import export as export
from robust_lowrank.jobs import bench as bench
from robust_lowrank.jobs import report as report
from robust_lowrank.jobs import train as train
from robust_lowrank.layers import without_updates as without_updates
from robust_lowrank.methods import DLRT as DLRT
from robust_lowrank.methods import RGD as RGD
from robust_lowrank.methods import SVD as SVD
from robust_lowrank.methods import TDLRT as TDLRT
from robust_lowrank.methods import USV as USV
from robust_lowrank.methods import AdaLoRA as AdaLoRA
from robust_lowrank.methods import CayleySGD as CayleySGD
from robust_lowrank.methods import CondLR as CondLR
from robust_lowrank.methods import GeoLoRA as GeoLoRA
from robust_lowrank.methods import Landing as Landing
from robust_lowrank.methods import LoRA as LoRA
from robust_lowrank.methods import ProjectedSGD as ProjectedSGD
from robust_lowrank.methods import RobustDLRT as RobustDLRT
from robust_lowrank.methods import ScaledLoRA as ScaledLoRA
from robust_lowrank.methods import SpectralClamp as SpectralClamp
from robust_lowrank.methods import StelLA as StelLA
from robust_lowrank.methods import Vanilla as Vanilla
from robust_lowrank.optim import LowRankOptimizer as LowRankOptimizer
from robust_lowrank.optim import clip_grad_norm_ as clip_grad_norm_
from robust_lowrank.penalties import Penalty as Penalty
from robust_lowrank.pretrained import from_pretrained as from_pretrained
from robust_lowrank.pretrained import save_pretrained as save_pretrained
from robust_lowrank.ranks import Budget as Budget
from robust_lowrank.ranks import Rank as Rank
from robust_lowrank.training.autolora import AutoLoRa as AutoLoRa
from robust_lowrank.training.recorder import record as record

__version__: str
_MOVED = {  # public names, and what to import now
    "starts": "robust_lowrank.initialisation",
    "JSONL": "robust_lowrank.JsonlWriter",
    "Memory": "robust_lowrank.MemoryWriter",
    "Parquet": "robust_lowrank.ParquetWriter",
    "TensorBoard": "robust_lowrank.TensorBoardWriter",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("robust-lowrank")
    if name in _MOVED:
        raise ImportError(f"robust_lowrank.{name} has moved: import {_MOVED[name]}")
    raise AttributeError(f"module 'robust_lowrank' has no attribute {name!r}")
