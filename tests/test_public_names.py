"""What `robust_lowrank` offers is loaded when it is first used."""

import subprocess
import sys

import pytest

import robust_lowrank


def test_every_name_is_there() -> None:
    assert {"compress", "LowRankOptimizer", "Monitor", "evaluate", "data"} <= set(robust_lowrank.__all__)
    assert [name for name in robust_lowrank.__all__ if getattr(robust_lowrank, name, None) is None] == []
    assert dir(robust_lowrank) == robust_lowrank.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="compres"):
        robust_lowrank.compres  # noqa: B018


@pytest.mark.parametrize("module", ["cli.app", "records", "reporting", "statistics"])
def test_what_reports_need_loads_no_torch(module: str) -> None:
    code = f"import sys, robust_lowrank.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
