"""How well conditioned a network's layers are, how much they stretch, and what that proves of the network."""

from robust_lowrank.conditioning.certificates import certified_curve as certified_curve
from robust_lowrank.conditioning.certificates import certify as certify
from robust_lowrank.conditioning.lipschitz import Lipschitz as Lipschitz
from robust_lowrank.conditioning.lipschitz import lipschitz as lipschitz
from robust_lowrank.conditioning.operators import operators as operators
from robust_lowrank.conditioning.smoothing import check_smoothing as check_smoothing
from robust_lowrank.conditioning.smoothing import smooth_certify as smooth_certify
from robust_lowrank.conditioning.spectra import certificate_product as certificate_product
from robust_lowrank.conditioning.spectra import spectra as spectra
