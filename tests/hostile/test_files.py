"""Every hostile file is refused in one to three lines: nothing is executed, nothing is written, and it takes no time."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from robust_lowrank import checkpoint
from robust_lowrank.errors import UserError
from robust_lowrank.models import Foreign, load_foreign, skeleton
from robust_lowrank.models.weights import load_weights
from tests.hostile import marker, programs, weights

CPU = torch.device("cpu")
LONGEST = 5.0  # seconds
UNSAFE = ("weights_only=False", "weights_only`", "allow_pickle", "torch.hub")


def load(path: Path, *, trust_code: bool = False) -> Foreign:
    shape, classes = programs.SHAPE, programs.CLASSES
    return load_foreign(str(path), weights=None, input_shape=shape, num_classes=classes, device=CPU, trust_code=trust_code)


def refuse(folder: Path, path: Path, read: Callable[[Path], object]) -> str:
    """Require that a file is refused, and return how."""
    before, began = sorted(folder.rglob("*")), time.perf_counter()
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert time.perf_counter() - began < LONGEST
    assert not marker(folder).exists()
    assert sorted(folder.rglob("*")) == before
    assert 1 <= len(message.splitlines()) <= 3
    assert all(line.isprintable() and len(line) < 1000 for line in message.splitlines())
    assert not any(word in message for word in UNSAFE)
    assert path.name in message
    return message


@pytest.mark.parametrize("maker", programs.HOSTILE, ids=lambda maker: maker.__name__)
def test_hostile_programs(maker: programs.Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    programs.plain()
    refuse(tmp_path, maker(tmp_path), load)


OUTSIDE = (
    programs.make_onnx_above, programs.make_onnx_absolute, programs.make_onnx_link, programs.make_onnx_constant,
    programs.make_onnx_device,
)  # fmt: skip


@pytest.mark.parametrize("maker", programs.ONNX, ids=lambda maker: maker.__name__)
def test_hostile_onnx(maker: programs.Maker, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    (tmp_path / "model").mkdir()
    message = refuse(tmp_path, maker(tmp_path), load)
    assert (maker in OUTSIDE) == ("not a file in its own directory" in message)  # said by us, before the runtime opens anything


@pytest.mark.parametrize("maker", weights.HOSTILE, ids=lambda maker: maker.__name__)
def test_hostile_weights(maker: weights.Maker, tmp_path: Path) -> None:
    path = maker(tmp_path)
    refuse(tmp_path, path, lambda path: load_weights(weights.network(), path))
    if path.suffix == ".safetensors":
        refuse(tmp_path, path, lambda path: checkpoint.load(weights.network(), path))


@pytest.mark.parametrize("maker", weights.NO_SPECTRA, ids=lambda maker: maker.__name__)
def test_hostile_weights_have_no_spectra(maker: weights.Maker, tmp_path: Path) -> None:
    refuse(tmp_path, maker(tmp_path), skeleton)


def test_numbers_that_are_not_there_are_refused_before_they_are_used(tmp_path: Path) -> None:
    assert "more than it holds" in refuse(tmp_path, weights.make_expanded(tmp_path), skeleton)


@pytest.mark.parametrize("make", [programs.make_plain, programs.make_plain_onnx])
def test_the_same_files_without_an_attack_are_read(make: programs.Maker, tmp_path: Path) -> None:
    if make is programs.make_plain_onnx:
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    assert load(make(tmp_path)).model(torch.rand(3, *programs.SHAPE)).shape == (3, programs.CLASSES)


EXECUTED = (
    programs.make_expression, programs.make_assumption, programs.make_guard, programs.make_file_operation,
    programs.make_opaque_object, programs.make_pickled_weight, programs.make_packing, programs.make_writing_script,
)  # fmt: skip


@pytest.mark.parametrize("maker", EXECUTED, ids=lambda maker: maker.__name__)
def test_what_is_trusted_is_executed(maker: programs.Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attacks are real: this is what a refusal keeps away."""
    monkeypatch.syspath_prepend(tmp_path)
    with contextlib.suppress(UserError):  # after it has run
        load(maker(tmp_path), trust_code=True)
    assert marker(tmp_path).exists()


@pytest.mark.parametrize("maker", [programs.make_expression, programs.make_function, programs.make_writing_script])
def test_what_trust_means_is_said(maker: programs.Maker, tmp_path: Path) -> None:
    assert "--trust-code, in Python trust_code=True, loads it all the same: its code then runs with your rights" in refuse(
        tmp_path, maker(tmp_path), load
    )
