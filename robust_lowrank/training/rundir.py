"""A run directory is written epoch by epoch, and its network read afterwards."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError
from torch import nn

from robust_lowrank import checkpoint, models, records
from robust_lowrank.conditioning import operators, spectra
from robust_lowrank.data import DATASETS, Description
from robust_lowrank.errors import UserError
from robust_lowrank.records import METRICS, Run, RunFiles, RunRecord
from robust_lowrank.training.config import READING_KEYS, TrainConfig
from robust_lowrank.training.resume import drop_states

if TYPE_CHECKING:
    import pandas as pd

PLACE_KEYS = ("data_dir", "download")  # of [data]: where the images lie does not make another run


def build_network(config: TrainConfig, data: Description) -> nn.Module:
    """Return the dense network of a configuration for images and classes such as these, with fresh weights."""
    return models.build(config.model.name, input_shape=data.input_shape, num_classes=len(data.classes))


def described(record: RunRecord) -> Description:
    """Return what a run's record says of its data; an older one leaves it to the catalogue, which then has them."""
    if record.input_shape is None:
        return DATASETS[record.data].description
    return Description(record.input_shape, tuple(record.classes), tuple(record.remarks))


def load_network(run_dir: Path | str) -> nn.Module:
    """Return the trained network of a run directory, in eval mode.

    Example:
        >>> load_network("runs/condlr")(torch.rand(1, 1, 8, 8)).argmax()  # doctest: +SKIP

    Raises:
        UserError: it is not a run directory, or the weights do not fit its record.
    """
    files = RunFiles(Path(run_dir))
    if not files.record.is_file():
        raise UserError(f"{run_dir} is not a run directory: it has no {files.record.name}")
    record = records.read_record(files.record, RunRecord)
    try:
        config = TrainConfig.from_record(record.config)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"{files.record} holds no configuration that this version can read: {reason}") from error
    return checkpoint.load(build_network(config, described(record)), files.weights).eval()


def finished_run(out: Path, config: TrainConfig, hashes: dict[str, str]) -> records.Run | None:
    """Return the run in `out` if it is complete and has this configuration, these data and the weights that it names.

    Raises:
        UserError: `out` holds something else, which is left as it is.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise UserError(f"{out} is a file: a run needs a directory")
    if not any(out.iterdir()):
        return None
    if not (files := RunFiles(out)).record.is_file():
        raise UserError(f"{out} is not empty and not a run directory: choose another one")
    record = records.read_record(files.record, RunRecord)
    if other := difference(record, config, hashes):
        raise UserError(f"{out} holds another run: {other}\nChoose another directory, or delete this one")
    if record.status != "complete" or not same_images(record, hashes):
        return None
    network = load_network(out)
    return read_trained(out) if checkpoint.digest(network) == record.hashes.get("weights") else None


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
        """Write weights, histories and the record with `changes`; `metrics` is None before the first epoch.

        With the status "complete" the norms of the layers as operators are written too.
        """
        if metrics is not None:
            self.metrics.append(metrics)
        frame = spectra(model)
        frame.insert(0, "epoch", len(self.metrics))
        self.spectra.append(frame)
        hashes = self.record.hashes | {"weights": checkpoint.digest(model)}
        changes = {"epochs_done": len(self.metrics), "hashes": hashes} | changes
        self.record: RunRecord = self.record.model_copy(update=changes)
        self._store(model)

    def _store(self, model: nn.Module) -> None:
        import pandas as pd

        checkpoint.save(model, self.files.weights)
        records.write_frame(self.files.metrics, pd.DataFrame(self.metrics, columns=pd.Index(METRICS)))
        records.write_frame(self.files.spectra, pd.concat(self.spectra, ignore_index=True))
        if self.record.status == "complete":
            records.write_frame(self.files.operators, operators(model, described(self.record).input_shape))
        self.record = records.write_sealed(self.files.record, self.record, self.files.beside)


def _drop_proofs(out: Path) -> None:
    """Remove what was found out about other weights: results, certificates and norms."""
    files = RunFiles(out)
    for directory in (files.results, files.certificates):
        shutil.rmtree(directory, ignore_errors=True)
    files.operators.unlink(missing_ok=True)


def same_images(record: RunRecord, hashes: dict[str, str]) -> bool:
    """Return whether a run was trained and tested on the images with these hashes."""
    return all(record.hashes.get(key) == value for key, value in hashes.items())


def difference(record: RunRecord, config: TrainConfig, hashes: dict[str, str]) -> str:
    """Return in words what first sets a run's configuration apart from another, or nothing.

    Where the images lie does not make another run, nor do the same images under another name.
    """
    wanted = config.to_record()
    if same_images(record, hashes):
        there = record.config.get("data", {})
        wanted["data"] |= {key: there.get(key) for key in ("name", *READING_KEYS)}
    return _difference(record.config, wanted)


def _difference(there: dict[str, Any], wanted: dict[str, Any], path: str = "") -> str:
    for key in sorted(there.keys() | wanted.keys()):
        old, new = there.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            if nested := _difference(old, new, f"{path}{key}."):
                return nested
        elif old != new and key not in PLACE_KEYS:
            return f"its {path}{key} is {old!r}, not {new!r}"
    return ""
