"""A run directory is written epoch by epoch, and its network read afterwards."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from robust_lowrank import checkpoint, records
from robust_lowrank.conditioning import operators, spectra
from robust_lowrank.data import Dataset, unit_range
from robust_lowrank.errors import BRIEF, UserError, brief, shown
from robust_lowrank.records import METRICS, Run, RunFiles, RunRecord
from robust_lowrank.threat import OBSERVED, frozen_eval, observe
from robust_lowrank.training.config import READING_KEYS, TrainConfig
from robust_lowrank.training.networks import described, load_network
from robust_lowrank.training.resume import drop_states

if TYPE_CHECKING:
    import pandas as pd

PLACE_KEYS = ("data_dir", "download")  # of [data]: where the images lie does not make another run


def finished_run(out: Path, config: TrainConfig, hashes: dict[str, str], dataset: Dataset) -> records.Run | None:
    """Return the run in `out` if it is complete and has this configuration, these data and the weights that it names.

    Raises:
        UserError: `out` holds something else, which is left as it is.
    """
    record = existing_record(out, config.to_record(), hashes)
    if record is None or record.status != "complete" or not same_images(record, hashes):
        return None
    network = load_network(out, trust_code=True)  # the configuration names the same function
    if checkpoint.digest(network) != record.hashes.get("weights"):
        return None
    refuse_changed_code(out, record, network, dataset)
    return read_trained(out)


def existing_record(out: Path, config: dict[str, Any], hashes: dict[str, str]) -> RunRecord | None:
    """Return the record of the run in `out`, or None if nothing is there.

    Raises:
        UserError: `out` holds something else than a run of this configuration.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise UserError(f"{out} is a file: a run needs a directory")
    if records.is_vacant(out):
        return None
    records.require_plain(out)
    if not (files := RunFiles(out)).record.is_file():
        raise UserError(f"{out} is not empty and not a run directory: choose another one")
    record = records.read_record(files.record, RunRecord)
    if other := difference(record, config, hashes):
        raise UserError(f"{out} holds another run: {other}\nChoose another directory, or delete this one")
    return record


def behaviour_on(network: nn.Module, dataset: Dataset) -> dict[str, str]:
    """Return a network's answers to a few inputs around the first test images, as its record holds them."""
    with frozen_eval(network):
        return observe(network, unit_range(dataset.test_images[:OBSERVED]).to(next(network.parameters()).device))


def refuse_changed_code(out: Path, record: RunRecord, network: nn.Module, dataset: Dataset) -> None:
    """Require that a network with the weights of a record answers as the one that was recorded.

    Raises:
        UserError: it does not.
    """
    if where := records.unlike(record.behaviour, behaviour_on(network, dataset)):
        raise UserError(
            f"{out} holds a run of {record.model} with these weights and other answers, {where}: its code has changed since\n"
            "Choose another directory, or delete this one"
        )


def read_trained(out: Path) -> Run:
    """Return a trained run, without its results where a file of theirs is lost: an attack makes it again."""
    try:
        return records.read_run(out)
    except UserError:
        return records.read_run(out, results=False)


class RunWriter:
    """Writes the files of a run, epoch by epoch; each is whole at any time, and `run.json` comes last.

    What an earlier attempt has left is removed first: results, certificates and norms, for they belong to other weights, the
    monitor's history, and states to go on from.
    """

    def __init__(self, out: Path, record: RunRecord) -> None:
        self.out = out
        self.files: RunFiles = RunFiles(out)
        self.record = record
        self.metrics: list[dict[str, float]] = []
        self.spectra: list[pd.DataFrame] = []
        drop_states(out)
        _drop_proofs(out)
        self.files.monitor.unlink(missing_ok=True)
        records.write_record(self.files.record, record)

    @classmethod
    def resume(cls, out: Path, record: RunRecord, model: nn.Module) -> Self | None:
        """Return the writer that goes on after the last epoch of `record`, or None if the histories do not reach there.

        The files are put back to that epoch, from which the last attempt may have gone on before it stopped.
        """
        done, files = record.epochs_done, RunFiles(out)
        try:
            histories = (records.read_frame(path) for path in (files.metrics, files.spectra))
            metrics, spectra = (history[history["epoch"] <= done] for history in histories)
        except (UserError, ValueError, KeyError):
            return None
        epochs = range(1, done + 1)
        if metrics["epoch"].tolist() != [*epochs] or sorted(set(spectra["epoch"])) != [0, *epochs]:
            return None
        writer = cls.__new__(cls)
        writer.out, writer.files, writer.record = out, files, record
        writer.metrics, writer.spectra = metrics.to_dict("records"), [spectra]  # pyright: ignore[reportAttributeAccessIssue]
        _drop_proofs(out)
        writer._store(model)
        return writer

    def write(self, model: nn.Module, metrics: dict[str, float] | None, **changes: object) -> None:
        """Write weights, histories and the record with `changes`.

        With the status "complete" the norms of the layers as operators are written too.

        Args:
            metrics: of another epoch. None: before the first one, or where the last one is written again.
        """
        if metrics is not None:
            self.metrics.append(metrics)
        epoch = len(self.metrics)
        frame = spectra(model)
        frame.insert(0, "epoch", epoch)
        self.spectra = [*(history[history["epoch"] < epoch] for history in self.spectra), frame]
        if "hashes" not in changes:
            changes["hashes"] = self.record.hashes | {"weights": checkpoint.digest(model)}
        self.record: RunRecord = self.record.model_copy(update={"epochs_done": epoch} | changes)
        self._store(model)

    def _store(self, model: nn.Module) -> None:
        import pandas as pd

        columns = dict.fromkeys([*METRICS, *(name for row in self.metrics for name in row)])
        records.write_frame(self.files.metrics, pd.DataFrame(self.metrics, columns=pd.Index(columns)))
        records.write_frame(self.files.spectra, pd.concat(self.spectra, ignore_index=True))
        checkpoint.save(model, self.files.weights)  # after the histories, which then know every epoch whose weights are there
        if self.record.status == "complete":
            records.write_frame(self.files.operators, operators(model, described(self.record).input_shape))
        self.record = records.write_sealed(self.files.record, self.record, self.files.beside)


def _drop_proofs(out: Path) -> None:
    """Remove what was made of other weights: results, certificates, forms, norms and the program."""
    files = RunFiles(out)
    for directory in (files.results, files.certificates, files.forms):
        shutil.rmtree(directory, ignore_errors=True)
    files.operators.unlink(missing_ok=True)
    files.program.unlink(missing_ok=True)


def same_images(record: RunRecord, hashes: dict[str, str]) -> bool:
    """Return whether a run was trained and tested on the images with these hashes."""
    return all(record.hashes.get(key) == value for key, value in hashes.items())


def difference(record: RunRecord, config: dict[str, Any], hashes: dict[str, str]) -> str:
    """Return in words what first sets a run's configuration apart from another, as records hold it, or nothing.

    Where the images lie does not make another run, nor do the same images under another name.
    """
    there, wanted = record.config.get("data"), config.get("data")
    if there and wanted and same_images(record, hashes):
        config = config | {"data": wanted | {key: there.get(key) for key in ("name", *READING_KEYS)}}
    return _difference(record.config, config)


def _difference(there: dict[str, Any], wanted: dict[str, Any], path: str = "") -> str:
    for key in sorted(there.keys() | wanted.keys()):
        old, new = there.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            if nested := _difference(old, new, f"{path}{key}."):
                return nested
        elif old != new and key not in PLACE_KEYS:
            return f"its {shown(path + key)[:BRIEF]} is {brief(old)}, not {brief(new)}"
    return ""
