"""The property tests of all parsers are run with many cases each."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree


def fuzz(cases: int) -> Iterator[tuple[str, int, list[str]]]:
    """Yield the name of each property test, its number of cases, and in words how it failed if it did."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/fuzz", f"--junitxml={report}"]
        subprocess.run(command, env={**os.environ, "RLR_FUZZ": str(cases)}, stdout=sys.stderr)
        for case in ElementTree.parse(report).iter("testcase"):
            failures = [str(failure.get("message", "")).splitlines()[0] for failure in (*case.iter("failure"), *case.iter("error"))]
            yield case.get("name", "").removeprefix("test_").replace("_", " "), cases, failures
