"""The property tests of all parsers are run with many cases each, and that of the life of a run directory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from xml.etree import ElementTree

from tests.fuzz.test_life import examples


class Fuzzed(NamedTuple):
    """What became of one property test."""

    what: str
    cases: int
    seconds: float  # of all cases together
    growth: int  # bytes
    faults: list[str]


def fuzz(cases: int) -> Iterator[Fuzzed]:
    """Run the property tests, so many cases each."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/fuzz",
            "-k",
            "not valid",
            "-o",
            "junit_family=xunit1",
        ]
        subprocess.run([*command, f"--junitxml={report}"], env={**os.environ, "RLR_FUZZ": str(cases)}, stdout=sys.stderr)
        for case in ElementTree.parse(report).iter("testcase"):
            faults = [str(failure.get("message", "")).splitlines()[0] for failure in (*case.iter("failure"), *case.iter("error"))]
            growth = max((int(each.get("value", 0)) for each in case.iter("property")), default=0)
            name, count = f"the parser of {case.get('name', '').removeprefix('test_').replace('_', ' ')}", cases
            if case.get("name") == "runTest":
                name, count = "the life of a run directory", examples(cases)
            yield Fuzzed(name, count, float(case.get("time", 0)), growth, faults)
