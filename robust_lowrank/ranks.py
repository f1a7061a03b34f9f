"""Layers get one rank for all, one by name, or what a budget leaves them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.candidates import Candidate
from robust_lowrank.choices import pattern
from robust_lowrank.errors import UserError, brief
from robust_lowrank.layers.forms import Form, Source, form_of
from robust_lowrank.linalg import Ranks
from robust_lowrank.methods import Method
from robust_lowrank.ranges import BATCHES, MILLISECONDS

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
        if not isinstance(self.overrides, Mapping):
            raise UserError(f"overrides = {self.overrides!r} must map regular expressions to ranks")
        for text in self.overrides:
            pattern(text, "overrides")

    def for_layer(self, name: str) -> int | float:
        """Return the start rank of the layer of that name."""
        return next((rank for text, rank in self.overrides.items() if re.fullmatch(text, name)), self.default)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What all factored layers together may cost, in parameters or milliseconds; the spectra of their weights distribute it.

    Of parameters a layer gets a singular triplet where that keeps more of its weight's energy (sigma_i^2 / ||W||^2) a parameter
    than a common level, the level being the least that fits (water-filling). Every layer has at least rank 1, and none, at more
    than that, takes more parameters than its dense weight has.

    Milliseconds are those of a forward pass of the whole network in evaluation mode, without gradients, on its device, in its
    precision and with the threads that torch has now. Each layer is timed dense and at several ranks on the input that it has in
    the network; the choice keeps most energy, and is measured. Layers that are not faster in factors stay dense.

    Args:
        params: what the factors may take, as a fraction of the parameters of the dense weights.
        latency_ms: what a pass in the form `factors` of `export` may take, on the `example_input` of `compress`.
        batch: with `latency_ms`, how many examples that pass has; as many as the example input if not given.

    Example:
        >>> Budget(params=0.2).params, Budget(latency_ms=1.5, batch=1).latency_ms
        (0.2, 1.5)

    Raises:
        UserError: a number is out of range, or not one of `params` and `latency_ms` is given.
    """

    params: float | None = None
    latency_ms: float | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        if (self.params is None) == (self.latency_ms is None):
            raise UserError("a Budget is one of params, a share of the parameters, or latency_ms, of a forward pass: give one")
        if self.params is not None and not (isinstance(self.params, (int, float)) and 0 < self.params <= 1):
            raise UserError(f"params = {self.params} must be a fraction of the dense weights' parameters, in (0, 1]")
        if self.latency_ms is not None and not (isinstance(self.latency_ms, (int, float)) and self.latency_ms in MILLISECONDS):
            raise UserError(f"latency_ms = {brief(self.latency_ms)} must be a number of milliseconds above 0")
        if self.batch is not None and not (isinstance(self.batch, int) and self.batch in BATCHES):
            raise UserError(f"batch = {brief(self.batch)} must be a number of examples, 1 or more")
        if self.batch is not None and self.latency_ms is None:
            raise UserError("batch says how many examples the pass of latency_ms has: leave it out")


RankLike = int | float | Rank | Budget


class Assigned(NamedTuple):
    """The ranks of what is factored, why some stays dense after all, and the ranks that were larger than a layer's."""

    ranks: dict[str, Ranks]
    kept: dict[str, str]
    clipped: dict[str, int]


def assign_ranks(candidates: Sequence[Candidate], method: Method, rank: RankLike | None, *, grow: bool = False) -> Assigned:
    """Return the ranks of each layer's factors: (r, r), those of a Tucker kernel, or () for a weight that stays whole.

    Layers that would grow, as at a fixed rank their thin layers hold more numbers than their weight, stay dense, unless `grow` is
    set, the rank is 1.0 or an exception of `Rank` names the layer. Whole numbers above the full rank of a layer become that.

    Raises:
        UserError: a rank is below 1 or a fraction outside (0, 1], a pattern matches nothing, the budget is too small, or the method
            has no rank to choose.
    """
    if not method.ranked:
        if rank is not None:
            raise UserError(f"{method.name} keeps weights whole, at full rank: leave rank out")
        return Assigned({candidate.name: () for candidate in candidates}, {}, {})
    form = form_of(method)
    if isinstance(rank, Budget):
        if rank.params is None:
            raise UserError("a budget of milliseconds is for compress: updates are merged into weights, which no rank makes faster")
        return Assigned(share_out(candidates, form, rank.params), {}, {})
    wanted = rank if isinstance(rank, Rank) else Rank(default=DEFAULT_RANK if rank is None else rank)
    for text in wanted.overrides:
        if not any(re.fullmatch(text, candidate.name) for candidate in candidates):
            raise UserError(
                f"overrides {text!r} matches no layer that is factored; there are: {', '.join(c.name for c in candidates)}"
            )
    grow = grow or _is_full(wanted.default) or getattr(method, "adaptive", False)
    assigned = Assigned({}, {}, {})
    for candidate in candidates:
        name, layer = candidate.name, candidate.layer
        chosen = wanted.for_layer(name)
        ranks = ranks_of(name, layer, form, chosen)
        shipped, size = form.shipped(layer, ranks), layer.weight.numel()
        named = any(re.fullmatch(text, name) for text in wanted.overrides)
        if shipped > size and not grow and not named:
            assigned.kept[name] = f"at rank {ranks[0]} its thin layers would hold {shipped:,} numbers, its weight holds {size:,}"
            continue
        assigned.ranks[name] = ranks
        if not isinstance(chosen, float) and chosen > max(ranks):
            assigned.clipped[name] = max(ranks)
    return assigned


def _is_full(rank: int | float) -> bool:
    return isinstance(rank, float) and rank == 1


def ranks_of(name: str, layer: Source, form: Form, rank: int | float) -> Ranks:
    """Return the ranks of one layer, none above its full rank.

    Raises:
        UserError: the rank is below 1, or a fraction outside (0, 1].
    """
    tensor = form.weight(layer)
    full = min(tensor.flatten(1).shape)
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
    if rank < 1:
        raise UserError(f"rank = {rank} of layer {name!r} is below 1: take 1..{full}, a fraction, or exclude the layer")
    return _clipped(tensor, tuple(min(rank, size) for size in sizes))


def _clipped(tensor: Tensor, ranks: Ranks) -> Ranks:
    return tuple(linalg.tucker_ranks(tensor, list(ranks))) if tensor.ndim == 4 else ranks


def share_out(candidates: Sequence[Candidate], form: Form, share: float) -> dict[str, Ranks]:
    """Return the ranks whose factors take at most `share` of the dense weights' parameters, at a common gain a parameter.

    Raises:
        UserError: rank 1 everywhere takes more.
    """
    pairs = [(candidate.name, candidate.layer) for candidate in candidates]
    tensors = {name: form.weight(layer) for name, layer in pairs}
    require_values(tensors)
    gains = {name: _gains(tensor, form.modes_of(tensor)) for name, tensor in tensors.items()}

    def at(level: float) -> dict[str, Ranks]:
        counts = {name: tuple(max(1, int((mode > level).sum())) for mode in modes) for name, modes in gains.items()}
        return {name: no_larger(layer, _clipped(tensors[name], counts[name])) for name, layer in pairs}

    def no_larger(layer: Source, ranks: Ranks) -> Ranks:
        while max(ranks) > 1 and form.count(layer, ranks) > layer.weight.numel():
            largest = max(ranks)
            ranks = tuple(largest - 1 if rank == largest else rank for rank in ranks)
        return ranks

    def size(ranks: dict[str, Ranks]) -> int:
        return sum(form.count(layer, ranks[name]) for name, layer in pairs)

    dense = sum(layer.weight.numel() for _, layer in pairs)
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


def require_values(weights: Mapping[str, Tensor]) -> None:
    """Require weights that have values, by the names of their layers.

    Raises:
        UserError: one is on the meta device.
    """
    if meta := [name for name, weight in weights.items() if weight.is_meta]:
        raise UserError(f"a budget goes by singular values, and {meta[0]} is on the meta device without values: give a rank")


def energies(tensor: Tensor, modes: int) -> tuple[Tensor, ...]:
    """Return for each mode that has a basis, of a matrix for one, the share of the energy that each singular value holds."""
    shares = []
    for mode in range(modes if tensor.ndim == 4 else 1):
        energy = linalg.svd(linalg.unfold(tensor, mode)).sigma.square()
        shares.append(energy / energy.sum().clamp(min=torch.finfo(energy.dtype).tiny))
    return tuple(shares)


def _gains(tensor: Tensor, modes: int) -> tuple[Tensor, ...]:
    """Return for each mode the share of the energy that each singular value holds, a parameter of its vectors."""
    shares = energies(tensor, modes)
    if tensor.ndim == 4:
        return tuple(share / tensor.shape[mode] for mode, share in enumerate(shares))
    return (shares[0] / sum(tensor.shape),) * 2
