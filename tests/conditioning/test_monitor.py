"""The monitor: its figures beside numpy's, its steps, and that it goes on where it was."""

import copy
import json
import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from torch import nn

from robust_lowrank import JsonlWriter, LowRankOptimizer, MemoryWriter, Monitor, ParquetWriter, compress, linalg
from robust_lowrank.conditioning import spectra
from robust_lowrank.conditioning.alerts import Alert
from robust_lowrank.conditioning.monitor import Sample, to_cpu
from robust_lowrank.conditioning.rotation import largest_angle, overlap
from robust_lowrank.errors import UserError
from robust_lowrank.layers import FactoredLayer, named_factored_layers
from robust_lowrank.methods import DLRT, METHODS, TDLRT, CondLR
from robust_lowrank.models import build
from robust_lowrank.records import MONITOR


def network(method: object = None, rank: float | None = 0.3) -> nn.Module:
    torch.manual_seed(0)
    model = build("cnn", input_shape=(1, 8, 8), num_classes=10)
    if method is not None:
        compress(model, method=method, rank=rank, exclude=["fc2"])  # pyright: ignore[reportArgumentType]
    return model


def trainer(model: nn.Module, **options: object) -> tuple[LowRankOptimizer, "object"]:
    x, y = torch.rand(16, 1, 8, 8), torch.randint(0, 10, (16,))
    optimizer = LowRankOptimizer(model, torch.optim.SGD, lr=0.05, **options)  # pyright: ignore[reportArgumentType]

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    return optimizer, lambda: optimizer.step(closure)


@pytest.mark.parametrize("method", ["dense", *METHODS])
def test_figures_are_those_of_the_merged_weights_by_numpy(method: str) -> None:
    model = network() if method == "dense" else network(method, 0.3 if METHODS[method].ranked else None)
    rows = Monitor(model, dense_every=10).record()
    assert [row["layer"] for row in rows] == ["conv1", "conv2", "fc1", "fc2"]
    for row, (_, expected) in zip(rows, spectra(model).iterrows(), strict=True):
        layer = model.get_submodule(row["layer"])
        weight = layer.dense_weight() if isinstance(layer, FactoredLayer) else layer.get_parameter("weight")
        matrix = weight.detach().flatten(1).double().numpy()
        sigma = np.linalg.svd(matrix, compute_uv=False)
        assert np.allclose(row["singular_values"], sigma[: row["rank"]], rtol=0, atol=1e-5 * sigma[0])
        assert row["stable_rank"] == pytest.approx(np.linalg.norm(matrix) ** 2 / np.linalg.norm(matrix, 2) ** 2, rel=1e-5)
        for column in ("sigma_max", "sigma_min", "cond", "rank", "kind", "factored"):
            assert row[column] == (
                expected[column] if isinstance(expected[column], str) else pytest.approx(expected[column], rel=1e-4)
            )
        assert row["orthonormality"] == pytest.approx(expected["orthonormality"], abs=1e-5, nan_ok=True)
    assert rows[0]["cond_product"] == pytest.approx(math.prod(row["cond"] for row in rows if row["factored"]))


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.3, 1.2, math.pi / 2])
def test_an_angle_comes_back_whether_small_or_large(angle: float) -> None:
    plane = torch.linalg.qr(torch.randn(9, 3, dtype=torch.float64)).Q
    outside = torch.linalg.qr(torch.cat([plane, torch.randn(9, 1, dtype=torch.float64)], dim=1)).Q[:, 3]
    turned = torch.cat([plane[:, :2], (math.cos(angle) * plane[:, 2] + math.sin(angle) * outside)[:, None]], dim=1)
    mixed = turned @ torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    assert largest_angle(overlap(plane, mixed)) == pytest.approx(angle, abs=1e-14)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
def test_angles_are_scipys_and_symmetric(first: int, second: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.linalg.qr(torch.randn(7, r, generator=generator, dtype=torch.float64)).Q for r in (first, second))
    found = largest_angle(overlap(a, b))
    assert found == pytest.approx(subspace_angles(a.numpy(), b.numpy())[0], abs=1e-10)
    assert found == pytest.approx(largest_angle(overlap(b, a)), abs=1e-10)


def test_a_basis_within_another_has_not_turned() -> None:
    large = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64)).Q
    assert largest_angle(overlap(large[:, :2], large)) < 1e-14
    assert largest_angle(overlap(large, large[:, 1:3])) < 1e-14


def test_the_rotation_is_that_since_the_last_record() -> None:
    model = network("condlr")
    monitor = Monitor(model)
    assert all(math.isnan(row["rotation_u"]) for row in monitor.record())
    assert all(row["rotation_u"] < 1e-5 and row["rotation_v"] < 1e-5 for row in monitor.record())
    layer = dict(named_factored_layers(model))["fc1"]
    old = layer.factors()
    u = linalg.orth(old.bases[0] + 0.01 * torch.randn_like(old.bases[0]))
    layer.set_factors(old._replace(bases=(u, old.bases[1])))
    row = monitor.record()[-1]
    assert row["rotation_u"] == pytest.approx(largest_angle(overlap(old.bases[0].double(), u.double())), rel=1e-3)
    assert row["rotation_v"] < 1e-5


def test_the_distance_is_that_to_the_nearest_admissible_weight() -> None:
    model = network(CondLR(tau=0.5))
    monitor = Monitor(model)
    assert max(row["distance"] for row in monitor.record()) < 1e-6
    layer = dict(named_factored_layers(model))["fc1"]
    rank = layer.rank
    values = torch.ones(rank)
    values[0] = 3.0
    layer.set_factors(layer.factors()._replace(core=values.diag()))
    row = monitor.record()[-1]
    candidates = np.linspace(0.5, 2.5, 20001)  # of the least value; the largest is 1.5 times that
    sigma = values.numpy()
    nearest = min(np.linalg.norm(sigma - np.clip(sigma, low, 1.5 * low)) for low in candidates)
    assert row["distance"] == pytest.approx(nearest / np.linalg.norm(sigma), rel=1e-5)


def test_without_a_bound_there_is_no_distance() -> None:
    for method in ("dlrt", "vanilla", CondLR(tau=math.inf)):
        assert all(math.isnan(row["distance"]) for row in Monitor(network(method)).record())


def test_ranks_may_change_between_records() -> None:
    model = network(DLRT(tol=0.4))
    _, step = trainer(model)
    memory = MemoryWriter()
    monitor = Monitor(model, every=1, writers=[memory])
    for _ in range(4):
        step()
        monitor.step()
    frame = memory.frame()
    assert frame.groupby("layer")["rank"].nunique().max() > 1
    later = frame[frame["step"] > 1]
    assert later["rotation_u"].between(0, math.pi / 2).all()
    assert later["rotation_v"].between(0, math.pi / 2).all()


def test_records_wait_until_a_window_has_closed() -> None:
    model = network(TDLRT(tol=0.3))
    optimizer, step = trainer(model, step="amortised", window=3)
    memory = MemoryWriter()
    Monitor(model, every=6, writers=[memory]).attach(optimizer)
    for _ in range(16):
        step()
    assert sorted(set(memory.frame()["step"])) == [8, 12]


def test_every_and_dense_every() -> None:
    model, memory = network("condlr"), MemoryWriter()
    monitor = Monitor(model, every=2, dense_every=4, writers=[memory])
    for _ in range(9):
        monitor.step()
    counts = memory.frame().groupby("step")["layer"].apply(list).to_dict()
    factored = ["conv1", "conv2", "fc1"]
    assert counts == {2: factored, 4: [*factored, "fc2"], 6: factored, 8: [*factored, "fc2"]}


def test_a_step_that_has_been_seen_is_not_recorded_again() -> None:
    memory = MemoryWriter()
    monitor = Monitor(network("condlr"), every=5, writers=[memory])
    for number in (4, 5, 5, 6, 10, 10):
        monitor.step(number)
    assert sorted(set(memory.frame()["step"])) == [5, 10]


def test_the_attached_optimizer_counts_its_own_steps_only() -> None:
    model = network("dlrt")
    optimizer, step = trainer(model)  # two evaluations, and inner steps, a step
    monitor = Monitor(model, every=2).attach(optimizer)
    for _ in range(3):
        step()
    assert monitor.steps == 3


def test_a_monitor_is_attached_once_and_lets_go() -> None:
    model = network("condlr")
    optimizer, step = trainer(model)
    monitor = Monitor(model, every=2).attach(optimizer)
    with pytest.raises(UserError, match="attached"):
        monitor.attach(optimizer)
    step()
    monitor.detach()
    step()
    assert monitor.steps == 1
    with monitor.attach(optimizer):
        step()
    step()  # closing has let go of the optimizer
    assert monitor.steps == 2
    copy.deepcopy(monitor.attach(optimizer)).attach(trainer(model)[0])  # the copy is attached to nothing


def test_nan_is_recorded_and_told_and_training_goes_on() -> None:
    model = network("condlr")
    dict(named_factored_layers(model))["conv2"].core.data[0, 0] = math.nan
    alerts: list[Alert] = []
    monitor = Monitor(model, on_alert=alerts.append)
    rows = {row["layer"]: row for row in monitor.record()}
    assert math.isnan(rows["conv2"]["cond"])
    assert rows["conv1"]["cond"] > 0
    assert {alert.layer for alert in alerts} == {"conv2"}
    assert "nan" in monitor.line()


def test_a_warning_names_layer_value_step_and_remedy_once_until_it_recovers(caplog: pytest.LogCaptureFixture) -> None:
    model = network(CondLR(tau=math.inf))
    layer = dict(named_factored_layers(model))["fc1"]
    monitor = Monitor(model, every=1)

    def at(cond: float) -> list[str]:
        caplog.clear()
        values = torch.linspace(1, 1 / cond, layer.rank)
        layer.set_factors(layer.factors()._replace(core=values.diag()))
        with caplog.at_level(logging.WARNING, logger="robust_lowrank"):
            monitor.step()
        return [record.getMessage() for record in caplog.records]

    (message,) = at(2e4)
    assert message.startswith("step 1: cond of layer 'fc1' is 2e+04, above 1e+04: bound it")
    assert at(3e4) == []
    assert at(5.0) == []
    assert len(at(2e4)) == 1


def test_the_line_names_the_worst_layer() -> None:
    model = network("condlr")
    monitor = Monitor(model)
    assert monitor.line() == ""
    worst = max(monitor.record(), key=lambda row: row["cond"])
    assert monitor.line().startswith(f"cond ≤ {worst['cond']:.3g} ({worst['layer']}), orth ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every = 0 is below 1"),
        ({"every": 10, "dense_every": 15}, "dense_every = 15 must be a multiple"),
        ({"warn": {"condition": 3}}, "unknown quantity 'condition': did you mean"),
        ({"warn": {"cond": math.nan}}, "the limit of cond is not a number"),
    ],
)
def test_wrong_use_is_named(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Monitor(network(), **options)


def test_tensors_of_several_types_and_shapes_come_back_as_they_were() -> None:
    given = [
        Sample(torch.randn(3, 2, dtype=torch.float64), [torch.tensor(1.0)], [overlap(torch.eye(4, 2), torch.eye(4, 3))]),
        Sample(torch.randn(2, 2).bfloat16(), [], []),
    ]
    back = to_cpu(given)
    assert torch.equal(back[0].matrix, given[0].matrix)
    assert torch.equal(back[1].matrix, given[1].matrix.to(back[1].matrix.dtype))
    assert torch.equal(back[0].turned[0].cross, given[0].turned[0].cross.to(back[0].matrix.dtype))


@pytest.mark.parametrize("kind", ["memory", "parquet", "jsonl"])
def test_an_interrupted_history_goes_on_as_one(kind: str, tmp_path: Path) -> None:
    def history(stop: int | None) -> pd.DataFrame:
        path = tmp_path / f"{stop}.{kind}"
        writers = {"memory": MemoryWriter, "parquet": lambda: ParquetWriter(path), "jsonl": lambda: JsonlWriter(path)}
        writer = writers[kind]()
        model = network("condlr")
        _, step = trainer(model)
        monitor = Monitor(model, every=3, warn={}, writers=[writer])
        state = None
        for number in range(1, 13):
            step()
            monitor.step()
            if number == stop:
                state = monitor.state_dict()
            if number == 8 and stop is not None:  # what came after the state is lost; the weights are put back by going on here
                writer.close()
                if kind != "memory":
                    writer = writers[kind]()
                monitor = Monitor(model, every=3, warn={}, writers=[writer])
                assert state is not None
                monitor.load_state_dict(state | {"steps": 8})
        monitor.close()
        if kind == "jsonl":
            return pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])
        return pd.read_parquet(path) if kind == "parquet" else writer.frame()  # pyright: ignore[reportAttributeAccessIssue]

    whole, resumed = history(None), history(7)
    assert list(whole.columns) == list(MONITOR)
    columns = [name for name in MONITOR if name != "singular_values"]
    pd.testing.assert_frame_equal(whole[columns], resumed[columns])
    assert [list(values) for values in whole["singular_values"]] == [list(values) for values in resumed["singular_values"]]


def test_a_basis_that_is_not_a_number_is_recorded_and_told():
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))
    compress(net, method="condlr", rank=4, exclude=["1"])
    told = []
    monitor = Monitor(net, every=1, on_alert=told.append)
    monitor.step()
    net[0].U.data[0, 0] = math.nan
    monitor.step()
    assert math.isnan(monitor.latest[0]["cond"])
    assert "nan" in monitor.line()
    assert {alert.quantity for alert in told} == {"cond", "orthonormality"}
    assert "is not a number: training has diverged" in str(told[0])


@pytest.mark.parametrize("writer", [JsonlWriter, ParquetWriter])
def test_a_new_monitor_goes_on_after_the_steps_of_the_file(writer, tmp_path):
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    compress(net, method="condlr", rank=2, exclude=["1"])
    for _ in range(2):
        with Monitor(net, every=2, writers=[writer(tmp_path / "history")]) as monitor:
            for _ in range(4):
                monitor.step()
    steps = pd.read_json(tmp_path / "history", lines=True) if writer is JsonlWriter else pd.read_parquet(tmp_path / "history")
    assert steps["step"].tolist() == [2, 4, 6, 8]
