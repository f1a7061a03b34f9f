import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robust_lowrank import UserError, compress, load, save
from robust_lowrank.checkpoint import digest
from tests.methods.catalogue import NAMES


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 8), nn.Linear(8, 4)
    )


@pytest.mark.parametrize("method", NAMES)
def test_round_trip_into_a_dense_and_into_a_factored_network(method: str, tmp_path: Path) -> None:
    model, x = net().eval(), torch.rand(2, 3, 6, 6)
    compress(model, method=method, rank=0.5, exclude=["5"])
    save(model, tmp_path / "net.safetensors")
    other = net().eval()
    compress(other, method="dlrt", rank=0.25, exclude=["5"])
    for target in (net().eval(), other):
        loaded = load(target, tmp_path / "net.safetensors")
        assert loaded is target
        assert torch.allclose(loaded(x), model(x))
        assert type(loaded[0]) is type(model[0])
        assert loaded[0].method == model[0].method
        assert digest(loaded) == digest(model)


def test_digest_sees_every_weight() -> None:
    model = net()
    before = digest(model)
    assert digest(model) == before
    model[5].bias.data[0] += 1e-6
    assert digest(model) != before


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.safetensors"
    save(net(), path)
    before = path.read_bytes()

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("robust_lowrank.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save(net(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def header(**changes: object) -> dict[str, str]:
    layer = {"method": {"name": "condlr", "tau": 0.1}, "ranks": [2, 2]}
    return {"robust_lowrank": json.dumps({"version": 1, "layers": {"4": layer | changes}})}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "does not fit this network: 0.bias, 0.weight"),
        ({"robust_lowrank": "{"}, "not a file of weights"),
        ({"robust_lowrank": '{"version": 9, "layers": {}}'}, "another version"),
        ({"robust_lowrank": "[]"}, "another version"),
        (header(method={"name": "exec"}), "layer '4'"),
        (header(method={"name": "condlr", "shell": "rm"}), "layer '4'"),
        (header(method=3), "layer '4'"),
        (header(ranks=[2, 10**9]), "layer '4'"),
        (header(ranks=[]), "layer '4'"),
        (header(), "does not fit"),
    ],
)
def test_files_from_strangers_are_refused_with_a_reason(metadata: dict[str, str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"x": torch.zeros(1)}, path, metadata=metadata)
    with pytest.raises(UserError, match=message):
        load(net(), path)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        load(net(), tmp_path / "none.safetensors")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UserError, match="not a safetensors file"):
        load(net(), tmp_path / "text")


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save(net(), tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="does not fit"):
        load(nn.Sequential(nn.Linear(3, 3)), tmp_path / "net.safetensors")


class Named(nn.Linear):
    """A subclass that computes what its parent does."""


def test_factors_are_read_into_a_network_of_subclasses(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    compress(net, method="condlr", rank=2)
    save(net, tmp_path / "net.safetensors")
    x = torch.rand(4, 8)
    assert torch.equal(load(nn.Sequential(Named(8, 6), nn.ReLU(), Named(6, 3)), tmp_path / "net.safetensors")(x), net(x))
