"""The loops of docs/loops.md run: everything that the page says, it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compiling import require_a_compiler

PAGE = Path(__file__).parents[1] / "docs/loops.md"
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL))
COMPILED = "Compiled networks"
LIBRARIES = {"Lightning": "lightning", "Hugging Face's Trainer": "transformers", "Accelerate": "accelerate"}


def code(text: str) -> str:
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))


@pytest.mark.slow
def test_torchs_own_loops(tmp_path: Path) -> None:
    shared = code(PAGE.read_text().split("\n## ")[0])
    examples = [code(text) for section, text in SECTIONS.items() if section not in {*LIBRARIES, COMPILED}]
    assert len(examples) > 5
    run("\n".join([shared, *examples]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("section", LIBRARIES)
def test_loops_of_other_libraries(section: str, tmp_path: Path) -> None:
    pytest.importorskip(LIBRARIES[section])
    run(code(SECTIONS[section]), tmp_path)


@pytest.mark.slow
def test_compiled_networks(tmp_path: Path) -> None:
    require_a_compiler()
    run(code(PAGE.read_text().split("\n## ")[0]) + code(SECTIONS[COMPILED]), tmp_path)


def run(source: str, folder: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
