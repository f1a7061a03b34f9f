"""Stored verdicts of runs are proved again, and the cost of an attack on one is forecast."""

from pathlib import Path

from robust_lowrank import evaluation, records
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.attack import Attack
from robust_lowrank.jobs.chain import config_of, stored_job, subject_of, with_data
from robust_lowrank.jobs.subjects import trained


def proofs(run_dir: Path, suite: str | None, data_dir: Path | None) -> dict[str, list[evaluation.Proof]]:
    """Return the proofs of a run's stored verdicts, by result.

    Raises:
        UserError: there is no such result, or one is stale.
    """
    run = records.read_run(run_dir)
    if suite is not None and suite not in run.results:
        raise UserError(f"{run_dir} has no results of suite {suite!r}; there are: {', '.join(run.results) or 'none'}")
    chosen = {name: result for name, result in run.results.items() if suite in (None, name)}
    if not chosen:
        raise UserError(f"{run_dir} has no results: attack it first")
    subject = trained(run_dir, with_data(stored_job(run_dir, []), data_dir, download=False).config.data)
    by_suite = {}
    for name, result in chosen.items():
        inputs = evaluation.read_adversarial(records.RunFiles(run_dir).result(name).adversarial)
        part = subject.first(result.record.accuracies[0].total)
        by_suite[name] = evaluation.verify(part.model, part.x, part.y, result.record, result.verdicts, inputs)
    return by_suite


def forecast_of(run_dir: Path, attack: Attack, data_dir: Path | None) -> evaluation.Forecast:
    """Return what an attack on a run will take at most.

    Raises:
        UserError: it is not a complete run directory, or a budget is out of range.
    """
    job = with_data(stored_job(run_dir, [attack]), data_dir, download=False)
    subject = subject_of(job, attack)
    return evaluation.forecast(subject.model, subject.x, subject.y, config_of(subject, attack))
