"""Any network can be taken in: factored, run, exported, saved, trained."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import robust_lowrank as rlr
from robust_lowrank.layers import named_factored_layers
from tests.networks.count import count
from tests.networks.network import Network
from tests.networks.zoo import FULL, LARGE, SMALL

TOLERANCE = 1e-4
METHODS = ["condlr", "dlrt", "tdlrt", "geolora"]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in FULL if name not in LARGE]


@contextmanager
def taken(name: str, zoo: dict[str, Network]) -> Iterator[Network]:
    """Provide a network of a zoo, or skip the test without its package."""
    network = zoo[name]
    if network.needs:
        pytest.importorskip(network.needs)
    with network.at_home():
        yield network


def difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference, relative to the largest entry of a tensor that is not constant."""
    largest = wanted.abs().max()
    assert found.shape == wanted.shape
    assert wanted.std() > 0.01 * largest
    return float((found - wanted).abs().max() / largest)


def outline(model: nn.Module) -> tuple[dict[str, torch.Size], dict[str, bool], dict[str, type[nn.Module]]]:
    """Return the shapes of a network's state, which parameters train, and the classes of its modules."""
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    return shapes, trained, {name: type(module) for name, module in model.named_modules()}


def check_full_rank(network: Network, *forms: rlr.exporting.Form) -> None:
    original, inputs = network.build(), network.inputs()
    model = copy.deepcopy(original)
    rlr.compress(model, method="svd", rank=1.0)
    for training in (True, False):
        wanted = network.run(original.train(training), inputs)
        assert difference(network.run(model.train(training), inputs), wanted) < TOLERANCE, f"train({training})"
    for form in forms:
        exported = rlr.export(model, to=form)
        assert difference(network.run(exported, inputs), wanted) < TOLERANCE, form
        assert form != "dense" or outline(exported) == outline(original)


def check_step(network: Network, method: str) -> None:
    model, inputs = network.build().train(), network.inputs()
    rlr.compress(model, method=method, rank=0.25)
    optimizer = rlr.LowRankOptimizer(model, torch.optim.SGD, lr=0.1)

    def weights() -> dict[str, Tensor]:
        return {name: layer.dense_weight().detach().clone() for name, layer in named_factored_layers(model)}

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = network.loss_of(model, inputs)
        loss.backward()
        return loss

    before = weights()
    assert torch.isfinite(optimizer.step(closure))
    after = weights()
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert [name for name, parameter in model.named_parameters() if not parameter.isfinite().all()] == []


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", SMALL)
def test_at_full_rank_a_network_and_its_exports_compute_the_same(name: str) -> None:
    with taken(name, SMALL) as network:
        check_full_rank(network, "dense", "factors")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", SMALL)
def test_factors_are_loaded_by_networks_of_other_ranks_and_by_dense_ones(name: str, tmp_path: Path) -> None:
    with taken(name, SMALL) as network:
        model, inputs = network.build().eval(), network.inputs()
        dense = network.run(model, inputs)
        rlr.compress(model, method="svd", rank=0.5)
        wanted = network.run(model, inputs)
        assert difference(dense, wanted) > 1e-2, "half of the ranks make a difference"
        other, fresh = network.make().eval(), network.make().eval()
        rlr.compress(other, method="svd", rank=0.25)
        other.load_state_dict(model.state_dict())
        assert difference(network.run(other, inputs), wanted) < TOLERANCE
        rlr.save(model, tmp_path / "net.safetensors")
        assert difference(network.run(rlr.load(fresh, tmp_path / "net.safetensors"), inputs), wanted) < TOLERANCE


@pytest.mark.sampled(4)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SMALL)
def test_a_step_changes_every_layer(name: str, method: str) -> None:
    with taken(name, SMALL) as network:
        check_step(network, method)


def is_listed(parameter: str, names: set[str]) -> bool:
    """Return whether a parameter is named by itself, by its layer, or by its blocks."""
    return bool(names & {parameter, parameter.removesuffix(".weight")}) or any(name.startswith(f"{parameter}.") for name in names)


@pytest.mark.parametrize("name", SMALL)
def test_every_matrix_is_factored_or_reported_as_planned(name: str) -> None:
    with taken(name, SMALL) as network:
        model = network.make()
        parameters = [each for each, parameter in model.named_parameters() if parameter.dim() > 1]
        planned = rlr.plan(model, method="svd", rank=0.25)
        report = rlr.compress(model, method="svd", rank=0.25)
    factored, merged, kept = set(report.ranks), set(report.merged), set(report.kept_dense)
    assert [each for each in parameters if not is_listed(each, factored | kept)] == []
    forms = {form: set(rows.layer) for form, rows in planned.groupby("form")}
    assert (forms.get("chain", set()), forms.get("merged", set()), forms.get("dense", set())) == (factored - merged, merged, kept)


@pytest.mark.parametrize("name", FULL)
def test_a_network_of_full_size_leaves_no_matrix_dense_for_which_ranks_pay(name: str) -> None:
    with taken(name, FULL) as network:
        counted = count(network)
    assert counted.left <= 0.01, counted.reasons
    assert counted.chains + counted.merged + counted.chosen + len(counted.reasons) == counted.matrices


@pytest.mark.parametrize("name", SLOW)
def test_at_full_rank_a_network_of_full_size_and_its_export_compute_the_same(name: str) -> None:
    with taken(name, FULL) as network:
        check_full_rank(network, "dense")


@pytest.mark.parametrize("name", SLOW)
def test_a_step_changes_every_layer_of_a_network_of_full_size(name: str) -> None:
    with taken(name, FULL) as network:
        check_step(network, "dlrt")
