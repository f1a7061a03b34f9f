"""The suite notices each deliberate defect of `defects.toml`."""

import ast
from pathlib import Path

import pytest

from .mutate import ROOT, Defect, MutationError, caught_by, check_clean, copy_project, defects, mutated

DEFECTS = defects()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("copy").resolve()
    copy_project(target)
    check_clean(target, list(DEFECTS.values()))
    return target


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS)
def test_a_defect_is_caught(defect: Defect, copy: Path) -> None:
    assert caught_by(copy, defect) is not None, f"{defect.name} survives: {defect.why}"


def test_the_table_fits_the_code() -> None:
    for defect in DEFECTS.values():
        text = (ROOT / defect.file).read_text()
        assert text.count(defect.old) == 1, defect.name
        ast.parse(text.replace(defect.old, defect.new), filename=defect.name)
        assert defect.old != defect.new
        assert all((ROOT / test).is_file() for test in defect.tests)


def test_a_text_that_does_not_stand_there_once_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("a = 1\na = 1\n")
    for old in ("a = 1", "b = 1"):
        defect = Defect(name="n", why="w", file="x.py", old=old, new="c", tests=[], k="")
        with pytest.raises(MutationError, match="not once"), mutated(tmp_path, defect):
            pass
    assert (tmp_path / "x.py").read_text() == "a = 1\na = 1\n"
