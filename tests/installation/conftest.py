"""The wheel, and environments that hold what a level of installation brings and nothing else."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
Python = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, f"{built.stderr}\nwithout hatchling: pip install -e '.[dev]'"
    (file,) = place.glob("*.whl")
    return file


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Callable[[str], Python]:
    """Return a Python that finds what `pip install robust-lowrank[EXTRAS]` installs, and runs in the directory `empty`."""

    def install(extras: str) -> Python:
        site, empty = tmp_path / "site", tmp_path / "empty"
        for directory in (site, empty):
            directory.mkdir()
        zipfile.ZipFile(wheel).extractall(site)
        (own,) = metadata.distributions(name="robust-lowrank", path=[str(site)])
        for name in closure(own, extras.split(",")):
            for entry in entries(metadata.distribution(name)):
                if not (site / entry.name).exists():
                    (site / entry.name).symlink_to(entry)

        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_"))}
        environment |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}

        def python(*arguments: object) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-S", *map(str, arguments)]  # without the packages that are installed here
            return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)

        return python

    return install


def closure(package: metadata.Distribution, extras: Iterable[str]) -> set[str]:
    """Return the names of all packages that one with its extras requires, here."""
    found: set[tuple[str, str]] = set()
    waiting = [(package, each) for each in {"", *extras}]
    while waiting:
        one, its = waiting.pop()
        for requirement in map(Requirement, one.requires or ()):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": its}):
                continue
            wanted = {(requirement.name.lower(), each) for each in ("", *requirement.extras)} - found
            found |= wanted
            own = requirement.name == package.name
            waiting += [(package if own else metadata.distribution(name), each) for name, each in wanted]
    return {name for name, _ in found} - {package.name}


def entries(package: metadata.Distribution) -> Iterator[Path]:
    """Yield the files and directories of a package that stand directly in its environment."""
    names = {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}
    yield from (Path(str(package.locate_file(name))) for name in sorted(names))
