"""How well conditioned a network's layers are: spectra, condition numbers, ranks, and a monitor of them while it is trained."""

from robust_lowrank.conditioning import callbacks as callbacks
from robust_lowrank.conditioning.alerts import Alert as Alert
from robust_lowrank.conditioning.monitor import Monitor as Monitor
from robust_lowrank.conditioning.spectra import certificate_product as certificate_product
from robust_lowrank.conditioning.spectra import spectra as spectra
from robust_lowrank.conditioning.writers import JSONL as JSONL
from robust_lowrank.conditioning.writers import Memory as Memory
from robust_lowrank.conditioning.writers import Parquet as Parquet
from robust_lowrank.conditioning.writers import TensorBoard as TensorBoard
