"""AutoAttack runs by its own package; what upstream leaves open is settled: classes, shapes, types, NaN."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.apgd import STEPS, TARGETS, apgd_starts
from robust_lowrank.evaluation.attacks.base import RESERVED, JointAttack, JointTask
from robust_lowrank.evaluation.attacks.square import QUERIES
from robust_lowrank.evaluation.attacks.upstream.counted import CountedModel
from robust_lowrank.evaluation.attacks.view import View, image_view, square_view
from robust_lowrank.evaluation.network.meter import Meter
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.evaluation.unit_result import Attempt, UnitResult
from robust_lowrank.evaluation.verdict import Check, check
from robust_lowrank.extras import needed
from robust_lowrank.threat import Threat

EOT = 20  # draws that version rand averages over
AROUND = 5  # passes, about, that upstream spends before and after each run
VERSIONS: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}
Version = Literal["standard", "plus", "rand"]
VARIANTS: tuple[str, ...] = tuple(f"{RESERVED}-{version}" for version in VERSIONS if version != "standard")
UNTARGETED: tuple[str, ...] = tuple(f"{RESERVED}-{version}" for version, parts in VERSIONS.items() if "fab-t" not in parts)


class AutoAttack(JointAttack):
    """AutoAttack as published: APGD-CE, targeted APGD, targeted FAB and Square with upstream's iteration counts.

    Version `plus` has more parts and restarts; `rand`, for randomised networks, averages gradients over several draws.
    """

    attack: Literal["autoattack"] = "autoattack"
    turn: ClassVar[int] = 120
    title: ClassVar[str | None] = "AutoAttack"
    ensemble: ClassVar[bool] = True
    engine: Literal["pyautoattack"] = "pyautoattack"
    version: Version = "standard"

    @classmethod
    def of_record(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the fields: results write upstream's version behind that of the attack."""
        return values | {"version": str(values.get("version")).partition(",")[0]}

    @property
    def label(self) -> str:
        """The name in results, where the model has classes enough for the standard targets."""
        return RESERVED if self.version == "standard" else f"{RESERVED}-{self.version}"

    def named(self, classes: int, shape: tuple[int, ...], threat: Threat) -> str:
        """Return a name of its own for what is not the standard."""
        return plan(classes, shape, threat, self.version).name

    def require(self) -> None:
        """Require pyautoattack."""
        _package()

    def cost(self, classes: int, norm: str) -> int:
        """Return the passes of all parts."""
        sparse = norm == "L1"  # five restarts, and five targets for APGD
        targets, run = min(TARGETS, classes - 1), 2 * (STEPS + apgd_starts(norm))
        runs = 5 + min(5, targets) if sparse else 1 + targets
        standard = run * runs + 3 * STEPS * targets + QUERIES + AROUND * (runs + targets)
        plus = 4 * run + 5 * run + 5 * (2 + classes) * STEPS  # five restarts of APGD-CE and DLR, and of untargeted FAB
        return {"standard": standard, "plus": standard + plus, "rand": 2 * EOT * run}[self.version]

    def settings(self, classes: int, shape: tuple[int, ...], threat: Threat) -> dict[str, Any]:
        """Return what upstream itself has."""
        return parameters(plan(classes, shape, threat, self.version))

    def find(self, task: JointTask) -> UnitResult:
        """Run upstream's parts."""
        started = time.perf_counter()
        seen, nonfinite, forwards, backwards, by, rejected = autoattack(
            task.target,
            task.x,
            task.y,
            task.threat,
            seed=task.seed,
            batch_size=task.batch_size,
            version=self.version,
            meter=task.meter,
            progress=task.report,
        )
        attempt = Attempt(seen.inputs, rejected, nonfinite, forwards, backwards, by)
        remarks = plan(task.target.classes, tuple(task.x.shape[1:]), task.threat, self.version).remarks
        return UnitResult.of(task.rows, attempt, seen, time.perf_counter() - started, remarks)


class Plan(NamedTuple):
    """The parts of a version that a model allows."""

    name: str  # "autoattack" if it is the standard
    version: Version
    norm: str
    parts: tuple[str, ...]  # upstream's names, in upstream's order
    targets: int  # target classes of FAB-T, and of APGD-T except for L1, where upstream has five
    view: View  # the shape in which upstream sees an input

    @property
    def remarks(self) -> tuple[str, ...]:
        """Its differences from the published one, as flags of a verdict."""
        return (f"targets={self.targets}",) if self.targets < TARGETS and "fab-t" in self.parts else ()


def plan(classes: int, shape: tuple[int, ...], threat: Threat, version: Version = "standard") -> Plan:
    """Return what of a version of AutoAttack exists for so many classes and such inputs.

    `plus` adds untargeted APGD-DLR and FAB and has five restarts of the untargeted parts; `rand`, for randomised models, is
    untargeted APGD with gradients averaged over 20 draws.

    Below 10 classes there are fewer targets. The targeted difference of logits ratio needs four logits, the untargeted one three:
    with three classes it takes the place of the targeted one, with two there is none. Upstream's Square for L2 and L1 fails on
    some sizes of images: such inputs are seen in another shape, or Square is left out. Whatever is not what was published bears
    its own name.

    Example:
        >>> plan(10, (3, 32, 32), Linf(8 / 255)).name, plan(4, (3, 32, 32), Linf(8 / 255), "plus").name
        ('autoattack', 'autoattack-plus-3-targets')
    """
    published = VERSIONS[version]
    targets = min(TARGETS, classes - 1)
    view = square_view(shape, threat.norm) if "square" in published else image_view(shape)
    impossible = {"square"} if view is None else set()
    if classes < 4:
        impossible |= {"apgd-t"} | ({"apgd-dlr"} if classes < 3 else set())
    parts = [part for part in published if part not in impossible]
    if classes == 3 and "apgd-dlr" not in parts:
        parts.insert(1, "apgd-dlr")
    variant = "" if version == "standard" else f"{version}-"
    if tuple(parts) != published:
        name = variant + "+".join(parts)
    elif "fab-t" in parts and targets < TARGETS:
        name = f"autoattack-{variant}{targets}-targets"
    else:
        name = f"autoattack-{variant}".removesuffix("-")
    return Plan(name, version, threat.norm, tuple(parts), targets, view or image_view(shape))


class Outcome(NamedTuple):
    """The ensemble's result; every tensor has a row an example and lives on the CPU."""

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
    version: Version = "standard",
    meter: Meter | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> Outcome:
    """Run the parts of a version of AutoAttack one after the other, each on the examples that the check has not seen broken before.

    `x` and `y` are examples that the clean model gets right. Seeds, batches and order are upstream's, so the verdicts are those
    of `run_standard_evaluation` on the same examples; only a success that the check does not confirm stays in play. Upstream
    draws its noise by batch: a verdict can depend on `batch_size`, which is why records name it.

    Source: Croce and Hein 2020 (arXiv 2003.01690), package pyautoattack.
    """
    scheme = plan(target.classes, tuple(x.shape[1:]), threat, version)
    counted = CountedModel(target, threat, tuple(x.shape[1:]), meter)
    no, unknown = torch.zeros(len(y), dtype=torch.bool), torch.full((len(y),), torch.nan, dtype=torch.float64)
    final = Check(x.detach().cpu().clone(), no, ~no, y.cpu().clone(), unknown, unknown.clone())
    nonfinite, rejected = no.clone(), no.clone()
    spent = torch.zeros(2, len(y), dtype=torch.int64)
    by = [""] * len(y)
    with _upstream(counted, threat.eps, scheme, seed, target.device) as upstream:
        for position, part in enumerate(scheme.parts):
            upstream.attacks_to_run = [part]
            left = (~final.broken).nonzero().squeeze(1)
            batches = left.split(batch_size) if len(left) else ()
            for number, rows in enumerate(batches):
                if progress:
                    progress((position + number / len(batches)) / len(scheme.parts), part)
                clean, labels = x[rows].to(target.device), y[rows].to(target.device)
                counted.watch(clean)
                proposed, _ = upstream.run_standard_evaluation(
                    clean.float().reshape(-1, *scheme.view), labels, batch_size=len(rows)
                )
                seen = check(target, clean, labels, proposed.reshape(clean.shape), threat)
                broken = seen.broken.cpu()
                for row in rows[broken].tolist():
                    by[row] = part
                nonfinite[rows] |= counted.nonfinite.cpu()
                spent[:, rows] += counted.spent(broken)
                moved = (proposed != clean.float().reshape(proposed.shape)).flatten(1).any(dim=1).cpu()
                rejected[rows] |= moved & ~broken
                for kept, new in zip(final, seen, strict=True):
                    kept[rows[broken]] = new.cpu()[broken].to(kept.dtype)
    return Outcome(final, nonfinite, spent[0], spent[1], by, rejected & ~final.broken)


def parameters(scheme: Plan) -> dict[str, Any]:
    """Return what upstream runs, as upstream itself has it: parts, targets, iterations, queries and restarts of each part."""
    with _upstream(nn.Identity(), 1.0, scheme, 0, torch.device("cpu")) as upstream:
        restarts = {
            "apgd-ce": upstream.apgd.n_restarts,
            "apgd-dlr": upstream.apgd.n_restarts,
            "apgd-t": upstream.apgd_targeted.n_restarts,
            "fab": upstream.fab.n_restarts,
            "fab-t": 1,
            "square": upstream.square.n_restarts,
        }
        return {
            "version": f"{upstream.version}, pyautoattack {metadata.version('pyautoattack')}",
            "parts": list(scheme.parts),
            "targets": scheme.targets,
            "apgd_targets": upstream.apgd_targeted.n_target_classes,
            "view": list(scheme.view),
            "apgd_steps": upstream.apgd.n_iter,
            "apgd_draws": upstream.apgd.eot_iter,
            "apgd_from_larger_eps": upstream.apgd.use_largereps,
            "fab_steps": upstream.fab.n_iter,
            "square_queries": upstream.square.n_queries,
            "restarts": [restarts[part] for part in scheme.parts],
        }


def _package() -> Any:
    with needed("eval", "AutoAttack"):
        import pyautoattack
    return pyautoattack


@contextmanager
def _upstream(model: nn.Module, eps: float, scheme: Plan, seed: int, device: torch.device) -> Iterator:
    """Yield upstream's AutoAttack with no more targets than planned; its logger is silent and a debugger's trace survives."""
    pyautoattack = _package()
    norm: Any = scheme.norm
    logger, trace = logging.getLogger("auto-attack"), sys.gettrace()
    disabled, logger.disabled = logger.disabled, True
    try:
        upstream = pyautoattack.AutoAttack(model, norm=norm, eps=eps, seed=seed, version=scheme.version, device=device)
        upstream.verbose = False
        for part in (upstream.apgd_targeted, upstream.fab):
            part.n_target_classes = min(part.n_target_classes, scheme.targets)
        yield upstream
    finally:
        logger.disabled = disabled
        sys.settrace(trace)
