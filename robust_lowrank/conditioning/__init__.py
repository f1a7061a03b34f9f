"""How well conditioned a network's layers are: spectra, condition numbers, ranks."""

from robust_lowrank.conditioning.spectra import certificate_product as certificate_product
from robust_lowrank.conditioning.spectra import spectra as spectra
