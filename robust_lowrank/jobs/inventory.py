"""An inventory of a run directory says of each thing in it whether it can be relied on, and what it costs to make again."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from robust_lowrank import records
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.unit_result import UnitResult
from robust_lowrank.jobs.certification import VERSION
from robust_lowrank.jobs.subjects import FOREIGN
from robust_lowrank.records import CertificateRecord, ResultFiles, ResultRecord, RunFiles, RunRecord
from robust_lowrank.training import is_recorded

State = Literal["whole", "unfinished", "stale", "foreign", "damaged", "leftover"]
HALVES = "half-written by a process that was killed; goes by itself when the run is written again"


class Item(NamedTuple):
    """A file, or what lies in a directory."""

    name: str  # below the run directory
    state: State
    finding: str
    seconds: float | None = None  # that making it has taken; None: nothing, or it is not known
    remedy: str = ""


def inventory(run_dir: Path) -> list[Item]:
    """Return what is in a run directory, the run's own files first; nothing is computed again, and no network is loaded.

    "stale" is what something newer has replaced, "foreign" what belongs to another network or to no run at all.

    Example:
        >>> [item for item in inventory(Path("runs/condlr")) if item.state == "damaged"]  # doctest: +SKIP
        []

    Raises:
        UserError: it is not a run directory, a link leads out of it, or its record cannot be read.
    """
    files = RunFiles(run_dir)
    if not files.record.is_file():
        raise UserError(f"{run_dir} is not a run directory: it has no {files.record.name}; name one that has")
    records.require_plain(run_dir)
    record = records.read_record(files.record, RunRecord)
    items = [*_own(files, record), *_results(files, record), *_certificates(files, record), *_forms(files, record)]
    items += [Item(str(path.relative_to(run_dir)), "leftover", HALVES) for path in records.leftovers(run_dir)]
    known = {path.name for path in (files.record, *files.beside, files.resume, files.results, files.certificates, files.forms)}
    known.add("exports")
    strange = sorted(path.name for path in run_dir.glob("[!.]*") if path.name not in known)
    return items + [Item(name, "foreign", "nothing that a run directory has") for name in strange]


def _own(files: RunFiles, record: RunRecord) -> Iterator[Item]:
    """Yield the record and the files that it is sealed with."""
    again = _training(files.root, record)
    if record.status != "complete":
        epochs = sorted(int(path.name) for path in files.resume.glob("*") if path.name.isdecimal())
        found = f"stopped after epoch {record.epochs_done}" + ("" if epochs or is_recorded(record.config) else ", without a state")
        yield Item(files.record.name, "unfinished", found, record.seconds, again)
        return
    faults = records.broken_seals(files.record, record, files.beside)
    for path in (files.record, *files.beside):
        found = _of(path, faults)
        if found or path.is_file():
            state: State = "whole" if not found else "foreign" if "come since" in found else "damaged"
            yield Item(path.name, state, found, record.seconds or None, again if found else "")
    if any(files.resume.glob("*")):
        yield Item(files.resume.name, "leftover", "states of a training that is complete; they may be deleted")


def _training(run_dir: Path, record: RunRecord) -> str:
    """Return how a run's own files are made again."""
    if record.method == FOREIGN:
        return "attack the network with --model again"
    if records.FORM in record.config:
        return f"rlr-eval attack {shlex.quote(str(run_dir.parent.parent))} --form {shlex.quote(run_dir.name)}"
    if is_recorded(record.config):
        return "run your loop with rlr.record again"
    return "move the run away and train it again with the same options"


def _results(files: RunFiles, run: RunRecord) -> Iterator[Item]:
    found = {}
    for directory in sorted(path for path in files.results.glob("*") if path.is_dir()):
        result = files.result(directory.name)
        if result.record.is_file():
            try:
                found[directory.name] = records.read_record(result.record, ResultRecord)
            except UserError as error:
                yield Item(f"results/{directory.name}", "damaged", str(error), None, _attack(files.root, _suite(directory.name)))
        elif any(path.exists() for path in result.beside):
            finding = "without its record: the attack was stopped as it wrote, or it is lost"
            yield Item(f"results/{directory.name}", "unfinished", finding, None, _attack(files.root, _suite(directory.name)))
    for name, record in found.items():
        state, finding = _state(files.result(name), record, run, [other for each, other in found.items() if each != name])
        remedy = _attack(files.root, record.suite, record) if state in ("damaged", "unfinished") else ""
        yield Item(f"results/{name}", state, finding, record.seconds, remedy)
    for units in sorted(files.results.glob("*/units")):
        name, again = f"results/{units.parent.name}/units", _attack(files.root, _suite(units.parent.name))
        broken = [path.name for path in sorted(units.glob("*.safetensors")) if UnitResult.from_file(path) is None]
        if broken:
            finding = f"{len(broken)} damaged, such as {broken[0]}: they are as good as not there"
            yield Item(name, "damaged", finding, None, again)
        elif not files.result(units.parent.name).record.is_file():
            finding = "of an evaluation that was stopped"
            yield Item(name, "unfinished", finding, None, again)


def _state(files: ResultFiles, record: ResultRecord, run: RunRecord, others: Sequence[ResultRecord]) -> tuple[State, str]:
    if faults := records.broken_seals(files.record, record, files.beside):
        stopped = all("has come since" in fault for fault in faults)  # a file is written before the record that is sealed with it
        return "unfinished" if stopped else "damaged", faults[0].replace(f"{files.root}/", "")
    if record.hashes.get("weights") != run.hashes.get("weights"):
        return "foreign", "it is of another network than the run's"
    if any(records.supersedes(other, record) for other in others):
        return "stale", "a result beside it says all that it says, and more"
    return "whole", f"{record.accuracies[0].total} examples" if record.accuracies else ""


def _attack(run_dir: Path, suite: str, record: ResultRecord | None = None) -> str:
    n = f" --n {record.accuracies[0].total}" if record and record.accuracies else ""
    eps = "".join(f" --eps {radius!r}" for radius in record.eps) if record else ""
    norm = f" --norm {record.norm}" if record else ""
    return f"rlr-eval attack {shlex.quote(str(run_dir))} --suite {shlex.quote(suite)}{norm}{eps}{n}"


def _suite(directory: str) -> str:
    """Return the suite whose results a directory has the name of, with a number or without."""
    stem, _, number = directory.rpartition("-")
    return stem if stem and number.isdecimal() else directory


def _certificates(files: RunFiles, run: RunRecord) -> Iterator[Item]:
    for path in sorted({path.with_suffix(".json") for path in files.certificates.glob("[!.]*")}):
        name, again = f"certificates/{path.stem}", f"rlr-eval certify {shlex.quote(str(files.root))}"
        try:
            record = records.read_record(path, CertificateRecord)
        except UserError as error:
            yield Item(name, "damaged", str(error), None, again)
            continue
        if record.kind == "smoothing":
            given = {key: record.parameters.get(name) for key, name in (("sigma", "sigma"), ("samples", "n"), ("seed", "seed"))}
            again += " --method smoothing" + "".join(f" --{key} {value:g}" for key, value in given.items() if value is not None)
        faults = records.broken_seals(path, record)
        if faults:
            yield Item(name, "damaged", faults[0].replace(f"{files.certificates}/", ""), record.seconds, again)
        elif record.hashes.get("weights") != run.hashes.get("weights"):
            yield Item(name, "foreign", "it is of another network than the run's", record.seconds)
        elif record.version != VERSION:
            yield Item(name, "stale", f"version {record.version} of the bound, and this is {VERSION}", record.seconds, again)
        else:
            yield Item(name, "whole", "", record.seconds)


def _forms(files: RunFiles, run: RunRecord) -> Iterator[Item]:
    for directory in sorted(path for path in files.forms.glob("*") if path.is_dir()):
        name = f"forms/{directory.name}"
        again = f"rlr-eval attack {shlex.quote(str(files.root))} --form {shlex.quote(directory.name)}"
        if not RunFiles(directory).record.is_file():
            yield Item(name, "unfinished", "without its record: it was stopped as it was made, or that is lost", None, again)
            continue
        try:
            items = inventory(directory)
            record = records.read_record(RunFiles(directory).record, RunRecord)
        except UserError as error:
            yield Item(name, "damaged", str(error), None, again)
            continue
        if record.config.get("weights") != run.hashes.get("weights"):
            yield Item(name, "stale", "it is of other weights than the run has now: move it away", None, again)
        else:
            yield from (item._replace(name=f"{name}/{item.name}") for item in items)


def _of(path: Path, faults: Sequence[str]) -> str:
    """Return what is wrong with a file, nothing if nothing is."""
    return next((fault.removeprefix(f"{path} ") for fault in faults if fault.startswith(f"{path} ")), "")
