"""Every hostile thing is given to every command that takes it: refused in three lines, nothing runs, and nothing is changed."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.fuzz import CASES
from tests.hostile.commands import EXCEPTIONS, KINDS, Survey, prepared
from tests.hostile.running import is_there
from tests.hostile.test_readers import LARGE


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prepared(place := tmp_path_factory.mktemp("whole") / "place")
    return place


FEWEST = 50  # cases of property tests, where nobody asks for more
FEW = 4  # of each kind, which many other tests read all of


def things(few: int | None = None) -> list[object]:
    """Return the kinds and names of all things, or of the first few of each kind that are made within a second."""
    names = [
        (kind, name)
        for kind, (makers, _) in KINDS.items()
        for name in [name for name in makers if few is None or f"make_{name}" not in LARGE][:few]
    ]
    return [pytest.param(kind, name, id=f"{kind.replace(' ', '_')}-{name}") for kind, name in names]


def require(whole: Path, folder: Path, kind: str, name: str, commands: Sequence[str]) -> None:
    if kind == "ONNX file" and not is_there("onnxruntime"):
        pytest.skip("onnxruntime is not installed")
    tried = list(Survey(whole, folder / "work").tried(kind, name, commands))
    assert not [f"{each.command}: {fault}" for each in tried for fault in each.faults]


@pytest.mark.slow
@pytest.mark.sampled(2)
@pytest.mark.parametrize(("kind", "name"), things(FEW))
def test_what_reads_most_of_it(kind: str, name: str, whole: Path, tmp_path: Path) -> None:
    require(whole, tmp_path, kind, name, KINDS[kind].commands[:1])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), things())
def test_every_command(kind: str, name: str, whole: Path, tmp_path: Path) -> None:
    """Give each thing to two commands, others than the next one is given; with RLR_FUZZ, and `make reliability`, to all."""
    commands = KINDS[kind].commands
    first = sum(name.encode()) % len(commands)
    require(whole, tmp_path, kind, name, commands if CASES > FEWEST else [*commands, *commands][first : first + 2])


def test_there_are_many_and_each_exception_is_of_one() -> None:
    assert len(KINDS) >= 9
    assert sum(len(kind.makers) for kind in KINDS.values()) >= 60
    for each in EXCEPTIONS:
        makers, commands = KINDS[each.kind]
        assert any(each.holds(each.kind, name, command) for name in makers for command in commands), each
