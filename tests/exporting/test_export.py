"""Forms of a network: what they compute, what their files hold, and what is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robust_lowrank import UserError, adapt, compress, export, load, models
from robust_lowrank.exporting import FileForm
from robust_lowrank.exporting.programs import write_program
from robust_lowrank.exporting.timing import LayerTimes, faster, time_layers
from robust_lowrank.layers import ChainLayer

ONNX = ("onnx", "int8")


class Net(nn.Module):
    """A network with every kind of layer that becomes a chain, a recurrent one, and one whose batch is read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, stride=2, padding=1, dilation=1)
        self.norm = nn.BatchNorm2d(16)
        self.grouped = nn.Conv2d(16, 16, 3, groups=4)
        self.lstm = nn.LSTM(16, 12, batch_first=True)
        self.head = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(torch.relu(self.norm(self.conv(x))))
        return self.head(self.lstm(x.flatten(2).transpose(1, 2))[0][:, -1])


def factored(method: str, **options: Any) -> nn.Module:
    net = Net()
    compress(net, method=method, rank=0.5, **options)
    return net.eval()


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 8, 8)


def answers(path: Path, x: Tensor) -> Tensor:
    """Return what a program's file answers, by the library that it was written for."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()(x)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.parametrize("method", ["condlr", "tdlrt", "vanilla", "usv", "svd"])
@pytest.mark.parametrize("to", ["dense", "factors", "auto"])
def test_weights_are_read_into_the_dense_network(method: str, to: Any, tmp_path: Path) -> None:
    net, x = factored(method), images()
    written = export(net, to=to, path=tmp_path / "net.safetensors", example_input=x)
    read = load(Net(), tmp_path / "net.safetensors").eval()
    assert not any(isinstance(module, ChainLayer) for module in read.modules())
    assert read.state_dict().keys() == written.state_dict().keys() == load_file(tmp_path / "net.safetensors").keys()
    assert torch.equal(read(x), written(x))
    torch.testing.assert_close(read(x), net(x), rtol=1e-5, atol=1e-6)


def test_dense_weights_need_nothing_of_this_package(tmp_path: Path) -> None:
    net, x = factored("condlr"), images()
    export(net, to="dense", path=tmp_path / "net.safetensors")
    fresh = Net().eval()
    fresh.load_state_dict(load_file(tmp_path / "net.safetensors"))
    torch.testing.assert_close(fresh(x), net(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["condlr", pytest.param("tdlrt", marks=pytest.mark.slow)])
@pytest.mark.parametrize("to", ["torch-export", pytest.param("onnx", marks=pytest.mark.slow), "int8"])
def test_programs_compute_the_same_at_any_batch(method: str, to: FileForm, tmp_path: Path) -> None:
    if to in ONNX:
        pytest.importorskip("onnxruntime")
    net, path = factored(method, exclude=["grouped"]), tmp_path / ("net.pt2" if to == "torch-export" else "net.onnx")
    before = copy.deepcopy(net.state_dict())
    assert export(net, to=to, path=path, example_input=images(1 if to == "torch-export" else 64)) == path
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    for count in (1, 3, 7):
        x = images(count)
        with torch.no_grad():
            due = net(x)
        close = {"rtol": 1e-4, "atol": 1e-4} if to != "int8" else {"rtol": 0, "atol": 0.1 * float(due.abs().max())}
        torch.testing.assert_close(answers(path, x), due, **close)


@pytest.mark.slow
def test_a_program_does_not_keep_what_its_example_is_a_slice_of(tmp_path: Path) -> None:
    images = torch.rand(20_000, 1, 8, 8)
    write_program(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), images[:2], tmp_path / "network.pt2")
    assert (tmp_path / "network.pt2").stat().st_size < images.nbytes / 10


def test_eight_bits_are_a_quarter(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 256), nn.ReLU(), nn.Linear(256, 5))
    sizes = [export(net, to=to, path=tmp_path / f"{to}.onnx", example_input=images(32)).stat().st_size for to in ("onnx", "int8")]
    assert sizes[1] < 0.35 * sizes[0]


def test_a_mapping_of_inputs(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.layer(left) * self.layer(right)

    net, inputs = Two(), {"left": torch.rand(4, 8), "right": torch.rand(4, 8)}
    path = export(net, to="torch-export", path=tmp_path / "net.pt2", example_input=inputs)
    torch.testing.assert_close(torch.export.load(path).module()(**inputs), net(**inputs))


def test_auto_takes_the_faster_form_of_each_layer() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 20), nn.Linear(20, 20), nn.Linear(20, 5))
    compress(net, method="condlr", rank=0.5)
    times = {"1": LayerTimes(2.0, 1.0, True), "2": LayerTimes(1.0, 2.0, False)}
    choose = faster(times)
    assert choose("1", net[1]) and not choose("2", net[2])
    wide = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(4, 4))
    compress(wide, method="condlr", rank=0.01, include=["0"])
    found = time_layers(wide[:1], torch.rand(64, 1024))
    assert [*found] == ["0"] and found["0"].chain and found["0"].factors < found["0"].dense  # 50 times fewer operations
    assert isinstance(export(wide[:1], to="auto", example_input=torch.rand(64, 1024))[0], nn.Sequential)


def test_adapters_are_merged(tmp_path: Path) -> None:
    net, x = Net().eval(), images()
    adapt(net, method="geolora", rank=2, exclude=["grouped", "lstm.*"])
    export(net, to="factors", path=tmp_path / "net.safetensors")
    torch.testing.assert_close(load(Net(), tmp_path / "net.safetensors").eval()(x), net(x))


def test_thin_weights_that_do_not_fit(tmp_path: Path) -> None:
    good = export(factored("condlr", include=["conv", "head.0"]), to="factors").state_dict()
    for key, value in {
        "head.0.0.weight": torch.ones(3, 7),
        "head.0.1.weight": torch.ones(20, 99),
        "conv.0.weight": torch.ones(5, 3, 2, 2),
        "head.0.2.weight": torch.ones(20, 20),
    }.items():
        save_file(good | {key: value}, tmp_path / "net.safetensors")
        net = Net()
        with pytest.raises(UserError, match=r"net\.safetensors does not fit this network: the thin weights .* do not multiply"):
            load(net, tmp_path / "net.safetensors")
        assert type(net.head[0]) is nn.Linear and type(net.conv) is nn.Conv2d


def test_what_is_refused_names_the_remedy(tmp_path: Path) -> None:
    net, x = factored("condlr"), images()
    ends: Any = tmp_path
    for options, message in (
        ({"to": "onxx"}, "unknown form 'onxx': did you mean 'onnx'"),
        ({"to": "onnx", "example_input": x}, "is a file: give its path, such as path='network.onnx'"),
        ({"to": "onnx", "path": ends / "a.onnx"}, "give example_input"),
        ({"to": "int8", "path": ends / "a.pt2", "example_input": x}, r"ends in \.onnx"),
        ({"to": "torch-export", "path": ends / "a.onnx", "example_input": x}, r"ends in \.pt2"),
        ({"to": "dense", "path": ends / "a.pth"}, r"ends in \.safetensors"),
        ({"to": "torch-export", "path": ends / "a.pt2", "example_input": torch.rand(2, 5, 8, 8)}, "does not run on example_input"),
        ({"to": "auto", "example_input": "x"}, "does not run on example_input"),
    ):
        with pytest.raises(UserError, match=message):
            export(net, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["torch-export", "onnx"])
def test_what_a_program_cannot_hold_is_said_and_nothing_is_written(to: FileForm, tmp_path: Path) -> None:
    class Branches(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) if float(input.sum()) > 0 else input[:, :3]

    class Draws(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + torch.rand_like(input[:, :3])

    if to == "onnx":
        pytest.importorskip("onnxruntime")
    path = tmp_path / ("net.onnx" if to == "onnx" else "net.pt2")
    path.write_bytes(b"what was there")
    untraced = r"cannot trace the network(.|\n)*'dense' and 'factors' keep its code"
    for net, message in ((Branches(4, 3), untraced), (Draws(4, 3), "computes something else")):
        with pytest.raises(UserError, match=message):
            export(net, to=to, path=path, example_input=torch.rand(4, 4))
    assert path.read_bytes() == b"what was there" and len(list(tmp_path.iterdir())) == 1


def test_a_network_of_one_batch_warns(tmp_path: Path) -> None:
    class Fixed(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input).reshape(4, 3)

    with pytest.warns(UserWarning, match="takes batches of 4 alone"):
        export(Fixed(2, 3), to="torch-export", path=tmp_path / "net.pt2", example_input=torch.rand(4, 2))


def test_exported_weights_are_attacked_by_their_files(tmp_path: Path) -> None:
    shape = (1, 8, 8)
    net = models.build("cnn", input_shape=shape, num_classes=10)
    compress(net, method="condlr", rank=0.5)
    x = torch.rand(4, *shape)
    for to in ("dense", "factors"):
        path = tmp_path / f"{to}.safetensors"
        export(net, to=to, path=path)
        loaded = models.load_foreign("cnn", weights=path, input_shape=shape, num_classes=10, device=torch.device("cpu")).model
        torch.testing.assert_close(loaded(x), net.eval()(x), rtol=1e-4, atol=1e-5)


def test_dense_weights_are_read_by_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    options = {"img_size": 32, "patch_size": 16, "depth": 2, "num_classes": 5}
    net, x = timm.create_model("vit_tiny_patch16_224", **options).eval(), torch.rand(2, 3, 32, 32)
    compress(net, method="geolora", rank=0.3)
    export(net, to="dense", path=tmp_path / "net.safetensors")
    again = timm.create_model("vit_tiny_patch16_224", checkpoint_path=str(tmp_path / "net.safetensors"), **options).eval()
    torch.testing.assert_close(again(x), net(x), rtol=1e-4, atol=1e-5)


def test_updates_are_written_for_peft(tmp_path: Path) -> None:
    net = Net().eval()
    adapt(net, method="geolora", rank=2, include=["head.0"])
    assert export(net, to="peft", path=tmp_path / "adapter") == tmp_path / "adapter"
    assert sorted(file.name for file in (tmp_path / "adapter").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    with pytest.raises(UserError, match="is a directory: give its path"):
        export(net, to="peft")
    with pytest.raises(UserError, match="cannot be written for PEFT"):
        export(factored("condlr"), to="peft", path=tmp_path / "none")
