"""Shards of an experiment and of an attack: several machines do a part each, and the whole is what one would have done."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from robust_lowrank import records
from robust_lowrank.records import RunFiles
from tests.cli.test_bench import command

Command = Callable[..., Result]
NAMES = ("dense-seed0", "condlr-rank0.25-seed0")


def verdicts(run: Path, suite: str = "quick") -> bytes:
    """Return the verdicts of an attack as they are stored."""
    frame = records.read_frame(RunFiles(run).result(suite).verdicts, records.VERDICTS)
    return frame.drop(columns=["seconds"], errors="ignore").to_csv().encode()


def test_an_experiment_is_done_in_shards_and_its_status_says_what_is_left(rlr_eval: Command, here: Path, experiment: Path) -> None:
    first = rlr_eval("status", experiment, "--shards", 3)
    assert first.exit_code == 0 and "0 of 2 runs are done" in first.stdout and "1-2 of 3" in first.stdout
    assert not (here / "reports").exists()

    done = rlr_eval("bench", experiment, "--workers", 1, "--shard", "2/3")
    assert done.exit_code == 0 and "Shard 2/3 is done, 1 run" in done.stdout
    assert {path.name for path in Path("reports/tiny/runs").iterdir()} == {NAMES[1]}
    assert not Path("reports/tiny/report.html").exists()

    status = json.loads(rlr_eval("status", experiment, "--shards", 3, "--json").stdout)
    assert [(run["name"], run["state"]) for run in status["runs"]] == [(NAMES[0], "not begun"), (NAMES[1], "done")]
    assert (status["left"], status["missing_shards"]) == (1, [1])

    empty = rlr_eval("bench", experiment, "--workers", 1, "--shard", "3/3")
    assert empty.exit_code == 0 and "0 runs" in empty.stdout
    assert rlr_eval("retry", experiment, "shard.sh", "--shards", 3).exit_code == 2  # no Slurm here

    stored = Path("reports/tiny/runs") / NAMES[1] / "run.json"
    record = json.loads(stored.read_text())
    stored.write_text(json.dumps(record | {"status": "running"}))
    assert "training" in rlr_eval("status", experiment).stdout
    stored.write_text("{")
    assert "unreadable" in rlr_eval("status", experiment).stdout


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "1/0", "-1/3", "1/3/5", "one/3", "1/1000000"])
def test_what_is_no_shard_is_refused(shard: str, rlr_eval: Command, here: Path, experiment: Path) -> None:
    result = rlr_eval("bench", experiment, "--shard", shard)
    assert result.exit_code == 2 and "such as 3/16" in result.stderr
    assert not (here / "reports").exists()


def test_an_attack_is_done_in_shards_and_joined(rlr_eval: Command, runs: Path) -> None:
    options = ("--suite", "quick", "--n", 8, "--batch-size", 4, "--workers", 1)
    for number in (2, 1):
        result = rlr_eval("attack", "LOW", *options, "--shard", f"{number}/2")
        assert result.exit_code == 0, result.stderr
    assert not RunFiles(Path("LOW")).result("quick").record.exists()
    units = RunFiles(Path("LOW")).result("quick").units
    before = {path: path.stat().st_mtime_ns for path in units.iterdir()}
    assert rlr_eval("attack", "LOW", *options).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in units.iterdir()} == before  # nothing was done again
    in_parts = verdicts(Path("LOW"))
    (runs / "LOW/results").rename(runs / "parts")
    assert rlr_eval("attack", "LOW", *options).exit_code == 0
    assert verdicts(Path("LOW")) == in_parts


@pytest.mark.parametrize("option", ["--matrix", "--rounding", "--json", "--max-passes=5", "--form=merged"])
def test_what_is_of_all_examples_is_no_shards(option: str, rlr_eval: Command, runs: Path) -> None:
    result = rlr_eval("attack", "LOW", "DENSE", "--suite", "quick", "--shard", "1/2", option)
    assert result.exit_code == 2 and f"{option.partition('=')[0]} is of all" in result.stderr
    assert not (runs / "LOW/results").exists()


def test_who_writes_to_a_run_and_who_adds_to_it_are_told_of_each_other(rlr_eval: Command, runs: Path) -> None:
    attack = ("attack", "LOW", "--suite", "quick", "--n", 4)
    with records.sharing("1-of-2", Path("LOW")):
        assert "is being written by process" in rlr_eval(*attack).stderr
        with records.sharing("2-of-2", Path("LOW")):
            assert "is being written by process" in rlr_eval(*attack, "--shard", "1/2").stderr
    units = RunFiles(Path("LOW")).result("quick").units
    units.mkdir(parents=True)
    (units / ".half.safetensors.rlr-part").write_text("")  # of one that was killed
    (runs / "LOW/.lock-share-1-of-2").write_text("")
    with records.sharing("2-of-2", Path("LOW")):
        assert not list(units.iterdir())
        (units / ".half.safetensors.rlr-part").write_text("")  # of one that is there
        assert rlr_eval(*attack, "--shard", "1/2").exit_code == 0
        assert (units / ".half.safetensors.rlr-part").exists()
    assert rlr_eval(*attack).exit_code == 0
    assert not list(runs.glob("LOW/.lock*")) and not list(units.glob(".*"))


SBATCH = """#!{python}
import os, re, subprocess, sys
spans = re.fullmatch("--array=(.*)", sys.argv[1])[1].split(",")
numbers = [n for span in spans for n in range(int(span.split("-")[0]), int(span.split("-")[-1]) + 1)]
open("submitted", "a").write(sys.argv[1] + chr(10))
tasks = [subprocess.Popen(["sh", *sys.argv[2:]], env=os.environ | {{"SLURM_ARRAY_TASK_ID": str(n)}}) for n in numbers]
sys.exit(max(task.wait() for task in tasks))
"""


@pytest.mark.slow
def test_a_job_array_does_an_experiment_and_what_it_lost_is_submitted_again(here: Path, experiment: Path) -> None:
    (here / "bin").mkdir()
    sbatch = here / "bin/sbatch"
    sbatch.write_text(SBATCH.format(python=sys.executable))
    sbatch.chmod(0o755)
    call = " ".join(f"'{part}'" for part in command("bench", experiment, "--workers", 1, "--shard"))
    (here / "shard.sh").write_text(f"""
        if [ "$SLURM_ARRAY_TASK_ID" = 2 ] && [ ! -e failed ]; then touch failed; exit 1; fi
        exec {call} "$SLURM_ARRAY_TASK_ID/2"
    """)
    environment = os.environ | {"PATH": f"{here / 'bin'}:{os.environ['PATH']}"}

    def rlr(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, env=environment)

    lost = rlr("retry", experiment, "shard.sh", "--shards", 2)
    assert lost.returncode == 2 and "ended with 1" in lost.stderr
    again = rlr("retry", experiment, "shard.sh", "--shards", 2)
    assert again.returncode == 0, again.stderr
    assert (here / "submitted").read_text().split() == ["--array=1-2", "--array=2"]
    assert "Every shard is done" in rlr("retry", experiment, "shard.sh", "--shards", 2).stdout
    trained = {name: (here / "reports/tiny/runs" / name / "model.safetensors").stat().st_mtime_ns for name in NAMES}
    assert rlr("bench", experiment, "--workers", 1).returncode == 0
    assert trained == {name: (here / "reports/tiny/runs" / name / "model.safetensors").stat().st_mtime_ns for name in NAMES}
    assert rlr("bench", experiment, "--workers", 1, "--out", "alone").returncode == 0
    for name in NAMES:
        assert verdicts(here / "alone/runs" / name) == verdicts(here / "reports/tiny/runs" / name)
