"""Several adapters of one network: each is what it would be alone, and the frozen weights are never touched."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import robust_lowrank as rlr
from robust_lowrank import UserError
from robust_lowrank.layers import Adapter, adapted_parts, named_factored_layers, without_updates
from robust_lowrank.layers.merging import merge

X = torch.linspace(-1, 1, 240, dtype=torch.float64).reshape(3, 8, 10)


class Net(nn.Module):
    """Layers that become chains, a convolution, a recurrent one and an attention, whose weights are merged, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv1d(8, 8, 3, padding=1), nn.Linear(10, 12)
        self.gru = nn.GRU(12, 12, batch_first=True)
        self.attention, self.head = nn.MultiheadAttention(12, 2, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gru(torch.tanh(self.fc(self.conv(x))))[0]
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Net().double()


def trained(model: nn.Module, steps: int = 3, sign: float = 1.0) -> nn.Module:
    optimizer = rlr.LowRankOptimizer(model, torch.optim.AdamW, lr=0.02)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (model(X) - sign).square().mean()
        loss.backward()
        return loss.detach()

    for _ in range(steps):
        optimizer.step(closure)
    optimizer.finish()
    return model


def output(model: nn.Module) -> Tensor:
    return model(X).detach()


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-10)


def two(first: object = "geolora", second: object = "condlr") -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network with adapters `a` and `b`, and what it computes with each alone."""
    model = network()
    rlr.adapt(model, method=first, rank=2, exclude=["head"], name="a")  # pyright: ignore
    with_a = output(trained(model))
    rlr.adapt(model, method=second, rank=3, exclude=["head", "conv"], name="b")  # pyright: ignore
    return model, with_a, output(trained(model, sign=-1.0))


METHODS: list[object] = ["geolora", "condlr", "lora", "usv", "stella", rlr.AdaLoRA(budget=12, steps=3), rlr.DLRT(tol=0.1)]


@pytest.mark.parametrize(("first", "second"), [*((method, "condlr") for method in METHODS), ("geolora", METHODS[-2])])
def test_each_adapter_is_what_it_was_when_the_others_are_off(first: object, second: object) -> None:
    base = output(network())
    model, with_a, with_b = two(first, second)
    rlr.set_adapter(model, "a")
    assert close(output(model), with_a)
    assert not close(with_a, base)
    rlr.set_adapter(model, "b")
    assert close(output(model), with_b)
    with without_updates(model):
        assert close(output(model), base)


@pytest.mark.parametrize("method", ["condlr", rlr.AdaLoRA(budget=14, steps=3)])
def test_an_adapter_trains_as_it_would_alone(method: object) -> None:
    alone, beside = network(), network()
    rlr.adapt(beside, method="lora", rank=1, include=["fc"], name="x")
    for model in (alone, beside):
        torch.manual_seed(0)
        rlr.adapt(model, method=method, rank=3, exclude=["head", "conv"], name="y")  # pyright: ignore
    assert close(output(trained(beside)), output(trained(alone)))


def test_the_frozen_weights_stay_bit_for_bit() -> None:
    before = network().state_dict()
    model, *_ = two("condlr", rlr.GeoLoRA(cond=2.0))
    rlr.delete_adapter(model, "a")
    rlr.delete_adapter(model, "b")
    assert not list(adapted_parts(model))
    assert not list(named_factored_layers(model))
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    assert close(output(model), output(network()))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_only_active_adapters_train_and_an_optimizer_notices_that_they_changed() -> None:
    model, *_ = two("lora", "geolora")
    rlr.set_adapter(model, "a")
    before = {name: layer.dense_weight().detach().clone() for name, layer in named_factored_layers(model)}
    optimizer = rlr.LowRankOptimizer(model, torch.optim.AdamW, lr=0.1, weight_decay=0.1)
    assert all(name.endswith("update_a") for name in optimizer._loads._layers)

    def step() -> None:
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()

    step()
    for name, layer in named_factored_layers(model):
        assert torch.equal(layer.dense_weight(), before[name]) == name.endswith("update_b")
    rlr.set_adapter(model, ["a", "b"])
    with pytest.raises(UserError, match="make another"):
        step()


def test_active_adapters_add_up_and_are_exported_and_reported_as_they_are() -> None:
    model, *_ = two()
    rlr.set_adapter(model, ["a", "b"])
    base, x = network().fc, torch.randn(5, 10, dtype=torch.float64)
    adapter = model.get_submodule("fc")
    assert isinstance(adapter, Adapter)
    due = base(x) + sum(layer.change(x) for layer in adapter.updates().values())
    assert torch.allclose(adapter(x), due)
    assert close(output(rlr.export(model)), output(model))
    assert torch.allclose(adapter.weight, adapter.dense_layer().weight)
    frame = rlr.spectra(model).set_index("layer")
    assert {"fc", "fc.base", "fc.update_a", "fc.update_b", "gru.weight_hh_l0.update_a"} <= set(frame.index)
    rlr.set_adapter(model, "a")
    assert close(output(rlr.export(model, to="dense")), output(model))


def test_merged_adapters_compute_the_same_without_chains_and_unmerge_exactly() -> None:
    model, with_a, with_b = two()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rlr.merge_adapter(model)
    calls: list[object] = []
    hook = model.get_submodule("fc.update_b").register_forward_hook(lambda *_: calls.append(1))
    assert close(output(model), with_b)
    assert not calls
    assert close(output(copy.deepcopy(model)), with_b)
    assert model.state_dict().keys() == before.keys()
    with without_updates(model):
        assert close(output(model), output(network()))
    rlr.unmerge_adapter(model)
    assert torch.equal(output(model), with_b)
    assert calls
    hook.remove()
    rlr.merge_adapter(model)
    rlr.set_adapter(model, "a")
    assert torch.equal(output(model), with_a)
    rlr.merge_adapter(model)
    model.load_state_dict(before)
    assert torch.equal(output(model), with_a)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("method", ["geolora", "condlr", "lora"])
def test_a_weighted_sum_is_exact_until_it_is_cut(method: str) -> None:
    model, *_ = two()
    changes = {}
    for name in ("a", "b"):
        rlr.set_adapter(model, name)
        changes[name] = {
            key: value - network().state_dict()[key] for key, value in rlr.export(model, to="dense").state_dict().items()
        }
    rlr.add_weighted_adapter(model, {"a": 0.7, "b": -0.3}, "both", method=method)
    found = rlr.export(model, to="dense").state_dict()
    for key, value in network().state_dict().items():
        assert torch.allclose(found[key], value + 0.7 * changes["a"][key] - 0.3 * changes["b"][key], rtol=0, atol=1e-10), key
    trained(model)
    rlr.add_weighted_adapter(model, {"a": 1.0}, "cut", rank=1)
    sigma = torch.linalg.svdvals(changes["a"]["fc.weight"])
    fc = rlr.export(model, to="dense").state_dict()["fc.weight"] - network().state_dict()["fc.weight"]
    assert torch.linalg.matrix_rank(fc, atol=1e-9) == 1
    assert torch.dist(fc, changes["a"]["fc.weight"]) == pytest.approx(float(sigma[1:].square().sum().sqrt()), rel=1e-6)


def test_checkpoints_hold_all_adapters_and_which_are_active(tmp_path: Path) -> None:
    model, with_a, with_b = two()
    rlr.save(model, tmp_path / "all.safetensors")
    for loaded in (rlr.load(network(), tmp_path / "all.safetensors"), rlr.load(two()[0], tmp_path / "all.safetensors")):
        assert torch.equal(output(loaded), with_b)
        rlr.set_adapter(loaded, "a")
        assert torch.equal(output(loaded), with_a)
    partial = network()
    rlr.save(model, tmp_path / "updates.safetensors", frozen=False)
    rlr.load(partial, tmp_path / "updates.safetensors")
    assert torch.equal(output(partial), with_b)
    assert (tmp_path / "updates.safetensors").stat().st_size < 0.8 * (tmp_path / "all.safetensors").stat().st_size


def test_an_adapter_has_a_file_of_its_own(tmp_path: Path) -> None:
    model, with_a, with_b = two()
    for name in ("a", "b"):
        rlr.save_adapter(model, tmp_path / f"{name}.safetensors", name)
    assert all(".update_a." in key for key in load_file(tmp_path / "a.safetensors"))
    fresh = network()
    rlr.load_adapter(fresh, tmp_path / "b.safetensors")
    assert torch.equal(output(fresh), with_b)
    rlr.load_adapter(fresh, tmp_path / "a.safetensors", name="default")
    assert torch.equal(output(fresh), with_a)
    assert fresh.get_submodule("fc").names == ("b", "default")
    assert {name for name, each in fresh.named_parameters() if each.requires_grad and "update" in name} == {
        name for name, each in fresh.named_parameters() if ".update." in name
    }
    trained(fresh)
    rlr.set_adapter(fresh, "b")
    assert torch.equal(output(fresh), with_b)
    rlr.save_adapter(fresh, tmp_path / "again.safetensors", "b")
    assert torch.equal(
        load_file(tmp_path / "again.safetensors")["fc.update_b.U"], load_file(tmp_path / "b.safetensors")["fc.update_b.U"]
    )
    moved = network()
    nn.init.ones_(moved.get_parameter("fc.weight"))
    with pytest.warns(UserWarning, match="other frozen weights"):
        rlr.load_adapter(moved, tmp_path / "a.safetensors")


def unchanged(model: nn.Module, act: Callable[[nn.Module], object], match: str) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flags = {name: each.requires_grad for name, each in model.named_parameters()}
    active = [part.active for _, part in adapted_parts(model)]
    with pytest.raises(UserError, match=match):
        act(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert list(model.state_dict()) == list(before)
    assert {name: each.requires_grad for name, each in model.named_parameters()} == flags
    assert [part.active for _, part in adapted_parts(model)] == active


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    model, *_ = two()
    file, whole = tmp_path / "a.safetensors", tmp_path / "whole.safetensors"
    rlr.save_adapter(model, file, "a")
    rlr.save(model, whole)
    unchanged(model, lambda m: rlr.load_adapter(m, file), "has an adapter 'a'")
    unchanged(model, lambda m: rlr.load_adapter(m, whole), "take rlr.load")
    unchanged(network(), lambda m: rlr.load(m, file), "take rlr.load_adapter")
    unchanged(model, lambda m: rlr.load_adapter(m, file, name="../x"), "adapter name")
    unchanged(nn.Sequential(nn.Linear(2, 2)), lambda m: rlr.load_adapter(m, file), "does not fit")
    other = two()[0]
    rlr.delete_adapter(other, "a")
    with safe_open(file, framework="pt") as opened:
        header = opened.metadata()
    tensors = load_file(file)
    save_file({**tensors, "gru.parametrizations.weight_hh_l0.0.whole.update_a.U": torch.ones(2, 2)}, file, metadata=header)
    unchanged(other, lambda m: rlr.load_adapter(m, file), "does not fit")
    save_file({key: tensor for key, tensor in tensors.items() if not key.endswith("fc.update_a.S")}, file, metadata=header)
    unchanged(other, lambda m: rlr.load_adapter(m, file), "fc.update_a.S")
    for name in ("", "a.b", "ü", 3, "x/y"):
        unchanged(model, lambda m, name=name: rlr.adapt(m, rank=1, name=name), "adapter name")
    unchanged(model, lambda m: rlr.adapt(m, rank=1, name="a", exclude=["head"]), "no layer of the network can be factored")
    unchanged(model, lambda m: rlr.set_adapter(m, "c"), "no adapter .'c'.; there are: a, b")
    unchanged(model, lambda m: rlr.set_adapter(m, []), "no adapter")
    unchanged(model, lambda m: rlr.delete_adapter(m, "c"), "no adapter")
    unchanged(model, lambda m: rlr.add_weighted_adapter(m, {"a": 1.0}, "b"), "has an adapter 'b'")
    unchanged(model, lambda m: rlr.add_weighted_adapter(m, {"a": float("nan")}, "c"), "must be numbers")
    unchanged(model, lambda m: rlr.add_weighted_adapter(m, {"a": 1.0}, "c", rank=0), "whole number")
    unchanged(network(), rlr.merge_adapter, "call adapt first")


def test_files_of_before_load(tmp_path: Path) -> None:
    """Older descriptions have no names, and older adapters of CondLR took a part of the frozen weight."""
    model, file = network(), tmp_path / "net.safetensors"
    rlr.adapt(model, method="condlr", rank=2, include=["fc", "conv"])
    due = output(trained(model))
    with torch.no_grad():
        for layer in (model.get_submodule("fc"), model.get_submodule("conv")):
            update = layer.update
            layer.base.weight -= update.alpha * update.shaped(merge(update.start.factors()))
    rlr.save(model, file)
    with safe_open(file, framework="pt") as opened:
        header = json.loads(opened.metadata()["robust_lowrank"])
    for entry in header["layers"].values():
        for key in ("adapter", "active", "start"):
            del entry[key]
    old = {key: value for key, value in load_file(file).items() if ".start." not in key}
    save_file(old, file, metadata={"robust_lowrank": json.dumps(header)})
    loaded = rlr.load(network(), file)
    assert close(output(loaded), due)
    rlr.save(loaded, file, frozen=False)
    assert torch.equal(output(rlr.load(network(), file)), output(loaded))
