from statistics import median

import pytest
import torch
from torch import nn

import robust_lowrank as rlr
from robust_lowrank import records, training
from robust_lowrank.exporting import export
from robust_lowrank.exporting.timing import LEAST_ROUNDS, time_in_turn
from robust_lowrank.training.costs import BATCHES, count_flops, measure_costs


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 20), nn.ReLU(), nn.Linear(20, 3))


def test_operations_of_layers_are_those_of_the_definition():
    assert count_flops(nn.Linear(5, 7), torch.zeros(1, 5)) == 2 * 5 * 7
    assert count_flops(nn.Conv2d(3, 4, 3, padding=1, stride=2), torch.zeros(1, 3, 8, 8)) == 2 * (4 * 4) * 4 * (3 * 9)


def test_costs_are_those_of_the_network_as_stored_for_inference():
    model = network()
    dense = 2 * 16 * 6 * 9 + 2 * 96 * 20 + 2 * 20 * 3
    assert measure_costs(model, (1, 4, 4)).flops == dense
    rlr.compress(model, method="vanilla", rank=2, exclude=["0", "5"])
    model.train()
    costs = measure_costs(model, (1, 4, 4))
    assert costs.dense_flops == dense
    assert costs.flops == dense - 2 * 96 * 20 + 2 * 2 * (96 + 20)
    assert costs.flops == count_flops(export(model), torch.zeros(1, 1, 4, 4))
    assert [latency.batch for latency in costs.latencies] == list(BATCHES)
    assert all(latency.milliseconds > 0 < latency.dense_milliseconds for latency in costs.latencies)
    assert all(latency.passes >= LEAST_ROUNDS for latency in costs.latencies)
    assert all(latency.ratio_low <= latency.relative <= latency.ratio_high for latency in costs.latencies)
    assert costs.threads == torch.get_num_threads()


def test_a_network_that_does_twice_the_work_is_slower():
    dense = nn.Sequential(nn.Linear(400, 400))
    twice = nn.Sequential(nn.Linear(400, 400), nn.Linear(400, 400), nn.Linear(400, 400))
    rounds = time_in_turn((twice, dense), torch.ones(64, 400))
    assert 1.5 < median(a / b for a, b in rounds) < 6


def test_costs_are_added_to_a_complete_run_once(tmp_path):
    config = {"data": {"name": "digits", "train_examples": 200}, "model": {"name": "mlp"}, "training": {"epochs": 1}}
    assert training.train(training.TrainConfig.model_validate(config), tmp_path / "run").record.costs is None
    training.record_costs(tmp_path / "run", torch.device("cpu"))
    record = records.read_run(tmp_path / "run").record
    files = records.RunFiles(tmp_path / "run")
    assert record.costs is not None and records.broken_seals(files.record, record, files.beside) == []
    written = files.record.read_bytes()
    training.record_costs(tmp_path / "run", torch.device("cpu"))
    assert files.record.read_bytes() == written
    damaged = records.write_sealed(files.record, record.model_copy(update={"costs": None}), files.beside)
    files.metrics.write_bytes(b"")
    training.record_costs(tmp_path / "run", torch.device("cpu"))  # whose seal would hide that a file is not as it was
    assert records.read_record(files.record, records.RunRecord) == damaged


def test_measuring_leaves_the_network_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    measure_costs(model, (1, 4, 4))
    assert model.training and all(module.training for module in model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_a_record_without_costs_is_read(tmp_path):
    run = {
        "label": "a",
        "method": "dense",
        "model": "mlp",
        "data": "digits",
        "seed": 0,
        "created": "2026-11-24T00:00:00+00:00",
        "command": "",
        "config": {},
        "versions": {},
        "machine": "",
        "hashes": {},
        "parameters": {"total": 1, "dense": 1, "inference": 1, "removed": 0.0, "rank_fraction": 1.0},
    }
    record = records.RunRecord.model_validate(run)
    assert record.costs is None and record.classes == []
    known = record.model_copy(update={"costs": measure_costs(nn.Linear(4, 2), (4,))})
    records.write_record(tmp_path / "run.json", known)
    assert records.read_record(tmp_path / "run.json", records.RunRecord) == known
    with pytest.raises(ValueError, match="flops"):
        records.Costs.model_validate({"latencies": [], "threads": 1, "machine": ""})
