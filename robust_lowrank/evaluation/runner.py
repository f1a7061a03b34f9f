"""A suite runs against a model: the whole of it, a part of it, or only what identifies it."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from robust_lowrank.evaluation.network.classifier import Output, as_classifier
from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.evaluation.network.inputs import outside_inference
from robust_lowrank.evaluation.network.memory import observed
from robust_lowrank.evaluation.network.meter import Meter
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.evaluation.result import Evaluation
from robust_lowrank.evaluation.run import Progress, Run
from robust_lowrank.evaluation.suite import BATCH, EvalConfig, Suite
from robust_lowrank.records import ResultRecord, unlike
from robust_lowrank.threat import OBSERVED, frozen_eval


def evaluate(
    model: nn.Module | Callable[[Tensor], Any],
    x: Tensor,
    y: Tensor,
    *,
    suite: str | Path | Suite = "standard",
    eps: float | str | Sequence[float | str] | None = None,
    norm: str | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    offset: int = 0,
    gradients: bool = True,
    sources: Sequence[nn.Module] = (),
    max_passes: int | None = None,
    max_seconds: float | None = None,
    store: str | Path | None = None,
    progress: Progress | None = None,
    audit: bool = True,
    output: Output | None = None,
    fold: bool = True,
) -> Evaluation:
    """Attack a model with a suite and return its accuracies with intervals, a verdict for every example, and an audit.

    Example:
        >>> result = evaluate(model, x, y, suite="standard", eps=8 / 255, norm="Linf")
        >>> float(result.clean_accuracy), float(result.robust_accuracy)

    The model is attacked in evaluation mode on its own device; afterwards its modes, gradients and flags and all random states
    are as they were. Robust accuracy is still-correct ÷ all, in the worst case over the attacks for every example.

    Args:
        model: returns logits (N, classes) for inputs in [0, 1], or one logit of a binary model; normalisation belongs into it. Of
            a function that is no network the answers alone tell whether it is the same.
        x: inputs (N, ...) in [0, 1], float32 or float64.
        y: labels (N,), int64.
        suite: a name (`suite_names()`), a TOML file, or a `Suite`.
        eps: one budget or several for all attacks, such as `0.1` or `"8/255"`; without it, those of the suite.
        norm: "Linf", "L2" or "L1"; without it, that of the suite.
        seed: of all noise.
        batch_size: examples at a time. Verdicts of the native attacks do not depend on it; AutoAttack draws its noise by batch.
        offset: the number of the first example, where x and y are a part of a larger set: its verdicts are those that the whole set
            would have given.
        gradients: False for a network that has none; attacks that need them are then refused.
        sources: networks on which the attack "transfer" makes its inputs; without any it is left out.
        max_passes: forward and backward passes of one example that may be spent on attacks. Examples that are then not finished
            are unresolved: they widen the interval instead of counting as robust or broken.
        max_seconds: the same as a time.
        store: a directory for finished units of work; an evaluation that was stopped goes on from there.
        progress: called with the finished fraction of the work and what is being done.
        audit: False leaves the audit out, and with it the small attacks that it runs itself.
        output: where the logits are in what the model returns: a key, an index, or a function of it. Other functions of this
            package take such a model as `as_classifier(model, output)`.
        fold: whether native attacks search on the network's fast form, which is the same but for rounding: factors as thin layers
            or merged, normalisations folded, weights channels last. What they find is judged on the network itself, and where that
            does not confirm it, the search is repeated there.

    Raises:
        UserError: something about the suite, the examples or the model's outputs is wrong; nothing was changed.
    """
    started = time.perf_counter()
    model = as_classifier(model, output)
    config = EvalConfig.resolve(
        suite, eps=eps, norm=norm, seed=seed, batch_size=batch_size, gradients=gradients, offset=offset, fold=fold
    )
    with frozen_eval(model):
        run = Run(model, x, y, config, sources=sources, store=store, progress=progress)
        run.execute(Meter(max_passes=max_passes, max_seconds=max_seconds))
        return run.conclude(started, audit=audit)


def prepare(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    config: EvalConfig,
    *,
    store: Path,
    sources: Sequence[nn.Module] = (),
    progress: Progress | None = None,
) -> None:
    """Do the units of work that concern these examples alone and keep them in the store, for an evaluation of a larger set.

    Left out are attacks that are given all examples at once, and whatever goes on from what they leave.

    Example:
        >>> config = EvalConfig.resolve("quick", batch_size=100, offset=500)
        >>> prepare(model, x[500:600], y[500:600], config, store=Path("run/results/quick/units"))
    """
    with frozen_eval(model):
        Run(model, x, y, config, sources=sources, store=store, progress=progress).execute(Meter(), joint=False)


def behaviour(model: nn.Module, x: Tensor) -> dict[str, str]:
    """Return what a network answers to a few inputs around the first examples (`threat.observe`), as results record it.

    Example:
        >>> records.unlike(behaviour(model, x), result.record.behaviour)
        ''
    """
    with frozen_eval(model):
        target = Target(model, outside_inference(x))
        return observed(FixedBatch(target), outside_inference(x[:OBSERVED]).to(target.device))


class Fingerprint(NamedTuple):
    """What a result would be known by: hashes of weights, data and attack, and the network's behaviour."""

    hashes: dict[str, str]
    behaviour: dict[str, str]

    def stale(self, record: ResultRecord) -> str:
        """Return in words why a stored result is not of this network, these examples and this attack; nothing if it is."""
        for name, value in self.hashes.items():
            if record.hashes.get(name) != value:
                return f"it is of other {name}: {record.hashes.get(name, '')[:12]}, not {value[:12]}"
        if not record.behaviour:
            return "it does not say how its network behaves, as results have since"
        where = unlike(record.behaviour, self.behaviour)
        return f"its network has these weights and other answers, {where}" if where else ""


def fingerprint(model: nn.Module, x: Tensor, y: Tensor, config: EvalConfig, *, sources: Sequence[nn.Module] = ()) -> Fingerprint:
    """Return what the result of `evaluate` would be known by, without attacking.

    Example:
        >>> known = fingerprint(model, x, y, EvalConfig.resolve("quick"))
        >>> known.stale(stored.record)
        'it is of other weights: 91c5f0a2b3d4, not 0a1b2c3d4e5f'

    Raises:
        UserError: as `evaluate`.
    """
    with frozen_eval(model):
        run = Run(model, x, y, config, sources=sources)
        return Fingerprint(run.identity.hashes(), run.behaviour())
