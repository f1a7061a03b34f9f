"""`attack` on run directories: every suite, budgets that end early, what is kept, and processes that share the work."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from typer.testing import Result

from robust_lowrank import records
from robust_lowrank.evaluation import APGD, AANative, Square, load_suite, read_adversarial, suite_names
from robust_lowrank.evaluation.run import Run

Command = Callable[..., Result]

# what makes a suite that takes long take seconds, with all its attacks
SHORT = {
    "aa-fast": ("--eps", "0.5", "--n", 2),
    "aa-native": ("--eps", "0.5", "--n", 2),  # the first attack breaks them all
    "blackbox": ("queries = 5000", "queries = 50"),
    "curve": ("steps = 25", "steps = 5"),
    "minimal-norm": ("steps = 100", "steps = 5"),
    "plus": ("--eps", "0.5", "--n", 6),
    "rand": ("--eps", "0.5", "--n", 1),
    "standard": ("--eps", "0.5", "--n", 6),
}


def attacked(rlr_eval: Command, *args: object) -> Result:
    result = rlr_eval("attack", *args)
    assert result.exit_code == 0, result.stderr
    return result


def verdicts(run: str, suite: str) -> pd.DataFrame:
    return records.read_run(Path(run)).results[suite].verdicts


def assert_same_verdicts(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))


def assert_complete(run: str, suite: str, stdout: str) -> None:
    """Check the files of a result, and that what was printed is what they hold."""
    stored = records.read_run(Path(run)).results[suite]
    (printed,) = json.loads(stdout)
    assert printed["result"] == stored.record.model_dump()
    assert printed["run"] == run
    spec = load_suite(suite)
    told = {name.removesuffix("-on-survivors") for name in stored.verdicts["attack"]}
    assert len(told) == sum(attack.attack != "transfer" for attack in spec.attacks)
    broken = stored.verdicts[stored.verdicts["verdict"] == "broken"]
    inputs = read_adversarial(Path(run) / "results" / suite / "adversarial.safetensors")
    assert sum(len(part.examples) for part in inputs.values()) == len(broken)
    assert stored.record.audit
    assert not [entry for entry in stored.record.accuracies if entry.unresolved]


DEAR = ("aa-fast", "aa-native", "rand")  # even shortened, for the audit tries them on examples of its own


@pytest.mark.parametrize("suite", [pytest.param(name, marks=[pytest.mark.slow] * (name in DEAR)) for name in suite_names()])
def test_every_suite_runs(rlr_eval: Command, runs: Path, suite: str) -> None:
    change = SHORT.get(suite, ())
    if change and not str(change[0]).startswith("--"):
        full, short = map(str, change)
        text = (Path(__file__).parents[2] / "attacks" / f"{suite}.toml").read_text(encoding="utf-8")
        assert full in text
        (runs / f"{suite}.toml").write_text(text.replace(full, short), encoding="utf-8")
        options: tuple[object, ...] = ("--suite", f"{suite}.toml", "--n", 12)
    else:
        options = ("--suite", suite, *(change or ("--n", 12)))
    assert_complete("LOW", suite, attacked(rlr_eval, "LOW", *options, "--json").stdout)


@pytest.mark.slow
@pytest.mark.parametrize("suite", SHORT)
def test_every_long_suite_runs_in_full(rlr_eval: Command, runs: Path, suite: str) -> None:
    assert_complete("LOW", suite, attacked(rlr_eval, "LOW", "--suite", suite, "--n", 12, "--json").stdout)


def test_what_the_audit_says_is_printed(rlr_eval: Command, runs: Path) -> None:
    (runs / "short.toml").write_text("eps = [0.1]\n[[attacks]]\nattack = 'pgd'\nsteps = 1\nrelative_step = 1e-6\n")
    result = attacked(rlr_eval, "LOW", "--suite", "short.toml", "--n", 12)
    audit = records.read_run(Path("LOW")).results["short"].record.audit
    passed = [finding for finding in audit if finding.status == "pass"]
    assert f"audit: {len(passed)} of {len(audit)} checks pass" in result.stdout
    assert len(passed) < len(audit)
    for finding in audit:
        if finding.status != "pass":
            assert f"audit {finding.status}: {finding.check}: {finding.message} {finding.remedy}".strip() in result.stdout


def test_transfer_needs_a_source(rlr_eval: Command, runs: Path) -> None:
    text = "eps = [0.2]\n[[attacks]]\nattack = 'transfer'\nsteps = 10\n[[attacks]]\nattack = 'random-noise'\ndraws = 3\n"
    (runs / "mine.toml").write_text(text)
    attacked(rlr_eval, "LOW", "--suite", "mine.toml", "--n", 12)
    assert set(verdicts("LOW", "mine")["attack"]) == {"random-noise-3"}
    attacked(rlr_eval, "LOW", "--suite", "mine.toml", "--n", 12, "--source", "DENSE")
    assert set(verdicts("LOW", "mine")["attack"]) == {"random-noise-3"}  # it is another attack, and this result is kept
    found = verdicts("LOW", "mine-2")
    transferred = found[found["attack"] == "transfer"]
    assert (transferred["verdict"] == "broken").any()
    assert rlr_eval("verify", "LOW").exit_code == 0


def test_the_matrix_tries_what_breaks_each_network_on_the_other(rlr_eval: Command, runs: Path) -> None:
    options = ("LOW", "DENSE", "--suite", "quick", "--eps", "0.2", "--n", 12, "--matrix", "--workers", 1)
    printed = json.loads(attacked(rlr_eval, *options, "--json").stdout)
    assert [entry["run"] for entry in printed["results"]] == ["LOW", "DENSE"]
    rows = {(row["source"], row["target"], row["attack"]): row for row in printed["transfer"]}
    assert set(rows) == {(a, b, attack) for a, b in (("LOW", "DENSE"), ("DENSE", "LOW")) for attack in ("fgsm", "pgd-20")}
    for (source, target, attack), row in rows.items():
        right = verdicts(target, "quick")[lambda frame: frame["verdict"] != "misclassified"]["example"]
        made = verdicts(source, "quick")[lambda frame, a=attack: (frame["attack"] == a) & (frame["verdict"] == "broken")]["example"]
        assert row["tried"] == len(set(right) & set(made))
        assert 0 <= row["fooled"] <= row["tried"]
    kept = {name: records.RunFiles(Path(name)).result("quick").transfer for name in ("LOW", "DENSE")}
    times = {name: path.stat().st_mtime_ns for name, path in kept.items()}
    for name, other in (("LOW", "DENSE"), ("DENSE", "LOW")):
        stored, results = records.read_run(Path(name)).results["quick"], records.read_run(Path(other)).results["quick"]
        assert stored.transfer is not None and list(stored.transfer.columns) == list(records.TRANSFER)
        assert set(stored.transfer["target_weights"]) == {stored.record.hashes["weights"]}
        assert set(stored.transfer["source_weights"]) == {results.record.hashes["weights"]}
        for row in stored.transfer.to_dict("records"):
            assert (row["tried"], row["fooled"]) == tuple(rows[other, name, row["attack"]][key] for key in ("tried", "fooled"))
    assert "pgd-20 at 0.2, made on" in attacked(rlr_eval, *options).stdout
    assert times == {name: path.stat().st_mtime_ns for name, path in kept.items()}


def test_verdicts_are_formed_again_in_other_ways_and_kept(rlr_eval: Command, runs: Path) -> None:
    options = ("LOW", "--suite", "quick", "--eps", "0.2", "--n", 12, "--rounding")
    (rows,) = json.loads(attacked(rlr_eval, *options, "--json").stdout)["rounding"]
    tried = {(row["way"], row["attack"]): row["tried"] for row in rows}
    ways = {"reversed", "batches of 1", "batches of 256", "float64", "merged", "thin layers", "thin layers, bfloat16"}
    assert ways < {way for way, _ in tried}
    assert all(tried[way, "clean"] == 12 for way in ways)
    stored = records.read_run(Path("LOW")).results["quick"]
    assert stored.rounding is not None and list(stored.rounding.columns) == list(records.ROUNDING)
    robust = stored.verdicts[stored.verdicts["verdict"].isin(["robust", "broken"])]
    assert tried["float64", "pgd-20"] == int((robust["attack"] == "pgd-20").sum())
    assert not any(row["changed"] for row in rows if row["way"] == "reversed")
    assert "batches of 256" in attacked(rlr_eval, *options).stdout
    assert rlr_eval("verify", "LOW").exit_code == 0


@pytest.mark.parametrize("budget", [("--max-passes", 60), pytest.param(("--max-seconds", "1e-9"), marks=pytest.mark.slow)])
def test_an_attack_that_ends_early_goes_on_where_it_was(rlr_eval: Command, runs: Path, budget: tuple[object, ...]) -> None:
    options = ("--suite", "quick", "--eps", "0.1", "--n", 12, "--batch-size", 4)
    attacked(rlr_eval, "LOW", *options)
    expected = verdicts("LOW", "quick")
    for file in Path("LOW/results/quick").rglob("*.*"):
        file.unlink()

    result = attacked(rlr_eval, "LOW", *options, *budget, "--workers", 3)
    early = records.read_run(Path("LOW")).results["quick"]
    open_ones = early.verdicts["verdict"] == "unresolved"
    assert open_ones.any()
    decided = early.verdicts[~open_ones].drop(columns="seconds")
    assert_frame_equal(decided, expected[~open_ones].drop(columns="seconds"), check_categorical=False)
    worst = early.record.accuracies[-1]
    assert worst.unresolved
    assert f"{worst.value:.1%} to {worst.most:.1%}, {worst.unresolved} unresolved" in result.stdout
    assert worst.low <= worst.value <= worst.most <= worst.high

    units = {path: path.stat().st_mtime_ns for path in Path("LOW/results/quick/units").glob("*.safetensors")}
    assert bool(units) == (budget[0] == "--max-passes")
    attacked(rlr_eval, "LOW", *options)
    assert_same_verdicts(verdicts("LOW", "quick"), expected)
    assert {path: path.stat().st_mtime_ns for path in units} == units


def test_a_stored_result_is_kept(rlr_eval: Command, runs: Path) -> None:
    options = ("LOW", "--suite", "condlr-paper", "--n", 12)
    attacked(rlr_eval, *options)
    before = {path: path.stat().st_mtime_ns for path in Path("LOW").rglob("*")}
    attacked(rlr_eval, *options)
    assert {path: path.stat().st_mtime_ns for path in Path("LOW").rglob("*")} == before


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, damage) for name in ("result.json", "verdicts.parquet", "adversarial.safetensors") for damage in ("lost", "cut")),
        ("clean.safetensors", "cut"),
    ],
)
def test_a_file_of_a_result_that_is_lost_or_damaged_is_made_again(rlr_eval: Command, runs: Path, name: str, damage: str) -> None:
    options = ("LOW", "--suite", "quick", "--eps", "0.1", "--n", 12)
    attacked(rlr_eval, *options)
    before, path = verdicts("LOW", "quick"), records.RunFiles(Path("LOW")).result("quick").root / name
    content = path.read_bytes()
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2])
    attacked(rlr_eval, *options)
    assert_same_verdicts(verdicts("LOW", "quick"), before)
    assert rlr_eval("verify", "LOW").exit_code == 0
    assert rlr_eval("report", "LOW", "--out", "REPORT").exit_code == 0


def test_a_result_of_a_newer_version_is_not_replaced(rlr_eval: Command, runs: Path) -> None:
    options = ("LOW", "--suite", "quick", "--eps", "0.1", "--n", 12)
    attacked(rlr_eval, *options)
    files = records.RunFiles(Path("LOW")).result("quick")
    newer = files.record.read_text().replace('"schema_version": 1', '"schema_version": 2')
    files.record.write_text(newer)
    files.verdicts.unlink()
    assert rlr_eval("attack", *options).exit_code == 2
    assert files.record.read_text() == newer


@pytest.mark.slow
def test_a_bounded_attack_says_its_limit_and_is_completed(rlr_eval: Command, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (APGD(steps=5), Square(queries=20))
    monkeypatch.setattr(AANative, "parts", staticmethod(lambda classes, norm: parts))
    (runs / "fast.toml").write_text("eps = [0.05]\n[[attacks]]\nattack = 'aa-fast'\nsteps = 2\ntargets = 1\nshare = 0.3\n")
    options = ("--suite", "fast.toml", "--n", 30, "--workers", 1)
    told = attacked(rlr_eval, "LOW", *options).stdout
    record = records.read_run(Path("LOW")).results["fast"].record
    least = record.accuracies[-1].least
    assert least is not None
    said = f"in full at least {least:.1%}, with 95 % confidence"
    assert "AutoAttack" not in told
    for text in (told, rlr_eval("show", "LOW").stdout):
        assert said in " ".join(text.split())
    assert rlr_eval("report", "LOW", "--out", "told").exit_code == 0
    page = Path("told/report.md").read_text(encoding="utf-8")
    assert f"in full ≥ {100 * least:.1f}" in page
    assert f"{100 * least:.1f} %, each with 95 % confidence" in page
    find, tried = Run.find, []
    monkeypatch.setattr(Run, "find", lambda run, unit, *rest: tried.append(unit.name) or find(run, unit, *rest))
    attacked(rlr_eval, "LOW", *options, "--complete")
    assert set(tried) == {"aa-native-on-survivors"}
    whole = records.read_run(Path("LOW")).results["fast-2"]
    assert set(whole.verdicts["attack"]) == {"aa-fast", "aa-native-on-survivors"}
    assert whole.record.accuracies[-1].least is None
    assert least <= whole.record.accuracies[-1].value <= record.accuracies[-1].value
    assert rlr_eval("verify", "LOW").exit_code == 0
    refused = rlr_eval("attack", "LOW", "--suite", "quick", "--complete")
    assert refused.exit_code == 2
    assert "no attack on a sample" in refused.stderr


def mixed(place: Path) -> tuple[object, ...]:
    """Return the options of an attack of several kinds and many units, some of which cannot be shared."""
    texts = [
        "norm = 'Linf'\neps = [0.05, 0.1]",
        "attack = 'fgsm'",
        "attack = 'pgd'\nsteps = 10\nrestarts = 2",
        "attack = 'fab'\nsteps = 5\ntargets = 3",
        "attack = 'square'\nqueries = 60\nexamples = 'survivors'",
        "attack = 'aa-fast'\nsteps = 4\ntargets = 1\nshare = 0.02",
        "attack = 'torchattacks'\nalgorithm = 'MIFGSM'\nparameters = { steps = 3 }",
    ]
    (place / "mixed.toml").write_text("\n[[attacks]]\n".join(texts), encoding="utf-8")
    return ("--suite", "mixed.toml", "--n", 30, "--batch-size", 4)


def started(*args: object) -> "subprocess.Popen[str]":
    """Start the command in a process of its own."""
    code = "from robust_lowrank.cli import main; main()"
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_processes_that_share_the_work_find_the_same(rlr_eval: Command, runs: Path) -> None:
    options = mixed(runs)
    attacked(rlr_eval, "LOW", *options, "--workers", 1)
    expected = verdicts("LOW", "mixed")
    for file in Path("LOW/results/mixed").rglob("*.*"):
        file.unlink()
    shared = started("attack", "LOW", *options, "--workers", 3)
    _, errors = shared.communicate(timeout=300)
    assert shared.returncode == 0, errors
    assert_same_verdicts(verdicts("LOW", "mixed"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_an_attack_that_is_killed_goes_on_and_finds_the_same(rlr_eval: Command, runs: Path, workers: int) -> None:
    options = mixed(runs)
    attacked(rlr_eval, "LOW", *options, "--workers", 1)
    expected = verdicts("LOW", "mixed")
    for file in Path("LOW/results/mixed").rglob("*.*"):
        file.unlink()
    units, result, dice = Path("LOW/results/mixed/units"), Path("LOW/results/mixed/result.json"), random.Random(workers)
    for _ in range(4):
        done = len(list(units.glob("*.safetensors")))
        process = started("attack", "LOW", *options, "--workers", workers)
        goal, end = done + dice.randint(1, 8), time.monotonic() + 120
        while process.poll() is None and len(list(units.glob("*.safetensors"))) < goal and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(dice.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        process.communicate()  # ends with the last of its workers, which hold its pipes
        if result.exists():
            break
        assert len(list(units.glob("*.safetensors"))) >= min(goal, done + 1)
    attacked(rlr_eval, "LOW", *options)
    assert_same_verdicts(verdicts("LOW", "mixed"), expected)
