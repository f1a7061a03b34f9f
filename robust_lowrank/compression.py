"""Compression puts factored layers in the place of linear layers and convolutions, and counts the saving."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from torch import nn

from robust_lowrank.errors import UserError, renamed, unknown_name
from robust_lowrank.initialisation import Init, factor, gain_of
from robust_lowrank.layers import Adapter, named_factored_layers
from robust_lowrank.layers.forms import Dense, Form, form_of, is_dense, kind_of, matrix_of
from robust_lowrank.linalg import FactorisationError
from robust_lowrank.methods import Method, resolve
from robust_lowrank.methods.base import Use
from robust_lowrank.ranks import Candidate, RankLike, assign_ranks, pattern
from robust_lowrank.records import Parameters

if TYPE_CHECKING:
    import pandas as pd


_WITH_WEIGHTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_TYPES = [each.__name__ for each in get_args(Dense)]


@dataclass(frozen=True)
class CompressionReport:
    """The layers that `compress` factored, those it kept dense and why, and the parameter counts after it.

    Attributes:
        relative_error: for each factored layer ||W_factored - W|| / ||W||, which truncation and the method's constraint cost; NaN
            when the start is drawn anew.
    """

    ranks: dict[str, int]
    kept_dense: dict[str, str]
    relative_error: dict[str, float]
    parameters: Parameters = field(repr=False)


@renamed(start="init")
def compress(
    model: nn.Module,
    *,
    method: str | Method = "condlr",
    rank: RankLike | None = None,
    exclude: Sequence[str] = (),
    init: Init = "weights",
) -> CompressionReport:
    """Replace the linear layers and convolutions of a network by factored ones, in place.

    Args:
        model: any network; keys of the state dict stay the same outside the layers that are replaced.
        method: a name such as `condlr`, or an object such as `CondLR(tau=0.1)`.
        rank: an int, a float in (0, 1] as the fraction of the full rank, rounded up, a `Rank` with exceptions,
            or a `Budget` of parameters; 0.25 if not given.
        exclude: regular expressions; a layer whose full name matches one stays dense.
        init: `weights` keeps the leading singular triplets of each weight. Training from scratch begins with new factors:
            `gaussian` draws the bases at random and singular values |N(0, 1)|, as the authors' codes of CondLR and DLRT do;
            `kaiming` takes the leading triplets of a Kaiming-normal weight, scaled to its norm, or, in a network with
            normalisation layers, to that of torch's own start.

    Compress before making the optimizer, which is to be a `LowRankOptimizer`: another one moves the factors by gradients that are
    not theirs. Factors of a weight that does not require gradients do not require them either.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> compress(net, method="condlr", rank=0.5, exclude=["2"]).ranks
        {'0': 4}

    Raises:
        UserError: an unknown method or init, a weight that cannot be factored, a rank below 1 or above a layer's full rank, a
            pattern that is no regular expression or matches nothing, or a network in which nothing is left to factor. The network
            is then as it was.
    """
    if init not in get_args(Init):
        raise unknown_name("init", str(init), get_args(Init))
    plan = make_plan(model, method, rank, exclude, use="weights" if init == "weights" else "drawn")
    if plan.method.adapter:
        raise UserError(f"{plan.method.name} updates a frozen weight: take adapt, or from scratch a method such as vanilla")
    errors, built, gain = {}, {}, gain_of(model)
    for name, layer in plan.targets:
        try:
            built[name], errors[name] = factor(layer, plan.ranks[name], plan.method, init, gain)
        except FactorisationError as error:
            raise UserError(
                f"layer {name!r} cannot be factored: {error}. Exclude it, or take init='kaiming', which needs no weight"
            ) from error
    for name, layer in built.items():
        install(model, name, layer)
    return CompressionReport(
        ranks={name: layer.rank for name, layer in named_factored_layers(model)},
        kept_dense=plan.kept,
        relative_error=errors,
        parameters=count_parameters(model),
    )


def plan(
    model: nn.Module, *, method: str | Method = "condlr", rank: RankLike | None = None, exclude: Sequence[str] = ()
) -> "pd.DataFrame":
    """Return a table of what `compress` would do, a row a layer; the network is not touched.

    Columns: layer, kind, rows, columns, rank, params, params_dense, kept_dense (the reason, or empty).
    """
    import pandas as pd

    planned = make_plan(model, method, rank, exclude, use="weights")
    rows = []
    for name, layer in candidates(model):
        n, m = matrix_of(layer).shape
        chosen = planned.ranks.get(name)
        rows.append(
            {
                "layer": name,
                "kind": kind_of(layer),
                "rows": n,
                "columns": m,
                "rank": chosen[0] if chosen else min(n, m),
                "params": n * m if chosen is None else form_of(planned.method).count(layer, chosen),
                "params_dense": n * m,
                "kept_dense": planned.kept.get(name, ""),
            }
        )
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Plan:
    """A compression that is about to be done: its method, layers and ranks, and why it leaves the others."""

    method: Method
    targets: list[Candidate]
    ranks: dict[str, tuple[int, ...]]
    kept: dict[str, str]


def make_plan(model: nn.Module, method: str | Method, rank: RankLike | None, exclude: Sequence[str], *, use: Use) -> Plan:
    """Return the plan of a compression, its method with the defaults that suit what the factors start from.

    Raises:
        UserError: as `compress`.
    """
    resolved = resolve(method).with_defaults_for(use)
    exclude = [exclude] if isinstance(exclude, str) else exclude
    targets, kept = targets_of(model, exclude, form_of(resolved))
    if not targets:
        done = any(named_factored_layers(model))
        nothing = "its layers are factored already" if done else f"it has no {' or '.join(_TYPES)}"
        reasons = "; ".join(f"{name}: {reason}" for name, reason in kept.items()) or nothing
        raise UserError(f"no layer of the network can be factored ({reasons})")
    resolved.check(len(targets), kernels=sum(kind_of(layer) == "conv" for _, layer in targets))
    return Plan(resolved, targets, assign_ranks(targets, resolved, rank), kept)


def install(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one of that name."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)


def candidates(model: nn.Module) -> Iterator[tuple[str, Dense]]:
    """Yield the names and modules of the linear layers and convolutions."""
    return ((name, module) for name, module in model.named_modules() if is_dense(module))


def targets_of(model: nn.Module, exclude: Sequence[str], form: Form) -> tuple[list[Candidate], dict[str, str]]:
    """Return the layers to factor, and the reasons why others stay dense."""
    patterns = [pattern(text, "exclude") for text in exclude]
    unused = set(exclude)
    shared = _shared_parameters(model)
    frozen = {f"{name}.base" for name, module in model.named_modules() if isinstance(module, Adapter)}
    targets: list[Candidate] = []
    kept: dict[str, str] = {}
    for name, layer in candidates(model):
        hits = [p.pattern for p in patterns if p.fullmatch(name)]
        unused.difference_update(hits)
        if not name:
            kept[name] = "it is the whole network: wrap it in nn.Sequential"
        elif hits:
            kept[name] = f"excluded by '{hits[0]}'"
        elif reason := form.refusal(layer):
            kept[name] = reason
        elif id(layer.weight) in shared:
            kept[name] = "its weight is shared with another layer"
        elif name in frozen:
            kept[name] = "it is the frozen base of an adapter"
        elif layer._forward_hooks or layer._forward_pre_hooks:
            kept[name] = "it has hooks, which a factored layer would not have"
        else:
            targets.append(Candidate(name, layer))
    if unused:
        names = ", ".join(name for name, _ in candidates(model))
        raise UserError(f"exclude {sorted(unused)} matches no layer; there are: {names}")
    for name, module in model.named_modules():
        if isinstance(module, _WITH_WEIGHTS) and not is_dense(module):
            kept[name] = f"it is a {type(module).__name__}, not a plain {' or '.join(f'nn.{each}' for each in _TYPES)}"
        if isinstance(module, nn.MultiheadAttention):
            kept[name] = "nn.MultiheadAttention holds its projections in one fused weight: give the network separate nn.Linear ones"
    return targets, kept


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


def _shared_parameters(model: nn.Module) -> set[int]:
    seen: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    return {key for key, count in seen.items() if count > 1}
