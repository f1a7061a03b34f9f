import pickle
import sys
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robust_lowrank import checkpoint, compress
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import EvalConfig, evaluate
from robust_lowrank.models import Foreign, Normalize, build, load_foreign

SHAPE, CLASSES = (1, 4, 4), 3
CPU = torch.device("cpu")


def network() -> nn.Module:
    layers = (nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, CLASSES))
    return nn.Sequential(*layers)


def foreign(source: str | Path, weights: Path | None = None, **options) -> Foreign:
    return load_foreign(str(source), weights=weights, **({"input_shape": SHAPE, "num_classes": CLASSES, "device": CPU} | options))


def refused(message: str, source: str | Path, weights: Path | None = None, **options) -> None:
    with pytest.raises(UserError, match=message) as caught:
        foreign(source, weights, **options)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType("nets_of_mine")
    made.network = network  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return made


class Code:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable, tuple]:
        return Path.touch, (self.trace,)


def torchscript(path: Path, model: nn.Module, *, freeze: bool = False) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        script = torch.jit.trace(model, torch.rand(2, *SHAPE))
        (torch.jit.freeze(script) if freeze else script).save(path)
    return path


def exported(path: Path, model: nn.Module, *, batch: int | None = None) -> Path:
    x = torch.rand(batch or 2, *SHAPE)
    dynamic = None if batch else ({0: torch.export.Dim("n")},)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=dynamic), path)
    return path


def onnx(path: Path, model: nn.Module, *, batch: int | None = None) -> Path:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript, which writes ONNX files, is not installed")
    dynamic = None if batch else ({0: torch.export.Dim("n")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.rand(batch or 2, *SHAPE),), path, dynamic_shapes=dynamic, dynamo=True, verbose=False)
    return path


WRITERS = {
    "script.ts": torchscript,
    "script.pt": lambda path, model: torchscript(path, model, freeze=True),
    "any.pt2": exported,
    "three.pt2": lambda path, model: exported(path, model, batch=3),
    "any.onnx": onnx,
    "three.onnx": lambda path, model: onnx(path, model, batch=3),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_stored_program_gives_the_logits_of_its_network(name: str, tmp_path: Path) -> None:
    model = network().eval()
    target = foreign(WRITERS[name](tmp_path / name, model), trust_code=name.startswith("script"))
    assert target.gradients == (not name.endswith("onnx"))
    for size in (1, 3, 7):
        x = torch.rand(size, *SHAPE)
        torch.testing.assert_close(target.model(x), model(x))
    assert len(target.description["sha256"]) == 64
    assert target.description["file"].endswith(name)


@pytest.mark.parametrize("name", [name for name in WRITERS if not name.endswith("onnx")])
def test_a_stored_program_has_the_gradients_of_its_network(name: str, tmp_path: Path) -> None:
    model = network().eval()
    target = foreign(WRITERS[name](tmp_path / name, model), trust_code=name.startswith("script"))
    x = torch.rand(4, *SHAPE, requires_grad=True)
    for _ in range(3):
        (ours,), (theirs,) = (torch.autograd.grad(net(x).square().sum(), x) for net in (target.model, model))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["script.ts", "script.pt", "any.pt2", "three.pt2"])
def test_a_stored_program_is_attacked_like_its_network(name: str, tmp_path: Path) -> None:
    model = network().eval()
    x, y = torch.rand(10, *SHAPE), torch.arange(10) % CLASSES
    ours, theirs = (
        evaluate(net, x, y, suite="quick", eps=0.1, batch_size=4)
        for net in (foreign(WRITERS[name](tmp_path / name, model), trust_code=name.startswith("script")).model, model)
    )
    assert float(ours.robust_accuracy) == float(theirs.robust_accuracy)
    assert ours.record.hashes["weights"] != theirs.record.hashes["weights"]


def test_another_file_is_another_network(tmp_path: Path) -> None:
    first, second = (foreign(exported(tmp_path / f"{n}.pt2", network().eval())) for n in range(2))
    assert checkpoint.digest(first.model) != checkpoint.digest(second.model)
    assert checkpoint.digest(first.model) == checkpoint.digest(foreign(tmp_path / "0.pt2").model)


def test_no_gradients_no_gradient_attack(module: types.ModuleType) -> None:
    class Blind(nn.Module):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :CLASSES]

    module.Blind = Blind
    target = foreign("nets_of_mine:Blind")
    assert not target.gradients
    with pytest.raises(UserError, match="no gradients"):
        EvalConfig.resolve("quick", gradients=target.gradients)
    assert EvalConfig.resolve("quick", gradients=foreign("nets_of_mine:network").gradients).gradients


def test_compiled_parts_and_prefixes_within_one_another(module: types.ModuleType, tmp_path: Path) -> None:
    model, x = network().eval(), torch.rand(2, *SHAPE)
    state = {f"model._orig_mod.module.{key.replace('.', '._orig_mod.', 1)}": value for key, value in model.state_dict().items()}
    torch.save({"model_state_dict": {"state_dict": state}, "lr": 0.1}, path := tmp_path / "NET.PTH")
    assert torch.equal(foreign("nets_of_mine:network", path).model(x), model(x))
    save_file(state, path := tmp_path / "NET.SafeTensors")
    assert torch.equal(foreign("nets_of_mine:network", path).model(x), model(x))


def test_several_networks_in_one_file_are_named_unless_they_are_the_same(module: types.ModuleType, tmp_path: Path) -> None:
    model, x, path = network().eval(), torch.rand(2, *SHAPE), tmp_path / "net.pth"
    torch.save({"state_dict": model.state_dict(), "state_dict_ema": model.state_dict()}, path)
    assert torch.equal(foreign("nets_of_mine:network", path).model(x), model(x))
    torch.save({"state_dict": model.state_dict(), "state_dict_ema": network().state_dict()}, path)
    refused(
        r"holds several networks: state_dict, state_dict_ema\n.*weights_only=True\)\['state_dict'\]", "nets_of_mine:network", path
    )


@pytest.mark.parametrize("wrap", [None, "state_dict", "model_state_dict", "ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "encoder.body."])
@pytest.mark.parametrize("suffix", [".pt", ".th"])
def test_weights_are_unwrapped(wrap: str | None, prefix: str, suffix: str, module: types.ModuleType, tmp_path: Path) -> None:
    model = network().eval()
    state = {prefix + key: tensor for key, tensor in model.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    torch.save({wrap: state, "epoch": 3} if wrap else state, path)
    x = torch.rand(2, *SHAPE)
    assert torch.equal(foreign("nets_of_mine:network", path).model(x), model(x))


def test_safetensors_of_others_and_ours(module: types.ModuleType, tmp_path: Path) -> None:
    model, x = network().eval(), torch.rand(2, *SHAPE)
    save_file(model.state_dict(), tmp_path / "theirs.safetensors")
    assert torch.equal(foreign("nets_of_mine:network", tmp_path / "theirs.safetensors").model(x), model(x))
    compress(model, method="condlr", rank=1)
    checkpoint.save(model, tmp_path / "ours.safetensors")
    assert torch.equal(foreign("nets_of_mine:network", tmp_path / "ours.safetensors").model(x), model(x))


def test_our_architectures_by_name(tmp_path: Path) -> None:
    model, x = build("cnn", input_shape=SHAPE, num_classes=CLASSES).eval(), torch.rand(2, *SHAPE)
    checkpoint.save(model, path := tmp_path / "cnn.safetensors")
    assert torch.equal(foreign("cnn", path).model(x), model(x))
    refused("the network normalises by itself", "cnn", path, mean=[0.5], std=[0.5])
    refused("cnn is made for a number of classes", "cnn", path, num_classes=None)
    refused("cnn is an architecture, and its weights would be random", "cnn")


def test_weights_without_a_normalisation_take_one_from_outside(tmp_path: Path) -> None:
    model, x = build("cnn", input_shape=SHAPE, num_classes=CLASSES).eval(), torch.rand(2, *SHAPE)
    state = {key: tensor for key, tensor in model.state_dict().items() if not key.startswith("normalize.")}
    torch.save(state, path := tmp_path / "bare.pth")
    refused("2 missing: normalize.mean, normalize.std", "cnn", path)
    mean, std = [0.5] * SHAPE[0], [0.25] * SHAPE[0]
    model.set_submodule("normalize", Normalize(SHAPE, mean=mean, std=std))
    assert torch.equal(foreign("cnn", path, mean=mean, std=std).model(x), model(x))


@pytest.mark.parametrize("source", ["torchvision:resnet18", "resnet34"])
def test_torchvision_by_name_with_normalisation(source: str, tmp_path: Path) -> None:
    from torchvision import models, transforms

    model = models.get_model(source.removeprefix("torchvision:"), num_classes=5).eval()
    torch.save(model.state_dict(), path := tmp_path / "weights.pth")
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    target = foreign(source, path, input_shape=(3, 64, 64), num_classes=5, mean=mean, std=std)
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(target.model(x), model(transforms.Normalize(mean, std)(x)))
    assert target.gradients
    assert target.description["kind"] == "torchvision"
    assert target.description["normalisation"] == "mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    refused(r"1 of another shape.*|2 of another shape: fc.weight \(5, 512\) instead of \(10, 512\)", source, path, num_classes=10)


def test_timm_by_name(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    model = timm.create_model("resnet10t", num_classes=5).eval()
    torch.save(model.state_dict(), path := tmp_path / "weights.pth")
    x = torch.rand(2, 3, 64, 64)
    target = foreign("timm:resnet10t", path, input_shape=(3, 64, 64), num_classes=5)
    torch.testing.assert_close(target.model(x), model(x))
    refused("no model 'timm:resnet10tt': did you mean timm:resnet10t", "timm:resnet10tt", path)


@pytest.mark.parametrize("package", ["timm", "onnxruntime"])
def test_a_package_that_is_not_installed_is_named(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "any.onnx").write_bytes(b"\x08\x09")
    source, extra = {"timm": ("timm:resnet10t", "timm"), "onnxruntime": (tmp_path / "any.onnx", "onnx")}[package]
    refused(rf"needs {package}: pip install 'robust-lowrank\[{extra}\]'", source)


def test_functions_get_the_shape_and_the_classes_that_they_name(module: types.ModuleType) -> None:
    module.build = lambda num_classes, width=16: nn.Sequential(nn.Flatten(), nn.Linear(width, num_classes))
    target = foreign("nets_of_mine:build")
    assert target.model(torch.rand(2, *SHAPE)).shape == (2, CLASSES)
    assert target.description["kind"] == "function of nets_of_mine"
    assert target.description["sha256"] == checkpoint.digest(target.model)


def test_modules_in_the_current_directory_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside_me.py").write_text("from torch import nn\n\ndef net():\n    return nn.Flatten()\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert foreign("beside_me:net", num_classes=16).model(torch.rand(2, *SHAPE)).shape == (2, 16)
    assert sys.path == before
    sys.modules.pop("beside_me")


def test_functions_that_make_no_network(module: types.ModuleType, tmp_path: Path) -> None:
    def broken() -> nn.Module:
        raise KeyError("layers")

    module.broken = broken
    refused("os:system asks for command", "os:system")
    refused("os:getcwd returned a str", "os:getcwd")
    refused("os:sep is a str", "os:sep")
    refused("has no function nothing", "os:nothing")
    refused("no module nowhere", "nowhere:net")
    refused("broken raised KeyError: 'layers'", "nets_of_mine:broken")
    refused("no model 'resnet19': did you mean resnet18", "resnet19", tmp_path)


def test_outputs_of_another_form(module: types.ModuleType) -> None:
    module.picture = nn.Identity
    module.several = lambda: nn.LSTM(4, 2)
    refused(r"a tensor of shape \(1, 1, 4, 4\) for one input", "nets_of_mine:picture")
    refused("returned a tuple for one input", "nets_of_mine:several", input_shape=(4, 4))
    refused("has 3 classes, not 10", "nets_of_mine:network", num_classes=10)
    refused(r"cannot take an input of shape \(1, 3, 4, 4\)", "nets_of_mine:network", input_shape=(3, 4, 4))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5], None, "go together"),
        ([0.5, 0.5], [1, 1], "one number a channel"),
        ([0.5], [0.0], "std is above 0"),
        ([0.5], [float("nan")], "std is above 0"),
    ],
)
def test_normalisation_must_fit(mean: list, std: list, message: str, module: types.ModuleType) -> None:
    refused(message, "nets_of_mine:network", mean=mean, std=std)


def test_normalisation_keeps_double_precision(module: types.ModuleType) -> None:
    module.double = lambda: network().double()
    target = foreign("nets_of_mine:double", mean=[0.5], std=[0.2])
    assert target.model(torch.rand(2, *SHAPE, dtype=torch.float64)).dtype == torch.float64


def test_weights_that_do_not_fit_are_listed(module: types.ModuleType, tmp_path: Path) -> None:
    state = network().state_dict()
    state["head.weight"] = state.pop("5.weight")
    torch.save(state, path := tmp_path / "weights.pt")
    refused("1 missing: 5.weight; 1 not in the network: head.weight", "nets_of_mine:network", path)


def test_weights_with_code_in_them_are_refused_unexecuted(module: types.ModuleType, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    with (tmp_path / "plain.pt").open("wb") as file:
        pickle.dump(Code(trace), file, protocol=2)
    torch.save({"state_dict": network().state_dict(), "config": Code(trace)}, tmp_path / "zipped.pth")
    refused("holds more than tensors", "nets_of_mine:network", tmp_path / "plain.pt")
    refused("holds more than tensors", "nets_of_mine:network", tmp_path / "zipped.pth")
    refused("is not a TorchScript file", tmp_path / "plain.pt")
    assert not trace.exists()


@pytest.mark.parametrize("trust_code", [False, True])
def test_trust_does_not_change_what_a_plain_program_computes(trust_code: bool, tmp_path: Path) -> None:
    model, x = network().eval(), torch.rand(3, *SHAPE)
    target = foreign(exported(tmp_path / "NET.PT2", model), trust_code=trust_code)
    torch.testing.assert_close(target.model(x), model(x))
    with pytest.raises(AssertionError, match=r"Guard failed: .*size\(\)\[2\] == 4"):
        target.model(torch.rand(3, 1, 5, 5))


def test_programs_exported_in_training_mode_are_refused(tmp_path: Path) -> None:
    refused(r"exported in training mode \(aten.batch_norm.default, aten.dropout.default\)", exported(tmp_path / "t.pt2", network()))


def test_files_that_hold_something_else(module: types.ModuleType, tmp_path: Path) -> None:
    script = torchscript(tmp_path / "script.pt", network().eval())
    torch.save(network().state_dict(), weights := tmp_path / "weights.pt")
    torch.save([1, 2], numbers := tmp_path / "numbers.pt")
    for name in ("noise.pt", "noise.pt2", "noise.onnx", "noise.safetensors"):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr("letter/text", "no model")
    refused("holds weights, not a network", weights)
    refused("holds its own weights", script, weights)
    refused("holds a whole network", "nets_of_mine:network", script)
    refused("holds no state_dict, .* but a list", "nets_of_mine:network", numbers)
    refused("not a TorchScript file", tmp_path / "noise.pt")
    refused("not an exported program", tmp_path / "noise.pt2")
    refused("not a file of weights", "nets_of_mine:network", tmp_path / "noise.pt")
    refused("not a safetensors file", "nets_of_mine:network", tmp_path / "noise.safetensors")
    refused("no file of weights by its name", "nets_of_mine:network", tmp_path / "noise.pt2")
    refused("noise.onnx (needs onnxruntime|is not an ONNX model)", tmp_path / "noise.onnx")


@pytest.mark.parametrize("suffix", [".pt", ".ts", ".pt2", ".onnx", ".safetensors", ".pth"])
def test_files_that_do_not_exist(suffix: str, module: types.ModuleType, tmp_path: Path) -> None:
    path = tmp_path / f"nothing{suffix}"
    weights = suffix in (".safetensors", ".pth")
    refused("does not exist", *(("nets_of_mine:network", path) if weights else (path,)))
    path.mkdir()
    refused("is a directory", *(("nets_of_mine:network", path) if weights else (path,)))
