"""Hostile configurations, each of them for --config, a suite or an experiment alike."""

import os
from pathlib import Path


def make_nested_toml(folder: Path) -> Path:
    """Lists within lists, deeper than a parser can go."""
    return _written(folder / "nested.toml", b"a = " + b"[" * 100_000)


def make_chained_toml(folder: Path) -> Path:
    """A key of half a million parts, on which tomllib spends a time that grows with the square."""
    return _written(folder / "chained.toml", b"a." * 500_000 + b"a = 1")


def make_long_number_toml(folder: Path) -> Path:
    """A seed of 5,000 digits, which Python refuses to convert."""
    return _written(folder / "digits.toml", b"seed = " + b"9" * 5000)


def make_long_hexadecimal_toml(folder: Path) -> Path:
    """A seed of 3.6 million bits, which Python reads and cannot show."""
    return _written(folder / "hexadecimal.toml", b"seed = 0x" + b"f" * 900_000)


def make_huge_toml(folder: Path) -> Path:
    """A hundred megabytes of comments."""
    return _written(folder / "huge.toml", (b"#" * 99 + b"\n") * 2**20)


def make_long_key_toml(folder: Path) -> Path:
    """A key of a million characters, which no message should repeat."""
    return _written(folder / "key.toml", b"k" * 1_000_000 + b" = 1")


def make_colours_toml(folder: Path) -> Path:
    """Keys and values that would clear the screen, or write its title, where they are shown."""
    return _written(folder / "colours.toml", b'"\\u001b[2J\\u001b]0;owned\\u0007" = "\\u202e"')


def make_many_runs_toml(folder: Path) -> Path:
    """A few lines that ask for a hundred million trainings."""
    seeds = ",".join(map(str, range(10_000))).encode()
    methods = b'[[methods]]\nname = "dense"\nlabel = "%d"\n'
    return _written(folder / "runs.toml", b'name = "runs"\nseeds = [' + seeds + b"]\n" + b"".join(methods % n for n in range(5000)))


def make_path_toml(folder: Path) -> Path:
    """A path with a NUL byte, which would end it for the system and not for Python."""
    return _written(folder / "path.toml", b'[data]\nname = "digits\\u0000/../../etc"')


def make_pipe_toml(folder: Path) -> Path:
    """A named pipe, which waits for ever for a writer."""
    os.mkfifo(path := folder / "pipe.toml")
    return path


def make_endless_toml(folder: Path) -> Path:
    """A link to a device that never ends."""
    (path := folder / "endless.toml").symlink_to("/dev/zero")
    return path


def make_directory_toml(folder: Path) -> Path:
    """A directory with the name of a file."""
    (path := folder / "directory.toml").mkdir()
    return path


def make_loop_toml(folder: Path) -> Path:
    """A link to itself."""
    (path := folder / "loop.toml").symlink_to("loop.toml")
    return path


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
