"""Apply one deliberate defect to a copy of the package, and ask its tests whether they notice."""

import compileall
import os
import shutil
import subprocess
import sys
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
COPIED = ("robust_lowrank", "tests", "attacks", "experiments", "pyproject.toml")
SECONDS = 120  # after which a run counts as hanging
PASSED, FAILED = 0, 1  # pytest's exit codes; all others mean that nothing was tested
START = """\
import importlib.util, pathlib, sys
origin = pathlib.Path(importlib.util.find_spec("robust_lowrank").origin)
if not origin.is_relative_to(pathlib.Path.cwd()):
    sys.exit(f"these tests would import {origin}, which is no copy")
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


class MutationError(Exception):
    """A defect that cannot be tried, or tests that do not answer."""


@dataclass(frozen=True, kw_only=True)
class Defect:
    """A replacement of `old` by `new` in `file`, which the `tests` that match `k` must notice."""

    name: str
    why: str
    file: str
    old: str
    new: str
    tests: list[str]
    k: str


class Outcome(NamedTuple):
    """What pytest said: exit code, the tests that failed, errors that are no failure of a test, and all of its output."""

    code: int
    failed: list[str]
    errors: int
    output: str


def defects() -> dict[str, Defect]:
    """Return the table of defects by name."""
    with Path(__file__).with_name("defects.toml").open("rb") as file:
        found = [Defect(**entry) for entry in tomllib.load(file)["defect"]]
    named = {defect.name: defect for defect in found}
    if len(named) < len(found):
        raise MutationError("two defects have the same name")
    return named


def copy_project(target: Path) -> None:
    """Copy what the tests need; compiled code there is valid by its source's hash, so that no defect hides behind its age."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "mutations"))
        else:
            shutil.copy2(source, target / name)
    compileall.compile_dir(target / "robust_lowrank", quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)


@contextmanager
def mutated(copy: Path, defect: Defect) -> Iterator[None]:
    """Put the defect into the copy for as long as the context lasts."""
    path = copy / defect.file
    text = path.read_text()
    if (count := text.count(defect.old)) != 1:
        raise MutationError(f"{defect.name}: its old text stands {count} times in {defect.file}, not once")
    path.write_text(text.replace(defect.old, defect.new))
    try:
        yield
    finally:
        path.write_text(text)


def ask(copy: Path, chosen: Sequence[Defect]) -> Outcome:
    """Run the tests of one or more defects in the copy."""
    report = copy / "report.xml"
    report.unlink(missing_ok=True)
    tests = sorted({test for defect in chosen for test in defect.tests})
    expression = " or ".join(sorted({f"({defect.k})" for defect in chosen}))
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", "-k", expression]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins take a second
    command = [sys.executable, "-c", START, *options, *tests]
    try:
        run = subprocess.run(
            command,
            cwd=copy,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS * len(chosen),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MutationError(f"{', '.join(defect.name for defect in chosen)}: no answer in {error.timeout:.0f} s") from error
    if not report.is_file():
        raise MutationError(f"pytest wrote no report:\n{run.stdout}")
    cases = ET.parse(report).getroot().iter("testcase")
    failed, errors = [], 0
    for case in cases:
        errors += case.find("error") is not None
        if case.find("failure") is not None:
            failed.append(str(case.get("name")))
    return Outcome(run.returncode, failed, errors, run.stdout)


def check_clean(copy: Path, chosen: Sequence[Defect]) -> None:
    """Raise unless the tests of all these defects pass in the copy as it is."""
    outcome = ask(copy, chosen)
    if outcome.code != PASSED:
        raise MutationError(f"the tests do not pass without any defect:\n{outcome.output}")


def caught_by(copy: Path, defect: Defect) -> str | None:
    """Return the test that notices the defect, or None if it survives.

    Raises:
        MutationError: the defect cannot be applied, or pytest ended otherwise than by a pass or the failure of a test.
    """
    with mutated(copy, defect):
        outcome = ask(copy, [defect])
    if outcome.code == PASSED:
        return None
    if outcome.code != FAILED or outcome.errors or not outcome.failed:
        raise MutationError(f"{defect.name}: pytest ended with {outcome.code} and no failed test:\n{outcome.output}")
    return outcome.failed[0]
