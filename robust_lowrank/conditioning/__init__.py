"""This package measures the conditioning of a network's layers and their norms as operators, and certifies what follows."""

from robust_lowrank.conditioning import callbacks as callbacks
from robust_lowrank.conditioning.alerts import Alert as Alert
from robust_lowrank.conditioning.certificates import certified_curve as certified_curve
from robust_lowrank.conditioning.certificates import certify as certify
from robust_lowrank.conditioning.history import History as History
from robust_lowrank.conditioning.lipschitz import Lipschitz as Lipschitz
from robust_lowrank.conditioning.lipschitz import lipschitz as lipschitz
from robust_lowrank.conditioning.monitor import Monitor as Monitor
from robust_lowrank.conditioning.operators import operators as operators
from robust_lowrank.conditioning.smoothing import check_smoothing as check_smoothing
from robust_lowrank.conditioning.smoothing import largest_radius as largest_radius
from robust_lowrank.conditioning.smoothing import smooth_certify as smooth_certify
from robust_lowrank.conditioning.spectra import certificate_product as certificate_product
from robust_lowrank.conditioning.spectra import spectra as spectra
from robust_lowrank.conditioning.writers import JsonlWriter as JsonlWriter
from robust_lowrank.conditioning.writers import MemoryWriter as MemoryWriter
from robust_lowrank.conditioning.writers import ParquetWriter as ParquetWriter
from robust_lowrank.conditioning.writers import TensorBoardWriter as TensorBoardWriter
