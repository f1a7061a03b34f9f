import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robust_lowrank import adapt, checkpoint, compress
from robust_lowrank.conditioning import spectra
from robust_lowrank.errors import UserError
from robust_lowrank.methods import METHODS
from robust_lowrank.models import build, skeleton


def network() -> nn.Module:
    torch.manual_seed(0)
    return build("cnn", input_shape=(1, 8, 8), num_classes=10)


def measured(model: nn.Module) -> pd.DataFrame:
    return spectra(model).set_index("layer").drop(columns="kind").sort_index()


@pytest.mark.parametrize("method", ["dense", *(name for name, method in METHODS.items() if not method.adapter)])
def test_weights_alone_have_the_spectra_of_the_network(method: str, tmp_path: Path) -> None:
    model = network()
    if method != "dense":
        compress(model, method=method, rank=0.4 if METHODS[method].ranked else None, exclude=["fc2"])
    checkpoint.save(model, tmp_path / "net.safetensors")
    pd.testing.assert_frame_equal(measured(skeleton(tmp_path / "net.safetensors")), measured(model))


def test_adapters_are_found_beside_their_frozen_weights(tmp_path: Path) -> None:
    model = network()
    adapt(model, method="geolora", rank=3)
    checkpoint.save(model, tmp_path / "net.safetensors")
    pd.testing.assert_frame_equal(measured(skeleton(tmp_path / "net.safetensors")), measured(model))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_state_dict_of_others_has_its_layers_in_their_order(prefix: str, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, (3, 1)), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3, bias=False))
    held = {prefix + key: tensor for key, tensor in model.state_dict().items()}
    torch.save({"state_dict": held, "epoch": 3}, tmp_path / "net.pth")
    found = skeleton(tmp_path / "net.pth")
    pd.testing.assert_frame_equal(spectra(found), spectra(model))
    assert found.state_dict().keys() == model.state_dict().keys()


def test_half_precision_and_integers_do_no_harm(tmp_path: Path) -> None:
    weight = torch.diag(torch.tensor([4.0, 2.0])).to(torch.float16)
    save_file(
        {"a.weight": weight, "b.weight": torch.ones(2, 2, dtype=torch.int8), "scale": torch.ones(())}, tmp_path / "n.safetensors"
    )
    frame = spectra(skeleton(tmp_path / "n.safetensors"))
    assert frame["layer"].tolist() == ["a"]
    assert frame["cond"].tolist() == [2.0]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"bias": torch.ones(3)}, "no weight of a linear layer or convolution"),
        ({"a.weight": torch.ones(2, 2), "a.weight.weight": torch.ones(2, 2)}, "names that no network has"),
    ],
)
def test_files_without_layers_are_refused(tensors: dict[str, torch.Tensor], message: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "n.safetensors")
    with pytest.raises(UserError, match=message):
        skeleton(tmp_path / "n.safetensors")


def test_factors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = network()
    compress(model, method="condlr", rank=2)
    tensors = model.state_dict() | {"fc1.S": torch.eye(3)}
    described = {"version": 1, "layers": {"fc1": {"method": {"name": "condlr"}, "ranks": [2, 2]}}}
    save_file(tensors, tmp_path / "n.safetensors", metadata={checkpoint.HEADER: json.dumps(described)})
    with pytest.raises(UserError, match="does not fit"):
        skeleton(tmp_path / "n.safetensors")
