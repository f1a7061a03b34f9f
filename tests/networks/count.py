"""What becomes of the matrices of a network, counted without any numbers in them."""

import re
from dataclasses import dataclass

import torch

import robust_lowrank as rlr
from tests.networks.network import Network

BY_CHOICE = re.compile(r".*include it to factor (it|both)")  # embeddings, tables, shared weights
VECTOR = re.compile("it is a vector.*")


@dataclass(frozen=True)
class Count:
    """Numbers of matrices, a block of a parameter being one, and of parameters.

    Attributes:
        left: the share of the numbers in matrices, those kept by choice aside, that ranks do not pay for.
        reasons: why those stay dense.
    """

    matrices: int
    chains: int
    merged: int
    chosen: int
    left: float
    before: int
    after: int
    reasons: dict[str, str]


def count(network: Network, rank: float = 0.25) -> Count:
    """Return what `compress` would do at a rank."""
    with network.at_home(), torch.device("meta"):
        model = network.make()
    rows = rlr.plan(model, method="svd", rank=rank)
    rows = rows[~rows.kept_dense.str.fullmatch(VECTOR)]
    chosen = rows.kept_dense.str.fullmatch(BY_CHOICE)
    left = (rows.form == "dense") & ~chosen
    sizes = rows.params_dense
    before = sum(parameter.numel() for parameter in model.parameters())
    return Count(
        matrices=len(rows),
        chains=int((rows.form == "chain").sum()),
        merged=int((rows.form == "merged").sum()),
        chosen=int(chosen.sum()),
        left=float(sizes[left].sum() / sizes[~chosen].sum()),
        before=before,
        after=int(before - sizes.sum() + rows.params.sum()),
        reasons=dict(zip(rows.layer[left], rows.kept_dense[left], strict=True)),
    )
