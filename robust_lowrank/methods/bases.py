"""Factors are extended to larger bases, projected on others, and truncated to their leading directions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.linalg import Factors, Ranks


def augment(factors: Factors, direction: Factors) -> Factors:
    """Return the same weight in bases that hold the old ones and a direction's (DLRT (36), TDLRT (40)-(41))."""
    bases = tuple(linalg.extend(basis, side) for basis, side in zip(factors.bases, direction.bases, strict=True))
    added = [new.shape[1] - old.shape[1] for old, new in zip(factors.bases, bases, strict=True)]
    return Factors(pad_core(factors.core, added), bases)


def pad_core(core: Tensor, added: Sequence[int]) -> Tensor:
    """Return a core with zeros for so many new columns of its bases."""
    widths = [width for size in (*added, *(0,) * (core.ndim - len(added))) for width in (size, 0)]
    return torch.nn.functional.pad(core, widths[::-1])


def change_bases(factors: Factors, bases: tuple[Tensor, ...]) -> Tensor:
    """Return the core projected on new bases."""
    return linalg.multi_product(factors.core, basis_overlaps(factors.bases, bases))


def basis_overlaps(old: Sequence[Tensor], new: Sequence[Tensor]) -> list[Tensor]:
    """Return U_i,new^T U_i,old for every mode."""
    return [after.T @ before for before, after in zip(old, new, strict=True)]


def decompose(factors: Factors) -> tuple[linalg.SVD, ...]:
    """Return the SVD of a matrix's core, or those of a kernel's core unfolded along each mode that has a basis.

    Of a kernel's the right singular vectors are those of the triangle that stands for the unfolding's rows.
    """
    core, bases = factors
    if core.ndim == 2:
        return (linalg.svd(core),)
    return tuple(linalg.svd(linalg.upper_triangle(linalg.unfold(core, mode).T).T) for mode in range(len(bases)))


def truncate(factors: Factors, decompositions: Sequence[linalg.SVD], ranks: Ranks) -> Factors:
    """Return the factors truncated to `ranks`.

    Two modes: the leading triplets, so that the core is diagonal (methods (5)). More: the truncated HOSVD, all bases from the same
    core (TDLRT (43)-(44)), no rank above the product of the others.
    """
    core, bases = factors
    if core.ndim == 2:
        p, sigma, qh = decompositions[0]
        r = min(ranks)
        return Factors(sigma[:r].diag(), (bases[0] @ p[:, :r], bases[1] @ qh[:r].T))
    kept = linalg.tucker_ranks(core, [min(rank, len(d.sigma)) for d, rank in zip(decompositions, ranks, strict=True)])
    rotations = [d.U[:, :rank] for d, rank in zip(decompositions, kept, strict=True)]
    core = linalg.multi_product(core, [rotation.T for rotation in rotations])
    return Factors(core, tuple(basis @ rotation for basis, rotation in zip(bases, rotations, strict=True)))
