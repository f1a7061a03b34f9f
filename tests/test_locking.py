"""A directory has one writer at a time, and what killed ones left is cleared away."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robust_lowrank import records
from robust_lowrank.errors import UserError
from robust_lowrank.records import leftovers, replacing, replacing_directory, writing
from robust_lowrank.records.locking import HOLDER, LOCK

HOLD = """
import sys, time
from pathlib import Path
from robust_lowrank.records import writing
with writing(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_writes_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"is being written by process {process.pid} on .* since .*: wait until"), writing(run):
            pytest.fail("two processes write into one directory")
    finally:
        process.kill()
        process.communicate()
    assert (run / LOCK).exists()
    with writing(run):
        assert f'"pid":{os.getpid()}' in (run / HOLDER).read_text()
    assert not (run / LOCK).exists()


def test_two_writers_of_one_process_are_two_all_the_same(tmp_path: Path) -> None:
    with writing(tmp_path), pytest.raises(UserError, match=f"process {os.getpid()}"), writing(tmp_path):
        pytest.fail("two loops write into one directory")


def test_several_directories_are_locked_each_once(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    with writing(one, other, tmp_path / "other" / ".." / "one"):
        assert (one / LOCK).exists()
        assert (other / LOCK).exists()
        (one / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["one"]  # nothing came into the other
    assert [path.name for path in one.iterdir()] == ["file"]


def test_a_lock_leaves_no_directory_behind_where_an_error_came_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="bad"), writing(tmp_path / "a" / "b"):
        assert records.is_vacant(tmp_path / "a" / "b")
        raise UserError("bad")
    assert not (tmp_path / "a").exists()


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"), writing(tmp_path / "file"):
        pytest.fail("a file was locked")


def test_a_damaged_note_of_the_holder_hides_nothing(tmp_path: Path) -> None:
    with writing(tmp_path):
        (tmp_path / HOLDER).write_text("\x00 nonsense")
        with pytest.raises(UserError, match="by another process"), writing(tmp_path):
            pytest.fail("two wrote")


def test_what_killed_writers_left_goes_and_nothing_else(tmp_path: Path) -> None:
    left = [".run.json.a1.rlr-part", "results/quick/units/.k.safetensors.b2.rlr-part", "resume/.3.c3.rlr-part/new/state.json"]
    kept = [".notes.part", "exports/.net.d4.rlr-part", "run.json", "results/quick/result.json", "sub/.x.e5.rlr-part"]
    for name in left + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert len(leftovers(tmp_path)) == len(left)
    with writing(tmp_path):
        assert leftovers(tmp_path) == []
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)


def test_a_directory_whose_replacement_was_cut_in_two_comes_back(tmp_path: Path) -> None:
    holder = tmp_path / "resume" / ".4.x1.rlr-part"
    (holder / "former").mkdir(parents=True)
    (holder / "former" / "state.json").write_text("whole")
    with writing(tmp_path):
        assert (tmp_path / "resume" / "4" / "state.json").read_text() == "whole"
    assert not holder.exists()


@pytest.mark.parametrize(
    "message", ["Error while serializing: I/O error: No space left on device (os error 28)", "write: Disk full (os error 28)"]
)
def test_a_full_disk_is_one_whatever_a_library_makes_of_it(tmp_path: Path, message: str) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    for way in (replacing, replacing_directory):
        with pytest.raises(OSError, match="No space left") as caught, way(path):
            raise ValueError(message)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="other"), replacing(tmp_path / "file"):
        raise ValueError("other")


def test_what_is_replaced_is_on_the_disk_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: order.append("sync"))
    real = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append("rename"), real(self, target))[1])
    with replacing(tmp_path / "file") as temporary:
        temporary.write_text("new")
    assert order == ["sync", "rename", "sync"]
