"""Low-rank training with bounded condition numbers, and attacks strict enough to publish."""

from robust_lowrank.adapt import adapt as adapt
from robust_lowrank.checkpoint import load as load
from robust_lowrank.checkpoint import save as save
from robust_lowrank.compress import CompressionReport as CompressionReport
from robust_lowrank.compress import compress as compress
from robust_lowrank.compress import plan as plan
from robust_lowrank.conditioning import spectra as spectra
from robust_lowrank.errors import UserError as UserError
from robust_lowrank.evaluation import Evaluation as Evaluation
from robust_lowrank.evaluation import evaluate as evaluate
from robust_lowrank.export import export as export
from robust_lowrank.methods import DLRT as DLRT
from robust_lowrank.methods import RGD as RGD
from robust_lowrank.methods import SVD as SVD
from robust_lowrank.methods import TDLRT as TDLRT
from robust_lowrank.methods import USV as USV
from robust_lowrank.methods import CondLR as CondLR
from robust_lowrank.methods import GeoLoRA as GeoLoRA
from robust_lowrank.methods import LoRA as LoRA
from robust_lowrank.methods import RobustDLRT as RobustDLRT
from robust_lowrank.methods import Vanilla as Vanilla
from robust_lowrank.optim import LowRankOptimizer as LowRankOptimizer
from robust_lowrank.penalties import Penalty as Penalty
from robust_lowrank.ranks import Budget as Budget
from robust_lowrank.ranks import Rank as Rank
