"""Stored results of runs are proved again, and the cost of an attack on one is forecast."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from robust_lowrank import evaluation, provenance, records
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.unit_result import UnitResult
from robust_lowrank.jobs.attack import Attack
from robust_lowrank.jobs.certification import certificate_faults
from robust_lowrank.jobs.chain import Location, config_of, foreign_job, moved, stored_job, subject_of
from robust_lowrank.jobs.claims import is_whole, size_faults
from robust_lowrank.jobs.subjects import FOREIGN, Foreign, Subject, trained
from robust_lowrank.threat import OBSERVED


class Examined(NamedTuple):
    """A result's proof, and what attacking a share of it anew has found."""

    verification: evaluation.Verification
    again: tuple[evaluation.Again, ...] = ()

    @property
    def sound(self) -> bool:
        """True if nothing speaks against it; that other noise breaks an example more does not."""
        return self.verification.sound and not any(entry.disproved for entry in self.again)


class Examination(NamedTuple):
    """The proof of a run's results, by their names, and what is wrong with its files."""

    results: dict[str, Examined]
    faults: tuple[str, ...]
    smoothed: tuple[str, ...] = ()  # certificates by smoothing, of which only figures can be proved
    sized: bool = True  # False: parameters and condition numbers stand in the record alone, the network being a merged program

    @property
    def sound(self) -> bool:
        """True if nothing speaks against the files or the results."""
        return not self.faults and all(result.sound for result in self.results.values())


def examine(
    run_dir: Path,
    suite: str | None,
    location: Location = Location(),  # noqa: B008 it is a tuple
    *,
    foreign: Foreign | None = None,
    again: float | None = None,
    seed: int = 0,
    trust_code: bool = False,
) -> Examination:
    """Prove a run's stored results again, and attack a share of each anew if one is given.

    Args:
        suite: the name of a result; all without it.
        location: where the run's images lie now.
        foreign: the network of a run that was not trained here.
        seed: which examples are attacked anew.
        trust_code: as in `training.load_network`.

    Raises:
        UserError: there is no such result, or one is stale, or the network is not the run's.
    """
    run = records.read_run(run_dir)
    chosen = choose_results(run, suite)
    return prove(run, chosen, subject_of_run(run, location, foreign, trust_code), again=again, seed=seed)


def choose_results(run: records.Run, suite: str | None) -> dict[str, records.Result]:
    """Return the results of a run by that name, all without one.

    Raises:
        UserError: there is none, or nothing in the run that could be proved.
    """
    if suite is not None and suite not in run.results:
        raise UserError(f"{run.path} has no results of suite {suite!r}; there are: {', '.join(run.results) or 'none'}")
    chosen = {name: result for name, result in run.results.items() if suite in (None, name)}
    if not chosen and not run.certificates:
        raise UserError(f"{run.path} has no results: attack it first")
    return chosen


def prove(
    run: records.Run, chosen: Mapping[str, records.Result], subject: Subject, *, again: float | None = None, seed: int = 0
) -> Examination:
    """Prove some of a run's results, and its certificates, on its network with its examples; arguments as those of `examine`.

    Raises:
        UserError: a result is stale, or of more examples than these.
    """
    run_dir, examined = run.path, {}
    for name, result in chosen.items():
        files = records.RunFiles(run_dir).result(name)
        inputs = evaluation.read_adversarial(files.adversarial)
        closest = evaluation.read_adversarial(files.closest) if files.closest.is_file() else None
        count = result.record.accuracies[0].total if result.record.accuracies else 0
        if not 1 <= count <= len(subject.y) or int(result.verdicts["example"].min()) != 0:
            raise UserError(f"{run_dir}/results/{name} is of {count} examples, where there are {len(subject.y)}: move it away")
        part = subject.first(count)
        verified = evaluation.verify(part.model, part.x, part.y, result.record, result.verdicts, inputs, closest)
        tried: tuple[evaluation.Again, ...] = ()
        if again is not None:
            given = (part.model, part.x, part.y, result.record, result.verdicts)
            tried = tuple(evaluation.attack_again(*given, share=again, seed=seed, gradients=part.gradients))
        examined[name] = Examined(verified, tried)
    whole = is_whole(run)
    faults = [*_file_faults(run), *(size_faults(run, subject.model) if whole else ())]
    for name, certificate in run.certificates.items():
        faults += certificate_faults(f"certificates/{name}", certificate, subject)
    smoothed = [name for name, certificate in run.certificates.items() if certificate.record.kind == "smoothing"]
    return Examination(examined, tuple(faults), tuple(smoothed), whole)


def subject_of_run(run: records.Run, location: Location, foreign: Foreign | None, trust_code: bool) -> Subject:
    """Return a run's network with its examples.

    Raises:
        UserError: it is another network than the run's.
    """
    if run.record.method != FOREIGN:
        if foreign is not None:
            raise UserError(f"{run.path} holds its own network: leave out --model")
        return trained(run.path, moved(stored_job(run.path, []), location).config.data, trust_code=trust_code)
    if foreign is None:
        raise UserError(f"{run.path} holds the results of {run.record.model}, not the network: give it with --model and --data")
    subject = foreign.load()
    require_network(run, subject, foreign.source)
    return subject


def require_network(run: records.Run, subject: Subject, source: str) -> None:
    """Require that a network from elsewhere is the one that a run holds the results of.

    Raises:
        UserError: it has other weights or other answers.
    """
    if provenance.digest_tensors(subject.model.state_dict()) != run.record.hashes.get("weights"):
        raise UserError(f"{source} has other weights than the network that {run.path} holds the results of")
    if where := records.unlike(run.record.behaviour, evaluation.behaviour(subject.model, subject.first(OBSERVED).x)):
        raise UserError(f"{source} has the weights of the network in {run.path} and other answers, {where}")


def _file_faults(run: records.Run) -> Iterator[str]:
    """Yield in words what is not as it was written."""
    files = records.RunFiles(run.path)
    yield from records.broken_seals(files.record, run.record, files.beside)
    yield from records.strangers(run)
    for name, certificate in run.certificates.items():
        yield from records.broken_seals(files.certificate(name), certificate.record)
    for table in sorted(files.certificates.glob("*.parquet")):
        if table.stem not in run.certificates:
            yield f"{table.with_suffix('.json')} is missing"
    for directory in sorted(path for path in files.results.glob("*") if path.is_dir()):
        result = files.result(directory.name)
        if directory.name in run.results:
            yield from records.broken_seals(result.record, run.results[directory.name].record, result.beside)
        elif any(path.exists() for path in result.beside):
            yield f"{result.record} is missing"
        for unit in sorted(result.units.glob("*.safetensors")):
            if UnitResult.from_file(unit) is None:
                yield f"{unit} is not as it was written"


def forecast_of(run_dir: Path | None, attack: Attack, location: Location, foreign: Foreign | None) -> evaluation.Forecast:
    """Return what an attack on a run, or on a network from elsewhere, will take at most.

    Raises:
        UserError: it is not a complete run directory, or a budget is out of range.
    """
    if foreign is not None:
        job = foreign_job(foreign, Path(foreign.source), [attack], command="")
    elif run_dir is not None:
        job = moved(stored_job(run_dir, [attack]), location)
    else:
        raise UserError("nothing to forecast: give a run directory, or --model with --data")
    subject = subject_of(job, attack)
    return evaluation.forecast(subject.model, subject.x, subject.y, config_of(subject, attack))
