"""Layers get one rank for all, one by name, or what a parameter budget leaves them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.errors import UserError
from robust_lowrank.layers.forms import Dense, Form, form_of
from robust_lowrank.linalg import Ranks
from robust_lowrank.methods import Method

DEFAULT_RANK = 0.25
LEAST_OF_A_MODE = 4  # of a kernel in Tucker form, or all of a smaller one: a fraction of the rank leaves no fewer


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Ranks with exceptions.

    Args:
        default: the start rank, an int or a fraction of the full rank.
        overrides: start ranks of the layers whose full name a regular expression matches; the first match counts.

    Example:
        >>> Rank(default=0.25, overrides={r"layer4\\..*": 16}).for_layer("layer4.0.conv1")
        16

    Raises:
        UserError: a pattern is not a regular expression.
    """

    default: int | float = DEFAULT_RANK
    overrides: Mapping[str, int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for text in self.overrides:
            pattern(text, "overrides")

    def for_layer(self, name: str) -> int | float:
        """Return the start rank of the layer of that name."""
        return next((rank for text, rank in self.overrides.items() if re.fullmatch(text, name)), self.default)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A share of the parameters for all factored layers together, which the spectra of their weights distribute.

    A layer gets a singular triplet where that keeps more of its weight's energy (sigma_i^2 / ||W||^2) a parameter than a common
    level, the level being the least that fits (water-filling). Every layer has at least rank 1, and none, at more than that, takes
    more parameters than its dense weight has.

    Args:
        params: what the factors may take, as a fraction of the parameters of the dense weights.

    Example:
        >>> Budget(params=0.2).params
        0.2
    """

    params: float

    def __post_init__(self) -> None:
        if not 0 < self.params <= 1:
            raise UserError(f"params = {self.params} must be a fraction of the dense weights' parameters, in (0, 1]")


RankLike = int | float | Rank | Budget


class Candidate(NamedTuple):
    """A layer that can be factored, under its name in the network."""

    name: str
    layer: Dense


def assign_ranks(candidates: Sequence[Candidate], method: Method, rank: RankLike | None) -> dict[str, Ranks]:
    """Return the ranks of each layer's factors: (r, r), those of a Tucker kernel, or () for a weight that stays whole.

    Raises:
        UserError: a rank is below 1, above the full rank or a fraction outside (0, 1], a pattern matches nothing, the budget is too
            small, or the method has no rank to choose.
    """
    if not method.ranked:
        if rank is not None:
            raise UserError(f"{method.name} keeps weights whole, at full rank: leave rank out")
        return {name: () for name, _ in candidates}
    form = form_of(method)
    if isinstance(rank, Budget):
        return share_out(candidates, form, rank.params)
    wanted = rank if isinstance(rank, Rank) else Rank(default=DEFAULT_RANK if rank is None else rank)
    for text in wanted.overrides:
        if not any(re.fullmatch(text, name) for name, _ in candidates):
            raise UserError(
                f"overrides {text!r} matches no layer that is factored; there are: {', '.join(c.name for c in candidates)}"
            )
    return {name: ranks_of(name, layer, form, wanted.for_layer(name)) for name, layer in candidates}


def ranks_of(name: str, layer: Dense, form: Form, rank: int | float) -> Ranks:
    """Return the ranks of one layer.

    Raises:
        UserError: the rank is below 1, above the full rank, or a fraction outside (0, 1].
    """
    tensor = form.weight(layer)
    n, m = tensor.flatten(1).shape
    full = min(n, m)
    sizes = tuple(tensor.shape[: form.modes_of(tensor)]) if tensor.ndim == 4 else (full, full)
    if isinstance(rank, bool) or not isinstance(rank, (int, float)):
        raise UserError(f"rank = {rank!r} is neither a whole number nor a fraction")
    if isinstance(rank, float):
        if not 0 < rank <= 1:
            raise UserError(
                f"rank = {rank} as a fraction of the full rank must lie in (0, 1]; for a number of ranks write {rank:.0f}"
            )
        ranks = [math.ceil(rank * size) for size in sizes]
        if tensor.ndim == 4:
            ranks = [max(part, min(size, LEAST_OF_A_MODE)) for part, size in zip(ranks, sizes, strict=True)]
        return _clipped(tensor, tuple(ranks))
    if not 1 <= rank <= full:
        where = "below 1" if rank < 1 else f"above the full rank {full} of its {n} x {m} weight"
        raise UserError(f"rank = {rank} of layer {name!r} is {where}: take 1..{full}, a fraction, or exclude the layer")
    return _clipped(tensor, tuple(min(rank, size) for size in sizes))


def _clipped(tensor: Tensor, ranks: Ranks) -> Ranks:
    return tuple(linalg.tucker_ranks(tensor, list(ranks))) if tensor.ndim == 4 else ranks


def share_out(candidates: Sequence[Candidate], form: Form, share: float) -> dict[str, Ranks]:
    """Return the ranks whose factors take at most `share` of the dense weights' parameters, at a common gain a parameter.

    Raises:
        UserError: rank 1 everywhere takes more.
    """
    tensors = {name: form.weight(layer) for name, layer in candidates}
    gains = {name: _gains(tensor, form.modes_of(tensor)) for name, tensor in tensors.items()}

    def at(level: float) -> dict[str, Ranks]:
        counts = {name: tuple(max(1, int((mode > level).sum())) for mode in modes) for name, modes in gains.items()}
        return {name: no_larger(layer, _clipped(tensors[name], counts[name])) for name, layer in candidates}

    def no_larger(layer: Dense, ranks: Ranks) -> Ranks:
        while max(ranks) > 1 and form.count(layer, ranks) > layer.weight.numel():
            largest = max(ranks)
            ranks = tuple(largest - 1 if rank == largest else rank for rank in ranks)
        return ranks

    def size(ranks: dict[str, Ranks]) -> int:
        return sum(form.count(layer, ranks[name]) for name, layer in candidates)

    dense = sum(layer.weight.numel() for _, layer in candidates)
    allowed = share * dense
    levels = torch.cat([mode for modes in gains.values() for mode in modes]).unique().tolist()
    if size(at(levels[-1])) > allowed:
        raise UserError(
            f"params = {share} allows {int(allowed)} parameters for the factored layers, but rank 1 everywhere takes "
            f"{size(at(levels[-1]))}: raise it, or exclude layers"
        )
    low, high = -1, len(levels) - 1  # the level at `high` fits; index -1 stands for keeping everything
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if size(at(levels[middle])) <= allowed else (middle, high)
    everything = at(-1.0)
    return everything if size(everything) <= allowed else at(levels[high])


def _gains(tensor: Tensor, modes: int) -> tuple[Tensor, ...]:
    """Return for each mode the share of the energy that each singular value holds, a parameter of its vectors."""
    gains = []
    for mode in range(modes if tensor.ndim == 4 else 1):
        unfolded = linalg.unfold(tensor, mode)
        energy = linalg.svd(unfolded).sigma.square()
        columns = tensor.shape[mode] if tensor.ndim == 4 else sum(tensor.shape)
        gains.append(energy / energy.sum().clamp(min=torch.finfo(energy.dtype).tiny) / columns)
    return tuple(gains) if tensor.ndim == 4 else (gains[0], gains[0])


def pattern(text: str, kind: str) -> re.Pattern[str]:
    """Return a compiled regular expression.

    Raises:
        UserError: it is none.
    """
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(f"{kind} {text!r} is not a regular expression: {error}") from error
