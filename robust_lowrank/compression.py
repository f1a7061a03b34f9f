"""Compression puts factors in the place of a network's matrices, and counts the saving."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin  # pyright: ignore[reportAttributeAccessIssue]

from robust_lowrank.candidates import Candidate, Matrix, Seen, find
from robust_lowrank.choices import Choices
from robust_lowrank.errors import UserError, renamed, unknown_name
from robust_lowrank.initialisation import Init, factor, gain_of
from robust_lowrank.installation import install, require_in_use, require_the_same, undoing
from robust_lowrank.latency import Latency, assign_by_latency, timed_again
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.layers.forms import form_of, kind_of
from robust_lowrank.linalg import FactorisationError
from robust_lowrank.methods import Method, resolve
from robust_lowrank.methods.base import Use
from robust_lowrank.observation import Observation, observe
from robust_lowrank.optim.misfits import watch
from robust_lowrank.ranks import Assigned, Budget, RankLike, assign_ranks
from robust_lowrank.records import Parameters
from robust_lowrank.showing import Showable, Shown
from robust_lowrank.submodules import uncompiled

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class CompressionReport(Showable):
    """The layers that `compress` factored, the matrices it kept dense and why, and the parameter counts after it.

    It prints as a table of these.

    Attributes:
        merged: of the factored layers those whose weight is formed in every forward pass, and why.
        clipped: the ranks of those whose full rank is less than the one that was given.
        relative_error: for each factored layer ||W_factored - W|| / ||W||, which truncation and the method's constraint cost; NaN
            when the start is drawn anew.
        latency: of a `Budget` of milliseconds those allowed, those of the dense network, and those of the one with factors.
    """

    ranks: dict[str, int]
    kept_dense: dict[str, str]
    relative_error: dict[str, float]
    parameters: Parameters = field(repr=False)
    merged: dict[str, str] = field(default_factory=dict)
    clipped: dict[str, int] = field(default_factory=dict)
    latency: Latency | None = None

    def shown(self) -> Shown:
        """Return a row a matrix: its rank, what the factors miss of the weight, and why it is merged or dense."""
        errors = {name: "new" if math.isnan(error) else f"{error:.2g}" for name, error in self.relative_error.items()}
        rows = [[name, str(rank), errors.get(name, "was there")] for name, rank in self.ranks.items()]
        rows += [[name, "dense", ""] for name in self.kept_dense]
        total, dense = self.parameters.inference, self.parameters.dense
        title = f"{len(self.ranks)} layers in factors: {total:,} parameters for inference, {100 * total / dense:.1f} % of {dense:,}"
        notes = [f"{name} is merged in every pass: {why}" for name, why in self.merged.items()]
        notes += [f"{name} stays dense: {why}" for name, why in self.kept_dense.items()]
        notes += [f"{name}: {rank} is its full rank, less than what was asked for" for name, rank in self.clipped.items()]
        if self.latency is not None:
            notes.append("a pass takes {2:.3g} ms of {0:.3g} allowed; the dense network takes {1:.3g}".format(*self.latency))
        return Shown(title, ["layer", "rank", "relative error"], rows, notes)


@renamed(start="init")
def compress(
    model: nn.Module,
    *,
    method: str | Method = "condlr",
    rank: RankLike | None = None,
    exclude: Choices = (),
    include: Choices | None = None,
    init: Init = "weights",
    example_input: Any = None,
) -> CompressionReport:
    """Put factors in the place of a network's matrices, in place.

    Linear layers and convolutions become chains of thin factors. Every other parameter that is a matrix, or a stack of some, is
    merged: recurrent weights, the fused projection of an attention (a block each for q, k and v), experts, grouped and transposed
    convolutions, and layers of classes with a forward of their own. It is formed of its factors in every forward pass, through
    `torch.nn.utils.parametrize`. Both have the `weight` and the attributes that the layer had.

    Args:
        model: any network; keys of the state dict stay the same outside the layers that are replaced.
        method: a name such as `condlr`, or an object such as `CondLR(tau=0.1)`.
        rank: an int, a float in (0, 1] as the fraction of the full rank, rounded up, a `Rank` with exceptions,
            or a `Budget` of parameters or, with an example input, of milliseconds; 0.25 if not given.
            Layers that would grow, as r (n + m) exceeds n m, stay dense, unless the rank is 1.0, an exception of `Rank` names
            them, or the method adapts the rank. No layer has more than its full rank.
        exclude: what stays dense: regular expressions of full names of layers or parameters, types of modules, and functions of a
            name and a module that return a truth value.
        include: likewise the only ones to be factored, also those that stay dense by default: embeddings, shared weights, and
            parameters of modules that may be no matrices of linear maps.
        init: `weights` keeps the leading singular triplets of each weight. Training from scratch begins with new factors:
            `gaussian` draws the bases at random and singular values |N(0, 1)|, as the authors' codes of CondLR and DLRT do;
            `kaiming` takes the leading triplets of a Kaiming-normal weight, scaled to its norm, or, in a network with
            normalisation layers, to that of torch's own start.
        example_input: what the network is called with, a tensor, a tuple or a mapping. It is then run once in training and in
            evaluation mode before anything is changed: which tells layers whose weights others read, parameters that are
            matrices of linear maps, and those that take no part; and it is run again in both modes afterwards.

    Compress before making the optimizer, which is to be a `LowRankOptimizer`: another one moves the factors by gradients that are
    not theirs. Factors of a weight that does not require gradients do not require them either.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> compress(net, method="condlr", rank=0.5, exclude=["2"]).ranks
        {'0': 4}

    Raises:
        UserError: an unknown method or init, a weight that cannot be factored, a rank below 1, a pattern that is no regular
            expression or matches nothing, or a network in which nothing is left to factor. The network is then as it was.
    """
    model = uncompiled(model)
    if init not in get_args(Init):
        raise unknown_name("init", str(init), get_args(Init))
    seen = None if example_input is None else observe(model, example_input).seen
    use = "weights" if init == "weights" else "drawn"
    plan = make_plan(model, method, rank, exclude, include, use=use, seen=seen, example_input=example_input)
    errors, built, gain = {}, {}, gain_of(model)
    for candidate in plan.targets:
        name = candidate.name
        try:
            built[name], errors[name] = factor(candidate.layer, plan.ranks[name], plan.method, init, gain)
        except FactorisationError as error:
            raise UserError(
                f"layer {name!r} cannot be factored: {error}. Exclude it, or take init='kaiming', which needs no weight"
            ) from error
    with undoing() as undo:
        install(model, plan.targets, built, undo)
        if example_input is not None:
            require_in_use(model, example_input, plan.targets)
            require_the_same(model, example_input)
        latency = plan.latency
        if latency is not None and isinstance(rank, Budget):
            latency = timed_again(model, latency, rank, example_input)
    watch(built.values(), (candidate.layer.weight for candidate in plan.targets if not candidate.why))
    return report_of(model, plan, errors, latency)


def report_of(model: nn.Module, plan: "Plan", errors: dict[str, float], latency: Latency | None = None) -> CompressionReport:
    """Return what has been done to a network by a plan, and how long a pass takes now."""
    return CompressionReport(
        ranks={name: layer.rank for name, layer in named_factored_layers(model)},
        kept_dense=plan.kept,
        relative_error=errors,
        parameters=count_parameters(model),
        merged={candidate.name: candidate.why for candidate in plan.targets if candidate.why},
        clipped=plan.clipped,
        latency=latency,
    )


def plan(
    model: nn.Module,
    *,
    method: str | Method = "condlr",
    rank: RankLike | None = None,
    exclude: Choices = (),
    include: Choices | None = None,
    example_input: Any = None,
) -> "pd.DataFrame":
    """Return a table of what `compress` would do, a row a matrix of the network, which is not touched.

    Columns: layer, kind (`linear`, `conv` or `merged`), form (`chain`, `merged` or `dense`), rows, columns, rank, params (that
    are trained), params_inference (that are left when cores are part of their neighbours), params_dense, why (it is merged),
    kept_dense (the reason, or empty). With `example_input` also what its module does in one pass in evaluation mode: calls,
    milliseconds, mflops, and mflops_factored of it at that rank. With a `Budget` of milliseconds its `attrs["latency"]` has
    those of the whole network: allowed, dense, and with factors.

    Example:
        >>> plan(nn.Sequential(nn.Linear(40, 30), nn.ReLU()), rank=0.2)[["layer", "form", "rank", "params"]].values.tolist()
        [['0', 'chain', 6, 456]]
    """
    import pandas as pd

    model = uncompiled(model)
    observation = None if example_input is None else observe(model, example_input)
    seen = None if observation is None else observation.seen
    planned = make_plan(model, method, rank, exclude, include, use="weights", seen=seen, example_input=example_input)
    rows = []
    for matrix in planned.matrices:
        for candidate in matrix.candidates or [None]:
            row = _row(matrix, candidate, planned)
            rows.append(row if observation is None else row | _costs(matrix, row, observation))
    table = pd.DataFrame(rows)
    if planned.latency is not None:
        table.attrs["latency"] = planned.latency._asdict()
    return table


def _row(matrix: Matrix, candidate: Candidate | None, plan: "Plan") -> dict[str, object]:
    name = matrix.name if candidate is None else candidate.name
    form = form_of(plan.method)
    tensor = matrix.tensor if candidate is None else form.weight(candidate.layer)
    n, m = (0, 0) if isinstance(tensor, UninitializedTensorMixin) else (len(tensor), tensor.numel() // max(len(tensor), 1))
    chosen = None if candidate is None else plan.ranks.get(name)
    return {
        "layer": name,
        "kind": "dense" if candidate is None else kind_of(candidate.layer),
        "form": "dense" if candidate is None or chosen is None else "merged" if candidate.why else "chain",
        "rows": n,
        "columns": m,
        "rank": chosen[0] if chosen else min(n, m),
        "params": n * m if candidate is None or chosen is None else form.count(candidate.layer, chosen),
        "params_inference": n * m if candidate is None or chosen is None else form.at_inference(candidate.layer, chosen),
        "params_dense": n * m,
        "why": "" if candidate is None or chosen is None else candidate.why,
        "kept_dense": plan.kept.get(name, ""),
    }


def _costs(matrix: Matrix, row: dict[str, Any], observation: Observation) -> dict[str, Any]:
    """Return what the module of a matrix costs in one pass; a chain needs r (n + m) of n m operations, a merge some more."""
    name, module, _ = matrix.places[0]
    flops = observation.flops.get(name, 0)
    n, m, r = row["rows"], row["columns"], row["rank"]
    factored = {"chain": flops * r * (n + m) / (n * m), "merged": flops + 2 * r * n * m, "dense": flops}[row["form"]]
    return {
        "calls": observation.seen.calls.get(id(module), 0),
        "milliseconds": 1000 * observation.seconds.get(name, 0.0),
        "mflops": flops / 1e6,
        "mflops_factored": factored / 1e6,
    }


@dataclass(frozen=True)
class Plan:
    """A compression that is about to be done: its method, layers and ranks, and why it leaves the others."""

    method: Method
    matrices: list[Matrix]
    targets: list[Candidate]
    ranks: dict[str, tuple[int, ...]]
    kept: dict[str, str]
    clipped: dict[str, int]
    latency: Latency | None = None


def make_plan(
    model: nn.Module,
    method: str | Method,
    rank: RankLike | None,
    exclude: Choices = (),
    include: Choices | None = None,
    *,
    use: Use,
    seen: Seen | None = None,
    adding: str | None = None,
    example_input: Any = None,
) -> Plan:
    """Return the plan of a compression, its method with the defaults that suit what the factors start from.

    Args:
        example_input: what a budget of milliseconds is measured on.

    Raises:
        UserError: as `compress`.
    """
    if torch.is_inference_mode_enabled():
        raise UserError("factors made in inference mode cannot be trained: leave torch.inference_mode first")
    resolved = resolve(method).with_defaults_for(use)
    if resolved.adapter and use != "adapter":
        raise UserError(f"{resolved.name} updates a frozen weight: take adapt, or from scratch a method such as vanilla")
    matrices = find(model, form_of(resolved), exclude=exclude, include=include, seen=seen, adding=adding)
    kept = {matrix.name: matrix.kept for matrix in matrices if matrix.kept}
    found = [candidate for matrix in matrices for candidate in matrix.candidates]
    assigned, latency = Assigned({}, {}, {}), None
    if found and resolved.ranked and isinstance(rank, Budget) and rank.latency_ms is not None and use != "adapter":
        assigned, latency = assign_by_latency(model, found, resolved, rank, example_input)
    elif found:
        assigned = assign_ranks(found, resolved, rank, grow=use == "adapter")
    whole = [matrix for matrix in matrices if not any(each.name in assigned.kept for each in matrix.candidates)]
    targets = [candidate for matrix in whole for candidate in matrix.candidates]
    for matrix in matrices:
        for candidate in matrix.candidates if matrix not in whole else ():
            kept[candidate.name] = assigned.kept.get(candidate.name, "another block of its parameter stays dense")
    if not targets:
        done = any(named_factored_layers(model))
        nothing = "its layers are factored already" if done else "it has no parameter of two dimensions"
        reasons = "; ".join(f"{name}: {reason}" for name, reason in kept.items()) or nothing
        raise UserError(f"no layer of the network can be factored ({reasons})")
    resolved.check(len(targets), kernels=sum(kind_of(candidate.layer) == "conv" for candidate in targets))
    names = {candidate.name for candidate in targets}
    chosen = {name: ranks for name, ranks in assigned.ranks.items() if name in names}
    clipped = {name: rank for name, rank in assigned.clipped.items() if name in names}
    return Plan(resolved, matrices, targets, chosen, kept, clipped, latency)


def count_parameters(model: nn.Module) -> Parameters:
    """Return the parameter counts of a network, those of its factored layers set against the dense ones."""
    layers = [layer for _, layer in named_factored_layers(model)]
    total = sum(each.numel() for each in model.parameters() if not isinstance(each, UninitializedTensorMixin))
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
