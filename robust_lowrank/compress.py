"""Put factored layers in the place of a network's linear layers and convolutions, and count what that saves."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank import linalg
from robust_lowrank.errors import UserError
from robust_lowrank.layers import (
    FactoredLayer,
    Factors,
    LowRankConv2d,
    LowRankLinear,
    TuckerConv2d,
    VanillaConv2d,
    VanillaLinear,
    named_factored_layers,
)
from robust_lowrank.layers.conv import ConvShape, conv_shape
from robust_lowrank.layers.linear import matrix_of
from robust_lowrank.methods import Method, Vanilla, resolve
from robust_lowrank.methods.base import tucker_ranks
from robust_lowrank.records import Parameters

if TYPE_CHECKING:
    import pandas as pd

Start = Literal["weights", "gaussian", "kaiming"]
RELU_GAIN = math.sqrt(2.0)


@dataclass(frozen=True)
class CompressionReport:
    """What `compress` did: the layers it factored, those it kept dense and why, and the parameter counts after it.

    Attributes:
        moved: for each factored layer ||W_factored - W|| / ||W||, which the truncation and the method's constraint cost; NaN when
            the start is drawn anew.
    """

    ranks: dict[str, int]
    kept_dense: dict[str, str]
    moved: dict[str, float]
    parameters: Parameters = field(repr=False)


class Target(NamedTuple):
    """A layer that can be factored, with its ranks."""

    name: str
    layer: nn.Linear | nn.Conv2d
    ranks: tuple[int, ...]


def compress(
    model: nn.Module,
    *,
    method: str | Method = "condlr",
    rank: int | float = 0.25,
    exclude: Sequence[str] = (),
    start: Start = "weights",
) -> CompressionReport:
    """Replace the linear layers and convolutions of a network by factored ones, in place.

    Args:
        model: any network; keys of the state dict stay the same outside the layers that are replaced.
        method: a name (`condlr`, `dlrt`, `tdlrt`, `geolora`, `vanilla`) or an object such as `CondLR(tau=0.1)`.
        rank: an int, or a float in (0, 1] as the fraction of the full rank, rounded up.
        exclude: regular expressions; a layer whose full name matches one stays dense.
        start: `weights` keeps the leading singular triplets of each weight. Training from scratch begins with new factors:
            `gaussian` draws the bases at random and singular values |N(0, 1)|, as the authors' codes of CondLR and DLRT do;
            `kaiming` takes the leading triplets of a Kaiming-normal weight, scaled to its norm.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> compress(net, method="condlr", rank=0.5, exclude=["2"]).ranks
        {'0': 4}

    Raises:
        UserError: an unknown method, a rank below 1 or above a layer's full rank, a pattern that is no regular expression or
            matches nothing, or a network in which nothing is left to factor. The network is then as it was.
    """
    resolved = resolve(method)
    targets, kept = targets_of(model, method=resolved, rank=rank, exclude=exclude)
    if not targets:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in kept.items()) or "it has no Linear or Conv2d"
        raise UserError(f"no layer of the network can be factored ({reasons})")
    moved = {}
    for target in targets:
        layer, moved[target.name] = factor(target, resolved, start)
        parent, _, attribute = target.name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, layer)
    return CompressionReport(
        ranks={name: layer.rank for name, layer in named_factored_layers(model)},
        kept_dense=kept,
        moved=moved,
        parameters=count_parameters(model),
    )


def plan(
    model: nn.Module, *, method: str | Method = "condlr", rank: int | float = 0.25, exclude: Sequence[str] = ()
) -> "pd.DataFrame":
    """Return a table of what `compress` would do, a row a layer; the network is not touched.

    Columns: layer, kind, rows, columns, rank, params, params_dense, kept_dense (the reason, or empty).
    """
    import pandas as pd

    resolved = resolve(method)
    targets, kept = targets_of(model, method=resolved, rank=rank, exclude=exclude)
    ranks = {target.name: target.ranks for target in targets}
    rows = []
    for name, layer in candidates(model):
        n, m = matrix_of(layer).shape
        chosen = ranks.get(name)
        rows.append(
            {
                "layer": name,
                "kind": "linear" if isinstance(layer, nn.Linear) else "conv",
                "rows": n,
                "columns": m,
                "rank": min(n, m) if chosen is None else chosen[0],
                "params": n * m if chosen is None else factored_size(layer, chosen, resolved),
                "params_dense": n * m,
                "kept_dense": kept.get(name, ""),
            }
        )
    return pd.DataFrame(rows)


def factored_size(layer: nn.Linear | nn.Conv2d, ranks: tuple[int, ...], method: Method) -> int:
    """Return the number of weight parameters that a layer has at these ranks."""
    if isinstance(layer, nn.Conv2d) and method.kernels == "tucker":
        f, c, *kernel = layer.weight.shape
        return f * ranks[0] + c * ranks[1] + ranks[0] * ranks[1] * math.prod(kernel)
    n, m = matrix_of(layer).shape
    core = 0 if isinstance(method, Vanilla) else ranks[0] ** 2
    return ranks[0] * (n + m) + core


def candidates(model: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Yield the names and modules of the linear layers and convolutions."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and type(module) in (nn.Linear, nn.Conv2d):
            yield name, module


def targets_of(
    model: nn.Module, *, method: Method, rank: int | float, exclude: Sequence[str]
) -> tuple[list[Target], dict[str, str]]:
    """Return the layers to factor with their ranks, and the reasons why others stay dense."""
    patterns = [_pattern(text) for text in exclude]
    unused = set(exclude)
    shared = _shared_parameters(model)
    targets: list[Target] = []
    kept: dict[str, str] = {}
    for name, layer in candidates(model):
        hits = [p.pattern for p in patterns if p.fullmatch(name)]
        unused.difference_update(hits)
        shape = conv_shape(layer) if isinstance(layer, nn.Conv2d) else None
        if not name:
            kept[name] = "it is the whole network: wrap it in nn.Sequential"
        elif hits:
            kept[name] = f"excluded by {hits[0]!r}"
        elif isinstance(shape, str):
            kept[name] = shape
        elif id(layer.weight) in shared:
            kept[name] = "its weight is shared with another layer"
        else:
            targets.append(Target(name, layer, ranks_of(name, layer, method, rank)))
    if unused:
        names = ", ".join(name for name, _ in candidates(model))
        raise UserError(f"exclude {sorted(unused)} matches no layer; there are: {names}")
    return targets, kept


def ranks_of(name: str, layer: nn.Linear | nn.Conv2d, method: Method, rank: int | float) -> tuple[int, ...]:
    """Return the ranks of a layer's factors: (r, r), or (r1, r2) for a Tucker kernel.

    Raises:
        UserError: the rank is below 1, above the full rank, or a fraction outside (0, 1].
    """
    weight = layer.weight.detach()
    tucker = weight.ndim == 4 and method.kernels == "tucker"
    n, m = matrix_of(layer).shape
    if isinstance(rank, bool) or not isinstance(rank, (int, float)):
        raise UserError(f"rank = {rank!r} is neither a whole number nor a fraction")
    if isinstance(rank, float):
        if not 0 < rank <= 1:
            raise UserError(
                f"rank = {rank} as a fraction of the full rank must lie in (0, 1]; for a number of ranks write {rank:.0f}"
            )
        sizes = weight.shape[:2] if tucker else (min(n, m),) * 2
        wanted = [math.ceil(rank * size) for size in sizes]
    else:
        full = min(n, m)
        if not 1 <= rank <= full:
            where = "below 1" if rank < 1 else f"above the full rank {full} of its {n} x {m} weight"
            raise UserError(f"rank = {rank} of layer {name!r} is {where}: take 1..{full}, a fraction, or exclude the layer")
        wanted = [min(rank, size) for size in (weight.shape[:2] if tucker else (full, full))]
    return tuple(tucker_ranks(weight, wanted)) if tucker else tuple(wanted)


@torch.no_grad()
def factor(target: Target, method: Method, start: Start) -> tuple[FactoredLayer, float]:
    """Return the factored layer for a target, and how far its weight moved."""
    layer, ranks = target.layer, target.ranks
    weight = linalg.at_least_float32(layer.weight.detach())
    tensor = weight if weight.ndim == 4 and method.kernels == "tucker" else weight.flatten(1)
    if start == "gaussian":
        factors = method.admit(gaussian_factors(tensor, ranks))
    elif start == "kaiming":
        drawn = torch.randn_like(tensor) * (RELU_GAIN / math.sqrt(weight[0].numel()))
        factors = method.admit(leading_factors(drawn, ranks))
        factors = factors._replace(core=factors.core * (drawn.norm() / factors.core.norm()))
    else:
        factors = method.admit(leading_factors(tensor, ranks))
    built = build(layer, factors, method).train(layer.training)
    moved = (linalg.at_least_float32(built.dense_weight()) - weight).norm() / weight.norm()
    return built, float(moved) if start == "weights" else math.nan


def leading_factors(tensor: Tensor, ranks: tuple[int, ...]) -> Factors:
    """Return the leading singular triplets of a matrix, or the truncated HOSVD of a kernel."""
    if tensor.ndim == 4:
        return Factors(*linalg.hosvd(tensor, ranks))
    u, sigma, vh = linalg.svd(tensor)
    rank = ranks[0]
    return Factors(sigma[:rank].diag(), (u[:, :rank], vh[:rank].T))


def gaussian_factors(tensor: Tensor, ranks: tuple[int, ...]) -> Factors:
    """Return factors of the tensor's shape with random bases and a core whose unfolding has singular values around 1."""
    bases = tuple(linalg.qf(tensor.new_empty(n, rank).normal_()) for n, rank in zip(tensor.shape, ranks, strict=False))
    if tensor.ndim == 2:
        return Factors(tensor.new_empty(ranks[0]).normal_().abs().sort(descending=True).values.diag(), bases)
    core = tensor.new_empty(*ranks, *tensor.shape[2:]).normal_()
    return Factors(core * math.sqrt(ranks[0] / core.numel()), bases)


def build(layer: nn.Linear | nn.Conv2d, factors: Factors, method: Method) -> FactoredLayer:
    """Return the factored layer that takes the place of `layer`, with its bias."""
    vanilla = isinstance(method, Vanilla)
    if isinstance(layer, nn.Linear):
        built = (VanillaLinear if vanilla else LowRankLinear)(factors, layer.bias)
    else:
        shape = conv_shape(layer)
        assert isinstance(shape, ConvShape)
        kind = VanillaConv2d if vanilla else TuckerConv2d if factors.core.ndim == 4 else LowRankConv2d
        built = kind(factors, shape, layer.bias)
    built.method = None if vanilla else method
    return built


def count_parameters(model: nn.Module) -> Parameters:
    """Return the parameter counts of a network, those of its factored layers set against the dense ones."""
    layers = [layer for _, layer in named_factored_layers(model)]
    total = sum(parameter.numel() for parameter in model.parameters())
    stored = sum(layer.weight_parameters() for layer in layers)
    dense = sum(layer.dense_parameters() for layer in layers)
    fractions = [layer.rank / min(layer.weight_shape) for layer in layers]
    return Parameters(
        total=total,
        dense=total - stored + dense,
        inference=total - stored + sum(layer.inference_parameters() for layer in layers),
        removed=1 - stored / dense if layers else 0.0,
        rank_fraction=sum(fractions) / len(fractions) if layers else 1.0,
    )


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise UserError(f"exclude {text!r} is not a regular expression: {error}") from error


def _shared_parameters(model: nn.Module) -> set[int]:
    seen: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    return {key for key, count in seen.items() if count > 1}
