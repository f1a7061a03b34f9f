"""Robustbench has threat models, two figures of its benchmark, and a record of a network."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.evaluation.result import CLEAN, Evaluation
from robust_lowrank.evaluation.runner import evaluate
from robust_lowrank.threat import L2, Linf, Threat

LEADERBOARDS: dict[tuple[str, str], Threat] = {
    ("cifar10", "Linf"): Linf(8 / 255),
    ("cifar10", "L2"): L2(0.5),
    ("cifar100", "Linf"): Linf(8 / 255),
    ("imagenet", "Linf"): Linf(4 / 255),
}
_STANDARD = "autoattack"
_ABOUT = ("link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "reported")


class Benchmark(NamedTuple):
    """The two figures that robustbench's `benchmark` returns."""

    clean: float
    robust: float


def leaderboard_threat(dataset: str, threat_model: str) -> Threat:
    """Return the norm and radius of one of robustbench's leaderboards.

    Example:
        >>> leaderboard_threat("cifar10", "L2")
        L2(eps=0.5)

    Raises:
        UserError: there is no such leaderboard, or it is one of corruptions, which have no radius.
    """
    if (dataset, threat_model) not in LEADERBOARDS:
        raise unknown_name("leaderboard", f"{dataset}/{threat_model}", ("/".join(key) for key in LEADERBOARDS))
    return LEADERBOARDS[dataset, threat_model]


def benchmark(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, batch_size: int = 32, seed: int = 0) -> Benchmark:
    """Return the clean and robust accuracy as robustbench's `benchmark` does, without robustbench.

    The batches, their order and the attack are robustbench's, so the figures are the same for the same seed. Robustbench itself
    lets the clock be the seed, and counts a success that no strict margin confirms and an example with NaN gradients as the
    other way round; on a network that has any, `evaluate` says so in its audit.

    Example:
        >>> benchmark(model, x, y, leaderboard_threat("cifar10", "Linf"))
        Benchmark(clean=0.8344, robust=0.4324)

    Raises:
        UserError: the model has fewer than the ten classes of robustbench's smallest data set, or as `evaluate`.
    """
    evaluation = evaluate(model, x, y, suite="standard", eps=threat.eps, norm=threat.norm, seed=seed, batch_size=batch_size)
    return Benchmark(evaluation.clean_accuracy.value, evaluation.accuracy(_STANDARD, threat.eps).value)


def record(evaluation: Evaluation, *, eps: float | None = None, about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return an evaluation as the JSON object that robustbench keeps of a network in model_info/DATASET/THREAT_MODEL/NAME.json.

    Accuracies are texts in percent with up to two decimals. What is neither measured nor said is null, for its authors to fill
    in; the footnote says on how many examples, and how sure that makes the figure.

    Args:
        evaluation: has AutoAttack standard among its attacks.
        eps: one of its budgets; without it the largest.
        about: link, name, authors, additional_data, number_forward_passes, dataset, venue, architecture and reported (the
            authors' own figure).

    Example:
        >>> info = record(result, about={"name": "CondLR", "dataset": "cifar10"})
        >>> Path("CondLR.json").write_text(json.dumps(info, indent=2))

    Raises:
        UserError: the evaluation has no AutoAttack standard at that budget, or `about` has another key.
    """
    about = about or {}
    for key in about:
        if key not in _ABOUT:
            raise unknown_name("key of robustbench's model info", key, _ABOUT)
    radius = max(evaluation.record.eps) if eps is None else eps
    entry = next((e for e in evaluation.record.accuracies if (e.attack, e.eps) == (_STANDARD, radius)), None)
    if entry is None:
        ran = ", ".join(sorted({e.attack for e in evaluation.record.accuracies} - {CLEAN, "worst"}))
        raise UserError(
            f"robustbench records AutoAttack standard, which did not run at eps {radius:g}: this evaluation has {ran}\n"
            'Evaluate with suite="standard" and ten classes or more'
        )
    return {
        **dict.fromkeys(_ABOUT),
        "number_forward_passes": 1,
        **about,
        "eps": _radius_text(radius),
        "clean_acc": _percent(evaluation.clean_accuracy.value),
        "autoattack_acc": _percent(entry.value),
        "footnote": f"{entry.total} examples, {evaluation.record.interval} of the robust accuracy "
        f"{_percent(entry.low)} to {_percent(entry.high)}.",
    }


def _percent(fraction: float) -> str:
    return str(round(100 * fraction, 2))


def _radius_text(eps: float) -> str:
    pixels = round(255 * eps)
    return f"{pixels}/255" if pixels and abs(pixels / 255 - eps) < 1e-9 else f"{eps:g}"
