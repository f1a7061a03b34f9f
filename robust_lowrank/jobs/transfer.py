"""What breaks one network is tried on the others, and kept in files."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from robust_lowrank import evaluation, records
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.attack import Attack
from robust_lowrank.jobs.chain import Job, subject_of
from robust_lowrank.jobs.events import Event, Report, quiet

if TYPE_CHECKING:
    import pandas as pd


class _Attacked(NamedTuple):
    """A network with its stored result."""

    job: Job
    run: records.RunRecord
    result: records.ResultRecord
    files: records.ResultFiles


CROWD = 30  # networks, beyond which an experiment leaves transfers out: tries grow with their square


def one_of_each(jobs: Sequence[Job]) -> list[Job]:
    """Return the first job of each method and size, whatever the number of seeds; none where there are more than `CROWD`."""
    firsts: dict[str, Job] = {}
    for job in jobs:
        firsts.setdefault(job.config.model_dump_json(exclude={"seed"}), job)
    return list(firsts.values()) if len(firsts) <= CROWD else []


def matrix(jobs: Sequence[Job], attack: Attack, results: Sequence[str], report: Report = quiet) -> "pd.DataFrame":
    """Return what breaks each network tried on each other one: a row a source, target, attack and eps, all on one set of examples.

    Each target keeps its rows beside its result (`records.TRANSFER`). Those that are there, of the same weights, images and attack,
    are not tried again.

    Args:
        results: the names of the directories of the attack's results, one a job.

    Raises:
        UserError: the networks were attacked on different examples.
    """
    import pandas as pd

    attacked = []
    for job, name in zip(jobs, results, strict=True):
        run, files = records.RunFiles(job.out), records.RunFiles(job.out).result(name)
        result = records.read_record(files.record, records.ResultRecord)
        attacked.append(_Attacked(job, records.read_record(run.record, records.RunRecord), result, files))
    for one in attacked:
        if one.result.hashes["data"] != attacked[0].result.hashes["data"]:
            places = f"{attacked[0].job.out} and {one.job.out}"
            raise UserError(f"{places} were attacked on different examples: their inputs do not transfer")
    rows = []
    for number, target in enumerate(attacked):
        report(Event(target.job.name, f"transfer, {attack.suite.name}", number, len(attacked)))
        sources = [source for source in attacked if source is not target]
        kept = _try_on(target, sources, attack)
        for source in sources:
            mine = (kept[["source_weights", "attack_hash", "source_created"]] == list(_key(source))).all(axis=1)
            rows.append(kept[mine].assign(source=str(source.job.out), target=str(target.job.out)))
        report(Event(target.job.name, f"transfer, {attack.suite.name}", number + 1, len(attacked)))
    return pd.concat(rows, ignore_index=True)[["source", "target", "attack", "eps", "tried", "fooled"]]


def _try_on(target: _Attacked, sources: Sequence[_Attacked], attack: Attack) -> "pd.DataFrame":
    """Return the rows of a target that are known, after trying what is missing and storing all of them."""
    import pandas as pd

    path = target.files.transfer
    sealed = not records.broken_seals(target.files.record, target.result, target.files.beside)
    kept = records.read_frame(path) if path.is_file() and sealed else pd.DataFrame(columns=pd.Index(records.TRANSFER))
    common = {"target_weights": target.result.hashes["weights"], "data": target.result.hashes["data"]}
    kept = kept[(kept[list(common)] == pd.Series(common)).all(axis=1)]
    done = set(zip(kept["source_weights"], kept["attack_hash"], kept["source_created"], strict=True))
    missing = {_key(source): source for source in sources if _key(source) not in done}
    if not missing:
        return kept
    rows: list[dict[str, Any]] = []
    subject = subject_of(target.job, attack)
    for source in missing.values():
        inputs = evaluation.read_adversarial(source.files.adversarial)
        origin = {
            "source": source.run.label,
            "source_seed": source.run.seed,
            "source_created": source.result.created,
            "source_weights": source.result.hashes["weights"],
            "attack_hash": source.result.hashes["attack"],
            "norm": source.result.norm,
        }
        entries = evaluation.transferred(subject.model, subject.x, subject.y, inputs)
        rows += [common | origin | entry._asdict() for entry in entries]
    tried = pd.DataFrame(rows, columns=pd.Index(records.TRANSFER))
    kept = tried if kept.empty else pd.concat([kept, tried], ignore_index=True)
    records.write_frame(path, kept)
    records.write_sealed(target.files.record, target.result, target.files.beside)
    return kept


def _key(source: _Attacked) -> tuple[str, str, str]:
    """Name the inputs that broke a network; an evaluation that went on after it ran out of budget has more of them."""
    return source.result.hashes["weights"], source.result.hashes["attack"], source.result.created
