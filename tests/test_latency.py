"""Ranks that a budget of milliseconds allows: what is timed, what stays dense, what is refused, and that the promise is kept."""

import copy
import warnings
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robust_lowrank.latency as latency
from robust_lowrank import TDLRT, Budget, CondLR, UserError, adapt, compress, export, plan
from robust_lowrank.exporting.timing import time_in_turn
from robust_lowrank.layers import ChainLayer, named_factored_layers
from robust_lowrank.methods import Method


class Net(nn.Module):
    """A network with a layer that is called twice, one whose weight another reads, a recurrent one, and a small one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 32, 3, padding=1)
        self.twice = nn.Linear(32, 32)
        self.lstm = nn.LSTM(32, 16, batch_first=True)
        self.wide = nn.Linear(16, 400)
        self.attention = nn.MultiheadAttention(400, 2, batch_first=True)
        self.last = nn.Linear(400, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).flatten(2).mT
        y = self.lstm(torch.relu(self.twice(torch.relu(self.twice(y)))))[0]
        y = torch.relu(self.wide(y))
        return self.last(self.attention(y, y, y)[0][:, -1])


def by_numbers(monkeypatch: pytest.MonkeyPatch, *, base: float = 0.0) -> None:
    """Have a module seem to take a microsecond a parameter, and a base for each of its layers."""

    def seconds(module: nn.Module) -> float:
        layers = sum(isinstance(each, nn.Linear | nn.Conv2d) for each in module.modules())
        return base * layers + 1e-6 * sum(each.numel() for each in module.parameters())

    monkeypatch.setattr(latency, "time_in_turn", lambda modules, _: [tuple(map(seconds, modules))] * 5)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 80), nn.ReLU(), nn.Linear(80, 10))
    for layer in (net[0], net[2]):
        u, _, vh = torch.linalg.svd(layer.weight.data, full_matrices=False)
        layer.weight.data = u * 0.9 ** torch.arange(len(vh)) @ vh
    return net


@pytest.mark.parametrize("method", ["condlr", "vanilla", "geolora"])
@pytest.mark.parametrize("allowed", [4.0, 7.0, 11.0])
def test_what_is_measured_is_within_the_budget_and_uses_it(monkeypatch: pytest.MonkeyPatch, method: str, allowed: float) -> None:
    by_numbers(monkeypatch)
    net, x = mlp(), torch.rand(3, 64)
    report = compress(net, method=method, rank=Budget(latency_ms=allowed), exclude=["4"], example_input=x)
    numbers = sum(each.numel() for each in export(net, to="factors").parameters())
    assert report.latency is not None
    assert report.latency == pytest.approx((allowed, 15.39, numbers / 1000))
    assert allowed - 0.25 < numbers / 1000 <= allowed
    assert set(report.ranks) | set(report.kept_dense) == {"0", "2", "4"}


def test_the_plan_says_the_same_and_touches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    by_numbers(monkeypatch)
    net, x = mlp(), torch.rand(3, 64)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    table = plan(net, rank=Budget(latency_ms=7.0), exclude=["4"], example_input=x)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    report = compress(net, rank=Budget(latency_ms=7.0), exclude=["4"], example_input=x)
    ranks = dict(zip(table["layer"], table["rank"], strict=True))
    assert ranks | report.ranks == ranks
    assert table.attrs["latency"] == report.latency._asdict()  # pyright: ignore[reportOptionalMemberAccess]


def test_energy_goes_by_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two layers with the same spectra, the one that takes longer at every rank gets fewer of them."""

    def seconds(module: nn.Module) -> float:
        ours = [each for each in module.modules() if isinstance(each, nn.Linear)]
        return sum(each.weight.numel() * (4e-6 if 40 in each.weight.shape else 1e-6) for each in ours)

    monkeypatch.setattr(latency, "time_in_turn", lambda modules, _: [tuple(map(seconds, modules))] * 5)
    net = nn.Sequential(nn.Linear(40, 60), nn.Linear(60, 60))
    for layer in net:
        u, _, vh = torch.linalg.svd(layer.weight.data, full_matrices=False)
        layer.weight.data = u * 0.9 ** torch.arange(len(vh)) @ vh
    ranks = compress(net, rank=Budget(latency_ms=4.5), example_input=torch.rand(2, 40)).ranks
    assert ranks["0"] < ranks["1"]


def test_only_layers_that_gain_by_factors_are_factored(monkeypatch: pytest.MonkeyPatch) -> None:
    by_numbers(monkeypatch, base=0.002)  # a call costs as much as 2000 numbers, and a chain is two
    net, x = Net(), torch.rand(2, 8, 4, 4)
    dense = 1e-3 * sum(each.numel() for each in net.parameters()) + 2 * 5  # attention's output among the five
    report = compress(net, method="condlr", rank=Budget(latency_ms=0.999 * dense), exclude=["last"], example_input=x)
    assert set(report.ranks) == {"wide"}
    kept = report.kept_dense
    assert all("merged in a pass" in kept[name] for name in kept if name.startswith(("lstm", "attention")))
    assert "at no rank faster" in kept["twice"] and "at no rank faster" in kept["conv"] and "excluded" in kept["last"]


def test_calls_are_counted_on_the_input_that_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: dict[int, Any] = {}

    def time(modules: Any, x: Any) -> list[tuple[float, ...]]:
        shapes[modules[0].weight.numel()] = tuple(x.shape)
        return [tuple(float(sum(each.numel() for each in module.parameters())) for module in modules)] * 5

    monkeypatch.setattr(latency, "time_in_turn", time)
    net, method = Net().eval(), CondLR()
    from robust_lowrank.candidates import find
    from robust_lowrank.layers.forms import form_of
    from robust_lowrank.observation import observe

    x = torch.rand(2, 8, 4, 4)
    matrices = find(net, form_of(method), seen=observe(net, x).seen)
    found = latency.time_options(net, [each for matrix in matrices for each in matrix.candidates], method, latency.of_batch(x, 5))
    assert shapes == {32 * 72: (5, 8, 4, 4), 32 * 32: (5, 16, 32), 16 * 400: (5, 16, 16), 400 * 4: (5, 400)}
    assert set(found) == {"conv", "twice", "wide", "last"}
    assert found["twice"].options.costs[-1] == 2 * (32 * 32 + 32) and found["wide"].options.costs[-1] == 17 * 400
    assert found["twice"].options.costs[0] == 2 * (32 + 32 + 32)  # rank 1, whose time is measured


@pytest.mark.parametrize("method", [CondLR(), TDLRT(modes="all")], ids=["matrix", "tucker"])
def test_energy_that_is_kept_is_what_truncation_keeps(method: Method) -> None:
    from robust_lowrank.initialisation import leading_factors
    from robust_lowrank.layers.forms import form_of
    from robust_lowrank.layers.merging import merge
    from robust_lowrank.ranks import energies, ranks_of

    conv, form = nn.Conv2d(6, 8, 3), form_of(method)
    weight = form.weight(conv)
    family = list(dict.fromkeys(ranks_of("conv", conv, form, part / 8) for part in range(1, 9)))
    kept = latency._kept(energies(weight, form.modes_of(weight)), family)
    for ranks, energy in zip(family, kept, strict=True):
        factors = leading_factors(weight, ranks)
        truncated = merge(factors) if weight.ndim == 4 else factors.bases[0] @ factors.core @ factors.bases[1].T
        lost = float((truncated - weight).norm() ** 2 / weight.norm() ** 2)
        assert energy <= 1 - lost + 1e-5
        assert weight.ndim == 4 or energy == pytest.approx(1 - lost, abs=1e-5)


def test_what_cannot_be_is_refused_with_the_remedy_and_the_network_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    by_numbers(monkeypatch)
    x = torch.rand(3, 64)
    for make, message in (
        (lambda: compress(mlp(), rank=Budget(latency_ms=3.0)), "give example_input"),
        (
            lambda: compress(mlp(), rank=Budget(latency_ms=1.1), exclude=["4"], example_input=x),
            "takes 1.33 ms, dense 15.4 ms",
        ),
        (lambda: compress(mlp(), rank=Budget(latency_ms=99.0), example_input=x), "dense, the network takes 15.4 ms already"),
        (lambda: compress(mlp(), rank=Budget(latency_ms=3.0), example_input=(x, x[:2])), "does not run on example_input"),
        (lambda: compress(mlp(), method="landing", rank=Budget(latency_ms=3.0), example_input=x), "leave rank out"),
        (lambda: adapt(mlp(), rank=Budget(latency_ms=3.0)), "for compress"),
        (lambda: latency.of_batch((x, x[:2]), 5), "leave batch out"),
        (lambda: Budget(), "give one"),
        (lambda: Budget(params=0.5, latency_ms=3.0), "give one"),
        (lambda: Budget(latency_ms=0.0), "milliseconds above 0"),
        (lambda: Budget(latency_ms="3"), "milliseconds above 0"),  # pyright: ignore[reportArgumentType]
        (lambda: Budget(latency_ms=3.0, batch=0), "1 or more"),
        (lambda: Budget(params=0.5, batch=2), "leave it out"),
    ):
        with pytest.raises(UserError, match=message):
            make()


def test_a_finished_network_that_is_slower_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    by_numbers(monkeypatch)
    x = torch.rand(3, 64)
    net = mlp()

    def slower(modules: Any, _: Any) -> list[tuple[float, ...]]:
        factored = any(isinstance(each, ChainLayer) for each in net)
        numbers = [1e-6 * sum(each.numel() for each in module.parameters()) for module in modules]
        return [(numbers[0] + 0.01 * factored, *numbers[1:])] * 5

    monkeypatch.setattr(latency, "time_in_turn", slower)
    with pytest.warns(UserWarning, match=r"latency_ms = 7: .* and finished it takes"):
        report = compress(net, rank=Budget(latency_ms=7.0), exclude=["4"], example_input=x)
    assert report.latency is not None and report.latency.factors > 7.7 and list(named_factored_layers(net))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_real_network_takes_what_it_may(share: float) -> None:
    """Held against the dense network in turn, as the machine may have become faster or slower by then."""
    torch.manual_seed(0)
    wide = [nn.Linear(1024, 1024), nn.ReLU()]
    net, x = nn.Sequential(*copy.deepcopy(wide * 3), nn.Linear(1024, 10)).eval(), torch.rand(64, 1024)
    dense = copy.deepcopy(net)
    for attempt in range(4):
        allowed = 1000 * share * median(seconds for (seconds,) in time_in_turn((net,), x))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a busy machine
                report = compress(net, rank=Budget(latency_ms=allowed), exclude=["6"], example_input=x)
            break
        except UserError as error:  # the machine was busy while the dense network was timed here, and is not any more
            if "the network takes" not in str(error) or attempt == 3:
                raise
    assert report.latency is not None and report.latency.factors <= 1.5 * allowed
    rounds = time_in_turn((export(net, to="factors").eval(), dense), x)
    assert median(ours / theirs for ours, theirs in rounds) < 1.5 * allowed / report.latency.dense
