"""What is asked of runs beside their attacks: proofs of verdicts, the cost of an attack, and what transfers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robust_lowrank import evaluation, records
from robust_lowrank.cli.pipeline import Attack, Job, question_of, stored_job, subject_of, with_data
from robust_lowrank.cli.subjects import trained
from robust_lowrank.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


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
    found = {}
    for name, result in chosen.items():
        inputs = evaluation.read_adversarial(run_dir / "results" / name / "adversarial.safetensors")
        part = subject.first(result.record.accuracies[0].total)
        found[name] = evaluation.verify(part.model, part.x, part.y, result.record, result.verdicts, inputs)
    return found


def forecast_of(run_dir: Path, attack: Attack, data_dir: Path | None) -> evaluation.Forecast:
    """Return what an attack on a run will take at most.

    Raises:
        UserError: it is not a complete run directory, or a budget is out of range.
    """
    job = with_data(stored_job(run_dir, [attack]), data_dir, download=False)
    subject = subject_of(job, attack)
    return evaluation.forecast(subject.model, subject.x, subject.y, question_of(subject, attack))


def matrix(jobs: Sequence[Job], attack: Attack) -> "pd.DataFrame":
    """Return what breaks each network tried on each other one: a row a source, target, attack and eps, all on one set of examples.

    Raises:
        UserError: the networks were attacked on different examples.
    """
    import pandas as pd

    rows = []
    for target in jobs:
        subject = subject_of(target, attack)
        examples = _stored(target, attack).hashes["data"]
        for source in (job for job in jobs if job is not target):
            if _stored(source, attack).hashes["data"] != examples:
                raise UserError(f"{source.out} and {target.out} were attacked on different examples: their inputs do not transfer")
            found = evaluation.read_adversarial(source.out / "results" / attack.directory / "adversarial.safetensors")
            for entry in evaluation.transferred(subject.model, subject.x, subject.y, found):
                rows.append({"source": str(source.out), "target": str(target.out), **entry._asdict()})
    return pd.DataFrame(rows)


def _stored(job: Job, attack: Attack) -> records.ResultRecord:
    return records.read_record(job.out / "results" / attack.directory / "result.json", records.ResultRecord)
