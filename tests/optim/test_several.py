"""Several processes train one network: bit for bit the same copies, and the network that one would train on all their batches."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.optim import copies
from tests.optim.copies import METHODS, OPTIMIZERS, STEPS, Case, distance, same, trained
from tests.processes import in_processes

ROOT = Path(__file__).parents[2]
FEW = [
    Case("condlr"),
    Case("dlrt", "AdamW"),
    Case("dlrt by the network", step="amortised"),
    Case("tdlrt"),
    Case("geolora", "AdamW", unusual="clipped"),
    Case("geolora", step="amortised", unusual="wrapped"),
    Case("dlrt", step="amortised", unusual="accumulated"),
    Case("dlrt", step="amortised", unusual="scaled"),
    Case("dlrt", "AdamW", moments="elementwise"),
    Case("adalora", "AdamW"),
]
ALL = [
    *(Case(method, optimizer, step) for method in METHODS for optimizer in OPTIMIZERS for step in ("exact", "amortised")),
    *(Case(method, moments="elementwise") for method in ("condlr", "dlrt", "tdlrt", "geolora")),
    *(Case(method, unusual="wrapped") for method in METHODS),
    *(Case(method, step="amortised", unusual="clipped") for method in METHODS),
    *(Case(method, "AdamW", "amortised", unusual="accumulated") for method in METHODS),
]
ADAPTIVE = ("dlrt", "dlrt by the network", "tdlrt", "geolora")


def assert_one_network(case: Case, parts: list[dict[str, Any]], *, steps: int) -> None:
    """Assert that copies are the same, their ranks changed, and one process trains their network on the whole batches."""
    assert all(same(part, parts[0]) for part in parts[1:])
    alone = trained(case, steps=steps)
    assert alone["ranks"] == parts[0]["ranks"]
    assert distance(alone["weights"], parts[0]["weights"]) < 1e-6
    assert case.method not in ADAPTIVE or case.unusual == "clipped" or len(set(parts[0]["ranks"])) > 1


@pytest.fixture(scope="module")
def pairs() -> list[list[dict[str, Any]]]:
    return list(zip(*in_processes(2, copies.trained_all, FEW, STEPS), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(FEW)), ids=map(str, FEW))
def test_two_processes_train_one_network(number: int, pairs: list[list[dict[str, Any]]]) -> None:
    assert_one_network(FEW[number], pairs[number], steps=STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
def test_all_methods_train_one_network_in_any_number_of_processes(size: int) -> None:
    chosen = ALL if size == 2 else [Case(method) for method in METHODS]
    wild = [case for case in chosen if case.method == "robust-dlrt"]  # at this rate its steps enlarge a rounding tenfold each
    plain = [case for case in chosen if case not in wild and not case.unusual]
    unusual = [case for case in chosen if case not in wild and case.unusual]
    for cases, steps in ((plain, 100), (unusual, 25), (wild, 12)):
        if not cases:
            continue
        found = in_processes(size, copies.trained_all, cases, steps)
        for case, *parts in zip(cases, *found, strict=True):
            assert_one_network(case, parts, steps=steps)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["condlr", "dlrt", "tdlrt", "geolora"])
def test_a_training_goes_on_in_other_numbers_of_processes(method: str) -> None:
    case = Case(method, "AdamW")
    before = None
    for first, size in ((0, 2), (10, 3), (20, 1)):
        before, *others = in_processes(size, copies.resumed, case, first, first + 10, before)
        assert all(same(before, other) for other in others)
    assert before is not None
    assert distance(trained(case, steps=30)["weights"], before["weights"]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_sent_is_what_the_formula_says(optimizer: str) -> None:
    for sent in in_processes(2, copies.counted, "condlr", optimizer):
        assert sent["averaged"] == sent["factors"] + sent["rest"] + 1  # every gradient once, and the loss
        covariances = 0 if optimizer == "SGD" else sent["squares"] + sent["layers"]  # and how many steps they are of
        assert sent["exchanged"] == sent["factors"] + sent["bases"] + covariances


@pytest.mark.slow
def test_what_goes_wrong_on_one_process_is_known_on_all() -> None:
    first, second = in_processes(2, copies.mishaps)
    assert "is not finite" in first["a gradient of nan"] and first["a gradient of nan"] == second["a gradient of nan"]
    assert "process 1" in first["a decomposition"] and "did not converge" in first["a decomposition"]
    assert "did not converge" in second["a decomposition"] and "process" not in second["a decomposition"]
    assert first["factors are those before"] and second["factors are those before"]
    assert first["after it"] == second["after it"]
    assert "'0.weight' is not the same on all" in first["networks that differ"] == second["networks that differ"]
    assert "sparse=False" in first["a sparse gradient"] == second["a sparse gradient"]
    assert same(first["branches"], second["branches"])
    assert [float(branch[0, 0]) for branch in first["branches"]] == [1 - 0.5 - 1, 1 - 0.5 - 0.5, 1.0]
    assert same(first["statistics"], second["statistics"])


@pytest.mark.slow
def test_the_loop_of_the_documentation_runs(tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", (ROOT / "docs/scaling.md").read_text(), re.DOTALL)
    assert found
    (tmp_path / "train.py").write_text(found[1])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    done = subprocess.run(launcher, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_frozen_base_may_be_spread_over_processes() -> None:
    alone = copies.sharded(0, 1)
    for part in in_processes(2, copies.sharded):
        assert distance(alone, part) < 1e-6
