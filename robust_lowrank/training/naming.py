"""Methods get names for reports and for directories."""

import re
from pathlib import Path
from typing import Any

from robust_lowrank.data import DATASETS
from robust_lowrank.methods import SVD, CayleySGD, CondLR, Method, ProjectedSGD, SpectralClamp, Vanilla
from robust_lowrank.training.adversarial_config import AdversarialConfig
from robust_lowrank.training.config import TrainConfig
from robust_lowrank.training.method_config import DENSE, MethodConfig
from robust_lowrank.training.rank_config import AnyRank

UNSAFE = r"[^A-Za-z0-9._-]+"  # in the name of a directory
TITLES: dict[type[Method], str] = {
    SVD: "SVD after training",
    Vanilla: "Vanilla low-rank",
    CayleySGD: "Cayley SGD",
    ProjectedSGD: "Projected SGD",
    SpectralClamp: "Spectral clamp",
}  # of the methods whose class has another name in reports


def describe(method: MethodConfig, adversarial: AdversarialConfig | None = None) -> str:
    """Return what reports call a method: its label, or its name with the options given, and how it is trained if adversarially.

    Example:
        >>> describe(MethodConfig(name="condlr", tau=0.1, precond="none"))
        'CondLR τ=0.1, precond none'
    """
    if method.label is not None:
        return method.label
    in_title = ("tau", "cond") if method.name == CondLR.name else ()
    title = title_of(None if method.name == DENSE else method.method())
    parts = [title, *(f"{key} {value}" for key, value in method.options.items() if key not in in_title)]
    parts += _steps(method, " ")
    if adversarial is not None:
        options = _changed_options(adversarial)
        parts.append(f"{adversarial.attack.upper()}-trained ε={options.pop('eps')}")
        parts += [f"{key} {value}" for key, value in options.items()]
    return ", ".join(parts)


def title_of(method: Method | None) -> str:
    """Return what reports call a method without its further options; None stands for a network without factored layers.

    Example:
        >>> title_of(CondLR(tau=0.5)), title_of(None)
        ('CondLR τ=0.5', 'Dense')
    """
    match method:
        case None:
            return "Dense"
        case CondLR(bound=tau):
            return f"CondLR τ={'∞' if tau == float('inf') else f'{tau:g}'}"
        case other:
            return TITLES.get(type(other), type(other).__name__)


def _steps(method: MethodConfig, gap: str) -> list[str]:
    """Return what differs from exact steps without penalties."""
    parts = []
    if method.step != "exact":
        parts.append(method.step if method.window is None else f"{method.step}{gap}{method.window}")
    if method.moments != "tangent":
        parts.append(f"moments{gap}{method.moments}")
    parts += [f"{penalty.form}{gap}{penalty.weight:g}{gap}on{gap}{penalty.on}" for penalty in method.penalties]
    return parts


def _rank(rank: AnyRank) -> str:
    if isinstance(rank, int | float):
        return f"rank{rank}"
    entries = rank.model_dump(exclude_defaults=True)
    flat = {key: value for key, value in entries.items() if key != "overrides"} | entries.get("overrides", {})
    return "-".join(["rank", *(f"{key}{value}" for key, value in flat.items())])


def directory_name(method: MethodConfig, adversarial: AdversarialConfig | None = None) -> str:
    """Return a name made of method, options, rank and attack, of letters, digits, dots, hyphens and underscores.

    Example:
        >>> directory_name(MethodConfig(name="condlr", tau=0.1, rank=0.2))
        'condlr-tau0.1-rank0.2'
        >>> directory_name(MethodConfig(), AdversarialConfig(attack="pgd", eps=0.1))
        'dense-pgd-eps0.1'
    """
    parts = [method.name, *(f"{key}{value}" for key, value in sorted(method.options.items()))]
    if method.rank is not None:
        parts.append(_rank(method.rank))
    if method.exclude is not None:
        parts.append("-".join(["exclude", *method.exclude]))
    parts += _steps(method, "")
    if adversarial is not None:
        parts += [adversarial.attack, *(f"{key}{value}" for key, value in _changed_options(adversarial).items())]
    return re.sub(UNSAFE, "_", "-".join(parts))


def run_name(config: TrainConfig) -> str:
    """Return the name of a run's directory, where none is given.

    Example:
        >>> run_name(TrainConfig())
        'digits-cnn-dense-seed0'
    """
    method = directory_name(config.method, config.training.adversarial)
    name = config.data.name
    data = name if name in DATASETS else re.sub(UNSAFE, "_", Path(name).expanduser().resolve().stem).lstrip(".-")
    return f"{data or 'data'}-{re.sub(UNSAFE, '_', config.model.name)}-{method}-seed{config.seed}"


def _changed_options(adversarial: AdversarialConfig) -> dict[str, Any]:
    """Return the options that differ from the defaults, numbers short."""
    given = adversarial.model_dump(exclude={"attack"}, exclude_defaults=True)
    return {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in given.items()}
