"""An evaluation that was stopped at any moment goes on from what is stored, and ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from robust_lowrank import records
from robust_lowrank.evaluation import (
    FAB,
    FGSM,
    PGD,
    AutoAttack,
    Curve,
    Square,
    Suite,
)
from robust_lowrank.evaluation import (
    evaluate as audited,
)
from robust_lowrank.evaluation.run import Run
from robust_lowrank.evaluation.store import Store
from robust_lowrank.evaluation.unit_result import UnitResult

SUITE = Suite(
    name="s",
    eps=(0.05, 0.1),
    attacks=(
        FGSM(),
        PGD(steps=2, restarts=2),
        PGD(name="later", steps=3, examples="survivors"),
        Curve(fmn_steps=1, steps=1),
        FAB(steps=1, targets=2),
        Square(queries=10),
    ),
)
COUNT, BATCH = 20, 12
evaluate = partial(audited, audit=False)
UNITS = 2 * (4 * 2 + 2)  # batches, attacks at two eps, and two searches that serve both


def run(model, digits, store: Path | None = None, **options):
    options = {"suite": SUITE, "batch_size": BATCH} | options
    return evaluate(model, digits.x[:COUNT], digits.y[:COUNT], store=store, **options)


def assert_same(found, expected):
    columns = [name for name in expected.verdicts if name != "seconds"]
    assert found.verdicts[columns].equals(expected.verdicts[columns])
    assert found.record.accuracies == expected.record.accuracies
    assert found.record.hashes == expected.record.hashes
    assert found.adversarial.keys() == expected.adversarial.keys()
    for key, part in expected.adversarial.items():
        assert torch.equal(found.adversarial[key].examples, part.examples)
        assert torch.equal(found.adversarial[key].inputs, part.inputs)


class Done:
    """Counts the units that are found out rather than read."""

    def __init__(self, monkeypatch) -> None:
        self.units: list[str] = []
        settle = Run._settle

        def counted(run, unit, ledger, parts, *rest):
            self.units += [unit.name] * len(parts)
            return settle(run, unit, ledger, parts, *rest)

        monkeypatch.setattr(Run, "_settle", counted)

    def take(self) -> list[str]:
        units, self.units = self.units, []
        return units


@pytest.fixture
def done(monkeypatch) -> Done:
    return Done(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "written"), [(KeyboardInterrupt, True), (OSError, False)], ids=["after", "before"])
def test_an_evaluation_stopped_at_every_unit_ends_the_same(mlp, digits, tmp_path, monkeypatch, stop, written):
    """Each start finishes one unit more and is then stopped, either at once or as it is about to write the next one."""
    expected, put = run(mlp, digits), Store.put
    stored: list[str] = []

    def failing(store, key, findings, behaviour):
        if not written and stored:
            raise stop
        put(store, key, findings, behaviour)
        stored.append(key)
        if written:
            raise stop

    def start():
        stored.clear()
        try:
            return run(mlp, digits, tmp_path)
        except stop:
            return None

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", failing)
        for units in range(1, UNITS + written):
            assert start() is None
            assert len(list(tmp_path.iterdir())) == units
        assert_same(start(), expected)


def test_stored_units_are_read_and_not_done_again(mlp, digits, tmp_path, done):
    first = run(mlp, digits, tmp_path)
    assert len(done.take()) == UNITS == len(list(tmp_path.glob("*.safetensors")))
    again = run(mlp, digits, tmp_path)
    assert done.take() == []
    assert again.verdicts.equals(first.verdicts)
    assert_same(again, first)


def test_unfinished_files_count_for_nothing(mlp, digits, tmp_path, done):
    expected = run(mlp, digits, tmp_path)
    done.take()
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(f".{path.name}.abc.part"))
    assert_same(run(mlp, digits, tmp_path), expected)
    assert len(done.take()) == UNITS


def flipped(path: Path, generator: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    path.write_bytes(content)


def shortened(path: Path, generator: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: generator.randrange(path.stat().st_size)])


def emptied(path: Path, generator: random.Random) -> None:
    path.write_bytes(b"")


def lengthened(path: Path, generator: random.Random) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def exchanged(path: Path, generator: random.Random) -> None:
    """A change that keeps the file well-formed."""
    tensors = load_file(path)
    save_file(tensors | {"broken": ~tensors["broken"]}, path)


@pytest.mark.parametrize("damage", [flipped, shortened, emptied, lengthened, exchanged], ids=lambda damage: damage.__name__)
def test_damaged_units_are_done_again(mlp, digits, tmp_path, done, damage):
    expected = run(mlp, digits, tmp_path)
    done.take()
    generator = random.Random(0)
    files = sorted(tmp_path.iterdir())
    for path in files:
        damage(path, generator)
        assert UnitResult.from_file(path) is None
    assert_same(run(mlp, digits, tmp_path), expected)
    assert len(done.take()) == UNITS
    flipped(files[7], generator)
    assert_same(run(mlp, digits, tmp_path), expected)
    assert len(done.take()) == 1


def test_no_flipped_bit_goes_unnoticed(mlp, digits, tmp_path):
    run(mlp, digits, tmp_path, suite=Suite(name="s", eps=(0.1,), attacks=(PGD(steps=3),)))
    path = min(tmp_path.iterdir())
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        assert UnitResult.from_file(path) is None


@pytest.mark.parametrize("other", ["weights", "seed", "eps", "norm", "inputs", "labels", "steps", "offset", "sources"])
def test_units_of_something_else_are_never_taken(mlp, cnn, digits, tmp_path, done, other):
    spec = PGD(steps=3)
    suite = Suite(name="s", eps=(0.1,), attacks=(spec,))
    model, x, y, options = mlp, digits.x[:COUNT], digits.y[:COUNT], {"suite": suite, "batch_size": BATCH}
    if other == "sources":
        options = options | {
            "suite": Suite.model_validate({"name": "s", "eps": 0.1, "attacks": [{"attack": "transfer", "steps": 3}]})
        }
        options = options | {"sources": [mlp]}
    evaluate(model, x, y, store=tmp_path, **options)
    assert len(done.take()) == 2
    match other:
        case "weights":
            model = torch.nn.Sequential(*mlp[:-1], torch.nn.Linear(24, 10))
            model[-1].load_state_dict({name: tensor * 1.0001 for name, tensor in mlp[-1].state_dict().items()})
        case "seed":
            options["seed"] = 1
        case "eps":
            options["eps"] = 0.1000001
        case "norm":
            options |= {"norm": "L2", "eps": 0.1}
        case "inputs":
            x = x.clone()
            x[::BATCH, 0, 0, 0] += 1e-6
        case "labels":
            y = y.clone()
            y[::BATCH] = (y[::BATCH] + 1) % 10
        case "steps":
            options["suite"] = Suite(name="s", eps=(0.1,), attacks=(PGD(name="pgd-3", steps=4),))
        case "offset":
            options["offset"] = 1
        case "sources":
            options["sources"] = [cnn]
    fresh = evaluate(model, x, y, **options)
    done.take()
    assert_same(evaluate(model, x, y, store=tmp_path, **options), fresh)
    assert len(done.take()) == 2


def test_units_of_one_evaluation_serve_a_larger_one(mlp, digits, tmp_path, done):
    """More examples and more attacks: what is there already is not done again."""
    few, many = (Suite(name="s", eps=(0.1,), attacks=attacks) for attacks in ((FGSM(),), (FGSM(), PGD(steps=3))))
    evaluate(mlp, digits.x[:24], digits.y[:24], suite=few, batch_size=BATCH, store=tmp_path)
    done.take()
    found = evaluate(mlp, digits.x[:48], digits.y[:48], suite=many, batch_size=BATCH, store=tmp_path)
    assert sorted(done.take()) == ["fgsm"] * 2 + ["pgd-3"] * 4
    assert_same(found, evaluate(mlp, digits.x[:48], digits.y[:48], suite=many, batch_size=BATCH))


@pytest.mark.slow
def test_autoattack_is_stored_whole(mlp, digits, tmp_path, done):
    suite = Suite(name="s", eps=(0.08,), attacks=(FGSM(), AutoAttack()))
    first = run(mlp, digits, tmp_path, suite=suite)
    done.take()
    assert_same(run(mlp, digits, tmp_path, suite=suite), first)
    assert done.take() == []
    run(mlp, digits, tmp_path, suite=suite, batch_size=7)
    assert "autoattack" in done.take()


CHILD = """
import sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from torch import nn
from robust_lowrank.evaluation import APGD, FAB, FGSM, PGD, RandomNoise, Square, Suite, evaluate

torch.set_num_threads(1)
folder = Path(sys.argv[1])
weights, data = load_file(folder / "weights.safetensors"), load_file(folder / "data.safetensors")
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.LeakyReLU(), nn.Linear(24, 10))
model.load_state_dict(weights)
suite = Suite(
    name="s",
    eps=(0.03, 0.06),
    attacks=(
        FGSM(), PGD(steps=10, restarts=2), PGD(name="later", steps=10, examples="survivors"), RandomNoise(draws=20),
        APGD(steps=20), APGD(loss="targeted-dlr", steps=10, targets=3), FAB(steps=5, targets=3), Square(queries=100),
    ),
)
evaluate(model, data["x"], data["y"], suite=suite, batch_size=16, store=folder / "units").save(folder / "result")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_an_evaluation_killed_ten_times_ends_the_same(mlp, digits, tmp_path):
    def folder(name: str) -> Path:
        place = tmp_path / name
        place.mkdir()
        save_file(mlp.state_dict(), place / "weights.safetensors")
        save_file({"x": digits.x[:64].clone(), "y": digits.y[:64].clone()}, place / "data.safetensors")
        return place

    def start(place: Path) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", CHILD, str(place)], stdout=subprocess.DEVNULL)

    calm, killed = folder("calm"), folder("killed")
    begun = time.monotonic()
    assert start(calm).wait(timeout=300) == 0
    undisturbed = time.monotonic() - begun
    names = {path.name for path in (calm / "units").iterdir()}

    generator, kills, grown = random.Random(0), 0, []
    for _ in range(200):
        child = start(killed)
        units = len(list((killed / "units").glob("*.safetensors"))) if (killed / "units").exists() else 0
        if kills < 10:
            goal = units + 1 + generator.randrange(max(1, (len(names) - units) // (2 * (10 - kills) + 1)))
            deadline = time.monotonic() + 60
            while child.poll() is None and time.monotonic() < deadline:
                if (killed / "units").exists() and len(list((killed / "units").glob("*.safetensors"))) >= goal:
                    break
                time.sleep(0.002)
            time.sleep(generator.random() * min(undisturbed / len(names), 0.05))
            if child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)
                child.wait()
                kills += 1
                assert not (killed / "result" / "result.json").exists()
                grown.append(len(list((killed / "units").glob("*.safetensors"))))
                continue
        assert child.wait(timeout=300) == 0
        break
    assert kills == 10
    assert grown == sorted(grown)
    assert {path.name for path in (killed / "units").glob("*.safetensors")} == names
    frames = [records.read_frame(place / "result" / "verdicts.parquet").drop(columns="seconds") for place in (calm, killed)]
    assert frames[1].equals(frames[0])
    inputs = [load_file(place / "result" / "adversarial.safetensors") for place in (calm, killed)]
    assert inputs[0].keys() == inputs[1].keys()
    assert all(torch.equal(inputs[0][name], inputs[1][name]) for name in inputs[0])
    results = [records.read_record(place / "result" / "result.json", records.ResultRecord) for place in (calm, killed)]
    assert results[0].accuracies == results[1].accuracies
    assert results[0].hashes == results[1].hashes
