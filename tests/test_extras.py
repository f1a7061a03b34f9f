"""A package that is missing is named with the extra that brings it."""

import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from robust_lowrank import provenance
from robust_lowrank.cli import doctor
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import EvalConfig
from robust_lowrank.extras import needed

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = {extra: {Requirement(each).name for each in packages} for extra, packages in PROJECT["optional-dependencies"].items()}


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    with (
        pytest.raises(UserError, match=r"^a chart needs altair: pip install 'robust-lowrank\[report\]'$"),
        needed("report", "a chart"),
    ):
        import altair.vegalite  # noqa: F401  # of the package, not of a module in it


def test_a_defect_of_this_package_is_no_missing_one() -> None:
    with pytest.raises(ModuleNotFoundError, match="robust_lowrank"), needed("report", "a chart"):
        import robust_lowrank.no_such_module  # noqa: F401  # pyright: ignore[reportMissingImports]


def test_upstreams_attack_is_refused_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(UserError, match=r"AutoAttack needs pyautoattack: pip install 'robust-lowrank\[eval\]'"):
        EvalConfig.resolve("standard")
    assert EvalConfig.resolve("aa-native").suite.name == "aa-native"


def test_versions_are_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package"))
    assert provenance.versions().keys() == {"python", "numpy"}


def test_doctor_knows_the_packages_of_every_level() -> None:
    required = {Requirement(each).name for each in PROJECT["dependencies"]}
    assert set(doctor.REQUIRED.values()) <= required
    for package, extra in doctor.OF_EXTRAS.values():
        assert package in EXTRAS[extra] - required
    assert {package for package, _ in doctor.OF_EXTRAS.values()} == EXTRAS["eval"] | EXTRAS["report"]


def test_no_extra_holds_other_packages_back() -> None:
    """All of them are in `all`, and none of them names a version above which nothing is taken."""
    (everything,) = map(Requirement, PROJECT["optional-dependencies"]["all"])
    assert everything.extras == EXTRAS.keys() - {"all", "dev"}
    listed = [*PROJECT["dependencies"], *(each for packages in PROJECT["optional-dependencies"].values() for each in packages)]
    assert {specifier.operator for each in listed for specifier in Requirement(each).specifier} == {">="}
    assert not {"torchattacks", "robustbench"} & set().union(*EXTRAS.values())  # they pin requests and timm
