"""The life of a run directory at random: trained, killed, attacked, certified, copied, edited, made older and newer, looked at.

What a command has written is remembered. Whether a file still is that tells what `doctor` and `verify` must say.
"""

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from typer.testing import CliRunner, Result

from robust_lowrank import records
from robust_lowrank.cli.app import app
from robust_lowrank.records import RunFiles, files
from tests.fuzz import CASES, fuzzed

TRAIN = ("train", "--data", "digits", "--train-examples", "64", "--epochs", "2", "--model", "mlp", "--method", "dlrt", "--out")
ATTACK = ("attack", "--suite", "quick", "--eps", "0.1", "--n")
EXAMPLES = st.sampled_from([4, 6])
WRITES = st.integers(1, 12)  # after which a command is killed
NEWER = ("costs", "remarks", "kept_dense", "behaviour")  # fields that older records have not
FIELDS = st.sampled_from(
    [
        ("label", "mine"),
        ("seed", 7),
        ("test_accuracy", 1.0),
        ("status", "running"),
        ("epochs_done", 9),
        ("hashes", {"weights": "ab"}),
    ]
)


class Killed(BaseException):
    """What no code handles."""


@contextmanager
def killed(after: int) -> Iterator[None]:
    """End what is done after so many files are on the disk and before the next takes its place, which is left half-written."""
    left, whole = after, files._sync

    def sync(path: Path) -> None:
        nonlocal left
        left -= not path.is_dir()
        if left < 0:
            if path.suffix == files.PART:
                path.with_name(f".left{files.PART}").write_bytes(path.read_bytes()[:20])
            raise Killed
        whole(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_sync", sync)
        yield


def digests(run: Path) -> dict[str, str]:
    """Return the hash of each file of a run, but of states to go on from and of what is half-written."""
    return {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.rglob("*")
        if path.is_file() and path.suffix != files.PART and "resume" not in path.parts
    }


@functools.cache
def trained() -> Path:
    """Return a run, trained and attacked."""
    run = Path(tempfile.mkdtemp(prefix="life-")) / "run"
    for command in ((*TRAIN, str(run)), (*ATTACK, "4", str(run))):
        assert CliRunner().invoke(app, command).exit_code == 0
    return run


def weights(run: Path) -> bytes:
    return RunFiles(run).weights.read_bytes()


class Life(RuleBasedStateMachine):
    """A run directory, and the hashes of its files as commands have written them."""

    @initialize()
    def begin(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="life-"))
        self.run, self.names = Path(shutil.copytree(trained(), self.place / "run")), 0
        self.written = digests(self.run)

    def teardown(self) -> None:
        shutil.rmtree(getattr(self, "place", ""), ignore_errors=True)

    @property
    def complete(self) -> bool:
        """Whether nothing but a file of results may be lost or another: the record says that the training was done."""
        return self._status() == "complete"

    @property
    def damaged(self) -> set[str]:
        """The files that are not what a command has written last, or are gone."""
        there = digests(self.run)
        return {path for path, digest in self.written.items() if there.get(path) != digest}

    @property
    def sound(self) -> bool:
        """Whether the run is complete and no file of it is damaged."""
        return self.complete and not self.damaged

    def _status(self) -> str:
        try:
            return json.loads(RunFiles(self.run).record.read_bytes())["status"]
        except (OSError, ValueError, KeyError, TypeError):
            return "unreadable"

    def _command(self, *words: object, writes: bool = False) -> Result:
        """Run a command, require that it ends as any must, and take note of what it has written."""
        before = digests(self.run)
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code in (0, 1, 2), result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        assert len(result.stderr[result.stderr.rfind("Error: ") :].splitlines()) <= 3, result.stderr
        if not writes:
            assert digests(self.run) == before, words
        self._note(before)
        return result

    def _note(self, before: dict[str, str]) -> None:
        """Take the files that have changed since for written."""
        after = digests(self.run)
        for path in before.keys() | after.keys():
            if before.get(path) != after.get(path):
                self.written.pop(path, None)
                self.written |= {path: after[path]} if path in after else {}
        dropped = {Path(path).parent for path in before} - {Path(path).parent for path in after}
        self.written = {path: digest for path, digest in self.written.items() if Path(path).parent not in dropped}

    @rule()
    def train(self) -> None:
        sound = not {path for path in self.damaged if "/" not in path}
        result = self._command(*TRAIN, self.run, writes=True)
        assert not result.exit_code or not sound, result.output
        if not result.exit_code and sound:
            assert weights(self.run) == weights(trained())

    @rule(after=WRITES)
    def train_anew_and_be_killed(self, after: int) -> None:
        shutil.rmtree(self.run)
        self._and_be_killed((*TRAIN, str(self.run)), after)
        self.written = digests(self.run)

    @precondition(lambda self: self.complete)
    @rule(n=EXAMPLES)
    def attack(self, n: int) -> None:
        sound = self.sound
        result = self._command(*ATTACK, n, self.run, writes=True)
        assert not result.exit_code or not sound, result.output

    @precondition(lambda self: self.complete)
    @rule(n=EXAMPLES, after=WRITES)
    def attack_and_be_killed(self, n: int, after: int) -> None:
        before = digests(self.run)
        self._and_be_killed((*ATTACK, str(n), str(self.run)), after)
        self._note(before)

    def _and_be_killed(self, command: tuple[str, ...], after: int) -> None:
        with killed(after), suppress(Killed):
            CliRunner().invoke(app, command)

    @rule(n=EXAMPLES)
    def certify(self, n: int) -> None:
        sound = self.sound
        result = self._command("certify", self.run, "--n", n, writes=True)
        assert not result.exit_code or not sound, result.output

    @rule()
    def move(self) -> None:
        self.run = self.run.rename(self._new())

    @rule()
    def copy(self) -> None:
        self.run = Path(shutil.copytree(self.run, self._new()))

    def _new(self) -> Path:
        """Return a name that nothing has had."""
        self.names += 1
        return self.run.with_name(f"run {self.names}")

    @rule(field=FIELDS)
    def edit(self, field: tuple[str, Any]) -> None:
        self._edit(lambda record: record | dict([field]))

    @rule()
    def come_from_a_newer_version(self) -> None:
        self._edit(lambda record: record | {"schema_version": 2})
        assert self._command("show", self.run).exit_code == 2 or not RunFiles(self.run).record.is_file()

    @precondition(lambda self: self.sound)
    @rule(lacking=st.lists(st.sampled_from(NEWER), unique=True))
    def come_from_an_older_version(self, lacking: list[str]) -> None:
        """Records lack fields, and have the seals of then."""

        def without(record: dict[str, Any]) -> dict[str, Any]:
            older = {key: value for key, value in record.items() if key not in lacking} | {"seal": ""}
            text = json.dumps(older, indent=2) + "\n"
            return older | {"seal": hashlib.sha256(text.encode()).hexdigest()}

        self._edit(without)
        self.written["run.json"] = digests(self.run)["run.json"]

    def _edit(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        path = RunFiles(self.run).record
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return
        path.write_text(json.dumps(change(record), indent=2) + "\n", encoding="utf-8")

    @precondition(lambda self: self.there)
    @rule(number=st.integers(0, 99), place=st.integers(0, 10**6), bit=st.integers(0, 7))
    def flip(self, number: int, place: int, bit: int) -> None:
        path = self._some(number)
        content = bytearray(path.read_bytes())
        content[place % len(content)] ^= 1 << bit
        path.write_bytes(content)
        self.verify()

    @precondition(lambda self: self.there)
    @rule(number=st.integers(0, 99))
    def delete(self, number: int) -> None:
        path = self._some(number)
        path.unlink()
        unsealed = {path.relative_to(self.run).as_posix()} if path.parent.name == "units" else set()
        if path.name == "result.json":  # what lies beside it is then of an attack that was stopped
            unsealed = {each for each in self.written if (self.run / each).parent == path.parent}
        for each in unsealed:
            del self.written[each]
        self.verify()

    @property
    def there(self) -> list[str]:
        """The files that a command has written, as far as they are there."""
        return sorted(self.written.keys() & digests(self.run).keys())

    def _some(self, number: int) -> Path:
        return self.run / self.there[number % len(self.there)]

    @rule()
    def leave_something_half_written(self) -> None:
        self.run.joinpath(f".model.safetensors.x{files.PART}").write_bytes(b"half")

    @invariant()
    def an_undamaged_run_is_read(self) -> None:
        if hasattr(self, "run") and self.sound:
            records.read_run(self.run)

    @invariant()
    def doctor_says_what_is_damaged(self) -> None:
        if not hasattr(self, "run"):
            return
        result = self._command("doctor", self.run)
        if not RunFiles(self.run).record.is_file():
            assert result.exit_code == 2
        elif self.complete and "run.json" not in self.damaged:
            assert result.exit_code == bool(self.damaged), (result.output, self.damaged)
        elif self.damaged:
            assert result.exit_code in (1, 2) or not self.complete, result.output

    @rule()
    def verify(self) -> None:
        result = self._command("verify", self.run)
        if self.sound and list(RunFiles(self.run).results.glob("*/result.json")):
            stopped = [path for path in RunFiles(self.run).results.iterdir() if not (path / "result.json").exists()]
            assert bool(result.exit_code) == any(any(path.glob("*.*")) for path in stopped), result.output
        else:
            assert result.exit_code or not self.damaged, (result.output, self.damaged)

    @rule()
    def show(self) -> None:
        result = self._command("show", self.run)
        if self.sound:
            assert "Every file is as it was written." in result.output
        if self.damaged:
            assert "Every file is as it was written." not in result.output or not self.complete

    @precondition(lambda self: CASES > 50)  # it draws for seconds
    @rule()
    def report(self) -> None:
        result = self._command("report", self.run, "--out", self.place / "report")
        assert not result.exit_code or not self.sound


def examples(cases: int) -> int:
    """Return how many lives are lived where each parser gets so many files."""
    return max(8, cases // 20)


LONG = 6 if CASES <= 50 else 20  # rules of a life
TestLife = pytest.mark.filterwarnings("ignore")(Life.TestCase)
TestLife.settings = settings(fuzzed, max_examples=examples(CASES), stateful_step_count=LONG, deadline=None)
