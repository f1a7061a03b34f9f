"""AutoAttack by its own package, with everything around it that upstream leaves open: classes, shapes, types, NaN, states."""

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.meter import Meter
from robust_lowrank.evaluation.target import Target
from robust_lowrank.evaluation.threat import L1, L2, Linf, Threat
from robust_lowrank.evaluation.verdict import Check, check

STANDARD_TARGETS = 9


class Plan(NamedTuple):
    """What of the standard ensemble a model allows."""

    name: str  # "autoattack" if it is the standard
    parts: tuple[str, ...]  # upstream's names, in upstream's order
    targets: int  # target classes of APGD-T and FAB-T
    view: tuple[int, int, int]  # the shape in which upstream sees an input

    @property
    def remarks(self) -> tuple[str, ...]:
        """How it differs from the standard, as flags of a verdict."""
        return (f"targets={self.targets}",) if self.targets < STANDARD_TARGETS else ()


def plan(classes: int, shape: tuple[int, ...], threat: Threat) -> Plan:
    """Return what of AutoAttack standard exists for so many classes and such inputs.

    Below 10 classes there are fewer targets. The targeted difference of logits ratio needs four logits: with three classes
    the untargeted one takes its place, with two there is none. Upstream's Square for L2 fails on some sizes of images: such
    inputs are seen in another shape, or Square is left out. Whatever is not the standard bears its own name.

    Raises:
        UserError: the threat model is L1, whose standard has other restarts and targets.
    """
    if isinstance(threat, L1):
        raise UserError("AutoAttack is run for Linf and L2 only: for L1, take a suite of native attacks such as pgd")
    targets = min(STANDARD_TARGETS, classes - 1)
    view = _view(shape, threat)
    parts = [part for part in ("apgd-ce", "apgd-t", "fab-t", "square") if part != "square" or view is not None]
    if classes < 4:
        parts[1:2] = ["apgd-dlr"] if classes == 3 else []
    complete = {"apgd-t", "square"} <= set(parts)
    if complete and targets == STANDARD_TARGETS:
        name = "autoattack"
    elif complete:
        name = f"autoattack-{targets}-targets"
    else:
        name = "+".join(parts)
    return Plan(name, tuple(parts), targets, view or (1, 1, math.prod(shape)))


class Outcome(NamedTuple):
    """What the ensemble did; every tensor has a row an example and lives on the CPU."""

    check: Check
    nonfinite: Tensor  # bool: finite inputs met logits or gradients that are not
    forwards: Tensor  # int64; exact for examples that hold, the mean of the rest of their batch for broken ones
    backwards: Tensor
    by: list[str]  # the part that broke the example, "" if none did
    rejected: Tensor  # bool: upstream claimed a success that the check did not confirm


def autoattack(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int,
    batch_size: int,
    meter: Meter | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Outcome:
    """Run the parts of AutoAttack standard one after the other, each on the examples that the check has not seen broken before.

    `x` and `y` are examples that the clean model gets right. Seeds, batches and order are upstream's, so the verdicts are those
    of `run_standard_evaluation` on the same examples; only a success that the check does not confirm stays in play. Upstream
    draws its noise by batch: a verdict can depend on `batch_size`, which is why records name it.

    Source: Croce and Hein 2020 (arXiv 2003.01690), package pyautoattack.
    """
    scheme = plan(target.classes, tuple(x.shape[1:]), threat)
    witness = Witness(target, threat, tuple(x.shape[1:]), meter)
    final = _untouched(x, y)
    nonfinite, rejected = torch.zeros(len(y), dtype=torch.bool), torch.zeros(len(y), dtype=torch.bool)
    spent = torch.zeros(2, len(y), dtype=torch.int64)
    by = [""] * len(y)
    with _upstream(witness, threat, scheme, seed, target.device) as upstream:
        for position, part in enumerate(scheme.parts):
            upstream.attacks_to_run = [part]
            left = (~final.broken).nonzero().squeeze(1)
            batches = left.split(batch_size) if len(left) else ()
            for number, rows in enumerate(batches):
                if progress:
                    progress((position + number / len(batches)) / len(scheme.parts), part)
                clean, labels = x[rows].to(target.device), y[rows].to(target.device)
                witness.watch(clean)
                proposed, _ = upstream.run_standard_evaluation(
                    clean.float().reshape(-1, *scheme.view), labels, batch_size=len(rows)
                )
                seen = check(target, clean, labels, proposed.reshape(clean.shape), threat)
                broken = seen.broken.cpu()
                for row in rows[broken].tolist():
                    by[row] = part
                nonfinite[rows] |= witness.nonfinite.cpu()
                spent[:, rows] += witness.spent(broken)
                moved = (proposed != clean.float().reshape(proposed.shape)).flatten(1).any(dim=1).cpu()
                rejected[rows] |= moved & ~broken
                for kept, new in zip(final, seen, strict=True):
                    kept[rows[broken]] = new.cpu()[broken].to(kept.dtype)
    return Outcome(final, nonfinite, spent[0], spent[1], by, rejected & ~final.broken)


class Witness(nn.Module):
    """A target in upstream's shape and type, which counts its evaluations and notices what is not finite."""

    def __init__(self, target: Target, threat: Threat, shape: tuple[int, ...], meter: Meter | None = None) -> None:
        super().__init__()
        self.target, self.threat, self.shape, self.meter = target, threat, shape, meter or Meter()
        self.watch(None)

    def watch(self, clean: Tensor | None) -> None:
        """Begin to watch a batch of clean inputs: their example owns what is seen from now on."""
        self._clean = clean
        self.nonfinite = torch.zeros(0 if clean is None else len(clean), dtype=torch.bool)
        self._calls, self._rows = [0, 0], [0, 0]

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 logits of their own memory, as Square writes into them; Square's empty batches do not reach the model."""
        if len(x) == 0:
            return x.new_zeros(0, self.target.classes)
        self.meter.count(x)
        inputs = x.reshape(-1, *self.shape)
        logits = self.target(inputs).float().clone()
        self._count(0, len(x))
        self._notice(inputs, logits)
        if x.requires_grad and torch.is_grad_enabled():
            inputs.register_hook(lambda gradient: self._see_gradient(inputs.detach(), gradient))
        return logits

    def spent(self, broken: Tensor) -> Tensor:
        """Return forwards and backwards an example, (2, N): every call for those that hold, a mean of the rest for the others."""
        calls, rows = torch.tensor(self._calls), torch.tensor(self._rows)
        held = int((~broken).sum())
        share = (rows - held * calls).clamp(min=0) // max(int(broken.sum()), 1)
        return torch.where(broken, share[:, None], calls[:, None])

    def _count(self, kind: int, rows: int) -> None:
        self._calls[kind] += 1
        self._rows[kind] += rows

    def _see_gradient(self, inputs: Tensor, gradient: Tensor) -> None:
        self._count(1, len(inputs))
        self._notice(inputs, gradient)

    def _notice(self, inputs: Tensor, values: Tensor) -> None:
        if self._clean is None or bool(values.detach().sum().isfinite()):
            return
        guilty = inputs.isfinite().flatten(1).all(dim=1) & ~values.isfinite().flatten(1).all(dim=1)
        if len(inputs) == len(self._clean):
            self.nonfinite |= guilty.cpu()
            return
        for point in inputs[guilty].detach():
            distance = self.threat.distance(self._clean, point.expand_as(self._clean))
            self.nonfinite |= (distance <= max(self.threat.eps, float(distance.min()))).cpu()


def parameters(scheme: Plan) -> dict[str, Any]:
    """Return what upstream runs, as upstream itself has it: parts, targets, iterations, queries and restarts."""
    with _upstream(nn.Identity(), Linf(1.0), scheme, 0, torch.device("cpu")) as upstream:
        return {
            "version": f"{upstream.version}, pyautoattack {metadata.version('pyautoattack')}",
            "parts": list(scheme.parts),
            "targets": scheme.targets,
            "view": list(scheme.view),
            "apgd_steps": upstream.apgd.n_iter,
            "fab_steps": upstream.fab.n_iter,
            "square_queries": upstream.square.n_queries,
            "restarts": [part.n_restarts for part in (upstream.apgd, upstream.apgd_targeted, upstream.fab, upstream.square)],
        }


@contextmanager
def _upstream(model: nn.Module, threat: Threat, scheme: Plan, seed: int, device: torch.device) -> Iterator:
    """Yield upstream's AutoAttack standard with the targets of the plan; its logger is silent and a debugger's trace survives."""
    import pyautoattack

    norm: Any = threat.norm
    logger, trace = logging.getLogger("auto-attack"), sys.gettrace()
    disabled, logger.disabled = logger.disabled, True
    try:
        upstream = pyautoattack.AutoAttack(model, norm=norm, eps=threat.eps, seed=seed, version="standard", device=device)
        upstream.verbose = False
        upstream.apgd_targeted.n_target_classes = upstream.fab.n_target_classes = scheme.targets
        yield upstream
    finally:
        logger.disabled = disabled
        sys.settrace(trace)


def _untouched(x: Tensor, y: Tensor) -> Check:
    count = len(y)
    return Check(
        inputs=x.detach().cpu().clone(),
        broken=torch.zeros(count, dtype=torch.bool),
        finite=torch.ones(count, dtype=torch.bool),
        prediction=y.cpu().clone(),
        margin=torch.full((count,), torch.nan, dtype=torch.float64),
        distance=torch.full((count,), torch.nan, dtype=torch.float64),
    )


def _view(shape: tuple[int, ...], threat: Threat) -> tuple[int, int, int] | None:
    """Return the shape of an input itself if upstream's Square takes it, else the most square one that it takes, else None."""
    features = math.prod(shape)
    heights = (h for h in range(math.isqrt(features), 0, -1) if features % h == 0)
    candidates = [shape] if len(shape) == 3 else []
    candidates += [(1, height, features // height) for height in heights]
    return next((view for view in candidates if not isinstance(threat, L2) or _square_l2_takes(*view[1:])), None)


def _square_l2_takes(height: int, width: int) -> bool:
    """Say whether Square's first tiling for L2 fits: it lays height // side tiles from an offset, cutting none unless of side 1."""
    side = height // 5
    offset = (height - 5 * side) // 2
    return side > 0 and (side == 1 or all(offset + (length // side) * side <= length for length in (height, width)))
