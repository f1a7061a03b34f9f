import os
import resource
import socket
from pathlib import Path

import pytest

from robust_lowrank import bounds
from robust_lowrank.bounds import available_memory, read_bounded, regular_size, require_memory, require_proportion
from robust_lowrank.errors import UserError


def test_a_regular_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (path := tmp_path / "some").write_bytes(b"12345")
    assert read_bounded(path, most=5) == b"12345"
    assert regular_size(path) == 5
    with pytest.raises(UserError, match="has 5 bytes or more, and a file of its kind has at most 4"):
        read_bounded(path, most=4)


def test_files_that_say_no_size_are_bounded_too() -> None:
    assert Path("/proc/self/maps").stat().st_size == 0
    with pytest.raises(UserError, match="has 11 bytes or more"):
        read_bounded(Path("/proc/self/maps"), most=10)


def test_what_is_no_file_is_named_and_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    os.mkfifo("pipe")
    (server := socket.socket(socket.AF_UNIX)).bind("socket")
    server.close()
    Path("loop").symlink_to("loop")
    Path("zero").symlink_to("/dev/zero")
    for name, said in {
        "pipe": "a named pipe",
        "socket": "a socket",
        "zero": "a device",
        ".": "a directory",
        "loop": "cannot be read: Too many levels",
        "none": "cannot be read: No such file",
        "a\0b": r"a\\x00b is no path",
    }.items():
        with pytest.raises(UserError, match=said):
            read_bounded(Path(name))


def test_expansion_stands_in_a_proportion() -> None:
    require_proportion(bounds.FREE, 1, "it", "no")
    require_proportion(10 * bounds.FREE, 10 * bounds.FREE // bounds.RATIO, "it", "no")
    with pytest.raises(
        UserError, match="it would take 129 MiB of memory, 64 times its size, as a decompression bomb does: pack less"
    ):
        require_proportion(129 * 2**20, 129 * 2**20 // 64 - 1, "it", "pack less")


def test_memory_is_that_which_this_process_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    available = available_memory()
    assert available is not None
    assert 0 < available <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**20, 2**20))  # less than what is taken already
    assert available_memory() == 0
    with pytest.raises(UserError, match=r"it would take 1\.0 GiB, and 0\.0 GiB of memory are free here"):
        require_memory(2**30, "it")
