"""Whatever is wrong with an attack on a run: exit 2, one to three lines on stderr, nothing is written, and nothing attacked."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from robust_lowrank import evaluation, records
from tests.trees import stamps

Command = Callable[..., Result]

SUITE = """
norm = "Linf"
eps = ["8/255"]
[[attacks]]
attack = "pgd"
steps = 5
"""
TYPOS = {
    "parameter": ("steps", "stesp", "did you mean 'steps'? Known: attack, "),
    "key": ("\neps =", "\nesp =", "did you mean 'eps'"),
    "table": ("[[attacks]]", "[[atacks]]", "did you mean 'attacks'"),
    "single": ("[[attacks]]", "[attacks]", "begin each attack with [[attacks]]"),
    "attack": ('"pgd"', '"pdg"', "did you mean 'pgd'"),
    "nameless": ('attack = "pgd"', "", "attacks[0] does not say which attack it is"),
    "norm": ('"Linf"', '"Lnif"', "did you mean 'Linf'"),
    "zero": ("= 5", "= 0", "attacks[0].steps: 0 must lie between 1 and 10,000,000"),
    "text": ("= 5", "= '5'", "attacks[0].steps: Input should be a valid integer"),
    "fraction": ("8/255", "8/0", "'8/0' is not a number"),
    "wide": ("8/255", "1.5", "eps 1.5 is outside"),
    "foreign": ('"pgd"', '"torchattacks"\nalgorithm = "MIFGSMM"', "attacks[0].steps"),
    "algorithm": ('"pgd"\nsteps = 5', '"torchattacks"\nalgorithm = "MIFGSMM"', "MIFGSMM"),
    "option": ('"pgd"\nsteps = 5', '"torchattacks"\nalgorithm = "MIFGSM"\nparameters = { stesp = 5 }', "stesp"),
    "transfer": ('"pgd"', '"transfer"', "give a source network"),
}
WRONG = {
    "unknown suite": (("LOW", "--suite", "qiuck"), "did you mean 'quick'"),
    "no such file": (("LOW", "--suite", "none.toml"), "there is no suite file none.toml"),
    "no workers": (("LOW", "--workers", "0"), "workers = 0 must lie between 1 and "),
    "no batch": (("LOW", "--batch-size", "0"), "batch_size = 0 must lie between 1 and 1,048,576"),
    "no passes": (("LOW", "--max-passes", "0"), "max_passes = 0 must lie between 1 and "),
    "no time": (("LOW", "--max-seconds", "0"), "max_seconds = 0.0 must be above 0, at most "),
    "no examples": (("LOW", "--n", "0"), "n = 0 must lie between"),
    "one network": (("LOW", "--matrix"), "two run directories"),
    "a run twice": (("LOW", "./LOW", "--matrix"), "LOW is given twice"),
    "no run": (("LOW", "none"), "none is not a run directory"),
    "unfinished": (("LOW", "half"), "half is not complete"),
    "no source": (("LOW", "--suite", "blackbox", "--source", "none"), "none is not a run directory"),
    "unfinished source": (("LOW", "--suite", "blackbox", "--source", "half"), "half is not complete"),
    "source for nothing": (("LOW", "--suite", "quick", "--source", "DENSE"), "no attack by transfer"),
    "fraction": (("LOW", "--eps", "8/0"), "'8/0' is not a number"),
    "wide eps": (("LOW", "DENSE", "--eps", "1.5"), "eps 1.5 is outside"),
    "eps of another norm": (("LOW", "--norm", "L2"), "give an eps for L2"),
}


def assert_refused(result: Result, said: str, place: Path, before: dict[Path, int | None]) -> None:
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert 1 <= len(result.stderr.strip().splitlines()) <= 3
    assert "Traceback" not in result.stderr
    assert not result.stdout
    assert stamps(place) == before


@pytest.fixture
def place(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two trained runs and one that stopped; an attack fails the test."""
    monkeypatch.setattr(evaluation, "evaluate", lambda *args, **options: pytest.fail("attacked"))
    record = records.read_run(runs / "DENSE").record.model_copy(update={"status": "running"})
    records.write_record(runs / "half/run.json", record)
    for name in ("metrics.parquet", "spectra.parquet"):
        (runs / "half" / name).write_bytes((runs / "DENSE" / name).read_bytes())
    return runs


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options(rlr_eval: Command, place: Path, name: str) -> None:
    options, said = WRONG[name]
    before = stamps(place)
    assert_refused(rlr_eval("attack", *options), said, place, before)


@pytest.mark.parametrize("name", TYPOS)
def test_wrong_suites(rlr_eval: Command, place: Path, name: str) -> None:
    right, wrong, said = TYPOS[name]
    assert right in SUITE
    (place / "mine.toml").write_text(SUITE.replace(right, wrong), encoding="utf-8")
    before = stamps(place)
    assert_refused(rlr_eval("attack", "LOW", "--suite", "mine.toml"), said, place, before)
