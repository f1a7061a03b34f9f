"""The methods that tests go through, by name: each file takes those that its claims are about."""

import math

import pytest

from robust_lowrank import DLRT, RGD, TDLRT, USV, CondLR, GeoLoRA, RobustDLRT, Vanilla
from robust_lowrank.methods import Method

NAMES = ["vanilla", "condlr", "dlrt", "tdlrt", "geolora"]  # with their defaults
METHODS: dict[str, Method] = {
    "vanilla": Vanilla(),
    "usv": USV(),
    "rgd": RGD(),
    "condlr": CondLR(),
    "condlr tau=0": CondLR(tau=0.0),
    "condlr tau=inf": CondLR(tau=math.inf),
    "condlr polar exact": CondLR(tau=0.5, retraction="polar", reference="exact"),
    "condlr repo": CondLR(precond="repo", reference="mean"),
    "condlr none": CondLR(precond="none"),
    "dlrt fixed": DLRT(),
    "dlrt": DLRT(tol=0.1),
    "dlrt cond": DLRT(tol=0.1, cond=1.5),
    "tdlrt fixed": TDLRT(tol=None),
    "tdlrt": TDLRT(tol=0.1),
    "tdlrt all": TDLRT(tol=0.1, modes="all"),
    "geolora fixed": GeoLoRA(tol=None),
    "geolora": GeoLoRA(tol=0.1),
    "geolora cond": GeoLoRA(tol=0.1, cond=1.5),
    "robust dlrt": RobustDLRT(tol=0.1, core_steps=2),
}


def taken(*names: str) -> dict[str, Method]:
    """Return some of the catalogue."""
    return {name: METHODS[name] for name in names}


def with_each(methods: dict[str, Method]) -> pytest.MarkDecorator:
    """Return the mark that runs a test once with each method."""
    return pytest.mark.parametrize("method", methods.values(), ids=list(methods))
