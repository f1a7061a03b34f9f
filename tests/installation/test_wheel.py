"""What is in the wheel."""

import zipfile
from pathlib import Path

from tests.installation.conftest import ROOT


def test_it_ships_the_package_its_suites_and_its_experiments_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "robust_lowrank"
    due = {f"robust_lowrank/{path.relative_to(source)}" for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    due |= {f"robust_lowrank/suites/{path.name}" for path in (ROOT / "attacks").glob("*.toml")}
    due |= {f"robust_lowrank/experiments/{path.name}" for path in (ROOT / "experiments").glob("*.toml")}
    assert {name for name in names if not name.startswith("robust_lowrank-")} == due
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
