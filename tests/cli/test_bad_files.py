"""Whatever strangers' files hold: exit 2, one to three lines on stderr, at once, and nothing is written or run."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.hostile import data, tables
from tests.trees import stamps

Command = Callable[..., Result]

ENCODINGS = {
    "utf16.toml": "[training]".encode("utf-16"),
    "latin1.toml": "[data]\nname = 'é'".encode("latin-1"),
    "windows.toml": b'[data]\nname = "C:\\Users\\me"',
    "newline.toml": b'[data]\nname = "C:\\new"',
    "bom.toml": b"\xef\xbb\xbf[training]\nepoch = 3",
    "nan.toml": b"[training]\nlr = nan",
    "long.toml": b"#" * (2**20 + 1),
    "noise.NPZ": b"noise",
    "noise.SAFETENSORS": b"noise",
}
LONG = {"make_huge_toml", "make_bomb_npz", "make_many_examples_npz", "make_bomb_gz", "make_overlong_gz", "make_many_scans_jpeg"}
MNIST = ("train", "--data", "mnist", "--model", "lenet5", "--data-dir")
CIFAR10 = ("train", "--data", "cifar10", "--data-dir")

CASES: list[tuple[tuple[str | bytes, ...], str]] = [
    (("train", "--config", "nested.toml"), "nested too deep"),
    (("train", "--config", "chained.toml"), "nested more than 32 deep"),
    (("train", "--config", "digits.toml"), "a number in it has more than 4,300 digits"),
    (("train", "--config", "hexadecimal.toml"), "seed: an integer of 3,600,000 bits must lie between 0 and"),
    (("train", "--config", "key.toml"), "unknown key 'kkkk"),
    (("train", "--config", "colours.toml"), r"unknown key '\x1b[2J"),
    (("train", "--config", "path.toml"), r"has the character '\x00'"),
    (("train", "--config", "pipe.toml"), "pipe.toml is a named pipe, where a file is due"),
    (("train", "--config", "endless.toml"), "endless.toml is a device, where a file is due"),
    (("train", "--config", "directory.toml"), "directory.toml is a directory, where a file is due"),
    (("train", "--config", "loop.toml"), "Too many levels of symbolic links"),
    (("train", "--config", "long.toml"), "has at most 1,048,576"),
    (("train", "--config", "utf16.toml"), "is in UTF-16: save it as UTF-8"),
    (("train", "--config", "latin1.toml"), "the byte 0xe9 of line 2 is of another encoding"),
    (("train", "--config", "windows.toml"), "write a Windows path in 'single quotes', or with slashes"),
    (("train", "--config", "newline.toml"), "write a Windows path in 'single quotes', or with slashes"),
    (("train", "--config", "bom.toml"), "did you mean 'epochs'"),
    (("train", "--config", "nan.toml"), "training.lr: nan must be above 0"),
    (("train", "--config", b"\xff.toml"), r"\udcff.toml cannot be read: No such file"),
    (("train", "--config", "nul\0.toml"), "embedded null byte"),
    (("bench", "pipe.toml"), "is a named pipe"),
    (("bench", "runs.toml"), "make 50,000,000 runs, and an experiment has at most 10,000"),
    (("attack", "nothing", "--suite", "pipe.toml"), "is a named pipe"),
    (("attack", "nothing", "--suite", "endless.toml"), "is a device"),
    (("forecast", "nothing", "--suite", "nested.toml"), "nested too deep"),
    (("plan", "--config", "digits.toml"), "more than 4,300 digits"),
    (("train", "--data", "pipe.npz"), "pipe.npz is a named pipe"),
    (("train", "--data", "endless.npz"), "endless.npz is a device"),
    (("train", "--data", "pickled.npz"), "y holds pickled objects, and nothing is unpickled"),
    (("train", "--data", "lying.npz"), "its head announces 4611686018427387904 bytes, and 4 follow"),
    (("train", "--data", "classes.npz"), "classes is damaged"),
    (("train", "--data", "nested.npz"), "x is no plain array, or is damaged"),
    (("train", "--data", "twofold.npz"), "holds 'x.npy' 2 times"),
    (("train", "--data", "climbing.npz"), "y is no plain array"),
    (("train", "--data", "lying.safetensors"), "lying.safetensors is not a safetensors file"),
    (("train", "--data", "wide.safetensors"), "wide.safetensors is not a safetensors file"),
    (("train", "--data", "noise.NPZ"), "noise.NPZ is no .npz file"),
    (("train", "--data", "noise.SAFETENSORS"), "noise.SAFETENSORS is not a safetensors file"),
    (("train", "--data", b"\xff.npz"), "is not valid UTF-8"),
    (("plan", "--data", "bomb-png"), "80,000,000 pixels in"),
    (("train", "--data", "link-out"), "is a link out of"),
    (("train", "--data", "deep"), "more than 32 deep"),
    ((*MNIST, "lying-idx"), "announces "),
    ((*CIFAR10, "pickled-cifar"), "md5 sums differ"),
    ((*CIFAR10, "nested-index"), "not the index of a rebuilt data set"),
]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of hostile files that are made in a moment."""
    place = tmp_path_factory.mktemp("hostile")
    for module in (data, tables):
        for name, maker in vars(module).items():
            if name.startswith("make_") and name not in LONG:
                maker(place)
    for name, content in ENCODINGS.items():
        (place / name).write_bytes(content)
    return place


@pytest.mark.parametrize(("args", "said"), CASES, ids=[" ".join(map(str, args))[:60] for args, _ in CASES])
def test_bad_files(
    rlr_eval: Command, hostile: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str | bytes, ...], said: str
) -> None:
    monkeypatch.chdir(hostile)
    before = stamps(hostile)
    result = rlr_eval(*map(os.fsdecode, args))
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert 1 <= len(result.stderr.strip().splitlines()) <= 3
    assert len(result.stderr) < 1200
    assert "Traceback" not in result.stderr
    assert not result.stdout
    assert stamps(hostile) == before
