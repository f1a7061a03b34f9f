"""A subject is an attacked network with its examples: of a run directory, or from elsewhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from robust_lowrank import checkpoint, conditioning, data, evaluation, models, provenance, records, training
from robust_lowrank.compression import count_parameters
from robust_lowrank.data import Examples, Progress
from robust_lowrank.data.reading import quiet
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.forms import FORMS, PROGRAMS, form_network, form_of, origin
from robust_lowrank.models.files import sha256
from robust_lowrank.threat import OBSERVED

FOREIGN = "foreign"  # the method of a run directory whose network was not trained here
OWN_EXAMPLES = training.DataConfig(name="own examples")  # stands for those that a run keeps


class Subject(NamedTuple):
    """A network, the examples that it is attacked on, as they are stored, and whether it has gradients."""

    model: nn.Module
    images: Tensor  # bytes, or floats in [0, 1]
    y: Tensor
    gradients: bool = True

    @property
    def x(self) -> Tensor:
        """The examples in [0, 1]; converted at each access when stored as bytes."""
        return data.unit_range(self.images)

    def first(self, examples: int | None) -> "Subject":
        """Return the subject with the first of its examples."""
        return self._replace(images=self.images[:examples], y=self.y[:examples])


def trained(run_dir: Path, place: training.DataConfig, progress: Progress = quiet, *, trust_code: bool = False) -> Subject:
    """Return a run's network with the test images of its record; `trust_code` as in `training.load_network`.

    Raises:
        UserError: the images in that place are others, or the network is not the one of the record.
    """
    parent = origin(run_dir)
    if parent is not None:
        return _deployed(run_dir, trained(parent, place, progress, trust_code=trust_code))
    recorded = records.read_record(records.RunFiles(run_dir).record, records.RunRecord)
    return own_subject(run_dir, *_test_images(run_dir, recorded, place, progress), trust_code=trust_code)


def own_subject(run_dir: Path, images: Tensor, labels: Tensor, *, trust_code: bool = False) -> Subject:
    """Return the network that a run directory holds with examples as they are stored, of which the first are its test images'.

    Raises:
        UserError: the network is not the one of the record.
    """
    recorded = records.read_record(records.RunFiles(run_dir).record, records.RunRecord)
    subject = Subject(network(run_dir, trust_code=trust_code), images, labels)
    if where := records.unlike(recorded.behaviour, evaluation.behaviour(subject.model, subject.first(OBSERVED).x)):
        raise UserError(
            f"{run_dir}: its network has the weights that run.json names and other answers, {where}: its code has changed since; "
            "train it again, or evaluate it with the version of then"
        )
    return subject


def _deployed(run_dir: Path, subject: Subject) -> Subject:
    """Return a form of a run's network, with the run's examples.

    Raises:
        UserError: as `_form_of`, or it answers otherwise than its record says.
    """
    model = _form_of(run_dir, subject.model)
    record = records.read_record(records.RunFiles(run_dir).record, records.RunRecord)
    if where := records.unlike(record.behaviour, evaluation.behaviour(model, subject.first(OBSERVED).x)):
        raise UserError(
            f"{run_dir}: this form has other answers than when it was made, {where}: its libraries have changed since; "
            "move it away, and attack the form again"
        )
    return Subject(model, subject.images, subject.y, gradients=form_of(record) not in PROGRAMS)


def _form_of(run_dir: Path, own: nn.Module) -> nn.Module:
    """Return the form of a run's own network that a directory below the run is of.

    Raises:
        UserError: its record names no form, or it is of other weights than the run has now, or than its record says.
    """
    files = records.RunFiles(run_dir)
    record = records.read_record(files.record, records.RunRecord)
    form = form_of(record)
    if form not in FORMS:
        raise UserError(f"{files.record} names no form of a network, but {form!r}: there are {', '.join(FORMS)}")
    if record.config.get("weights") != provenance.digest_tensors(own.state_dict()):
        raise UserError(f"{run_dir} is of other weights than its run has now: move it away, and attack the form again")
    model = form_network(own, form, files.onnx)
    if provenance.digest_tensors(model.state_dict()) != record.hashes.get("weights"):
        raise UserError(f"{run_dir} holds another network than its run.json names: move it away, and attack the form again")
    return model


def _test_images(
    run_dir: Path, recorded: records.RunRecord, place: training.DataConfig, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Return the images, as they are stored, and labels that a run is tested on.

    Raises:
        UserError: they are others than those of its record.
    """
    if keeps_examples(recorded):
        if place != OWN_EXAMPLES:
            raise UserError(f"{run_dir} keeps the examples that it is tested on: leave --data and --data-dir out")
        images, labels = training.read_examples(records.RunFiles(run_dir))
        others = f"{records.RunFiles(run_dir).examples} are not those that run.json names: put the run's own file back"
    else:
        dataset = place.load(progress).first(test=place.test_examples)
        images, labels = dataset.test_images, dataset.test_y
        here, option = (place.name, "--data-dir") if place.name in data.DATASETS else (Path(place.name).absolute(), "--data")
        others = f"{here} here are not those of {run_dir}: point {option} at the same files"
    if data.digest(images, labels) != recorded.hashes.get("test"):
        raise UserError(f"the test images of {others}")
    return images, labels


def keeps_examples(record: records.RunRecord) -> bool:
    """Return whether a run has its test examples in a file of its own."""
    return training.is_recorded(record.config) and record.config.get("data") is None


def require_factors(run_dir: Path, form: str) -> None:
    """Require a run whose network has its factors, if they are what a form is made of.

    Raises:
        UserError: it keeps a program of merged layers.
    """
    config = records.read_run(run_dir, results=False).record.config
    if form == "factors" and training.is_recorded(config) and config.get("source") is None:
        raise UserError(
            f"{run_dir} keeps its network as a program of merged layers, without their factors: export the network in your own "
            "loop, or record the run with source='module:function'"
        )


def stored_config(run_dir: Path) -> tuple[records.RunRecord, training.TrainConfig]:
    """Return the record of a trained run and its configuration.

    Of one that a loop of one's own has trained the configuration says no more than where its images lie. That they be fetched
    no record says.

    Raises:
        UserError: it is not a complete run directory, or its network was not trained here.
    """
    record = records.read_run(run_dir, results=False).record
    if (parent := origin(run_dir)) is not None:
        return record, stored_config(parent)[1]
    if record.method == FOREIGN:
        raise UserError(f"{run_dir} holds the results of {record.model}, not the network: attack it with --model again")
    if record.status != "complete":
        again = "open it again with rlr.record and go on" if training.is_recorded(record.config) else "train it again"
        raise UserError(f"{run_dir} is not complete: its training stopped after epoch {record.epochs_done}; {again}")
    try:
        config = training.config_of(record)
    except ValidationError as error:
        reason = records.faults(error)
        path = records.RunFiles(run_dir).record
        raise UserError(f"{path}: this version cannot read its configuration: {reason}") from error
    if not isinstance(config, training.TrainConfig):
        return record, training.TrainConfig(data=config.data or OWN_EXAMPLES)
    return record, config.model_copy(update={"data": config.data.model_copy(update={"download": False})})


def network(run_dir: Path, *, trust_code: bool = False) -> nn.Module:
    """Return the network of a run directory as it was trained, on the GPU if there is one; `trust_code` as in `load_network`.

    Of one that a loop of one's own has trained, without a function that makes it, it is the program that the run keeps.

    Raises:
        UserError: its weights are not those of its record.
    """
    if (parent := origin(run_dir)) is not None:
        return _form_of(run_dir, network(parent, trust_code=trust_code))
    files = records.RunFiles(run_dir)
    recorded = records.read_record(files.record, records.RunRecord).hashes
    if "program" in recorded and files.program.is_file() and sha256(files.program) != recorded["program"]:
        raise UserError(f"{files.program} is not the program that run.json names: put the run's own file back")
    model = training.load_network(run_dir, _device(), trust_code=trust_code)
    if (found := checkpoint.digest(model)) != recorded.get("weights", ""):
        raise UserError(
            f"{run_dir}: model.safetensors holds other weights ({found[:12]}) than run.json names ({recorded['weights'][:12]}): "
            "train the run again, or put its own file back"
        )
    return model


@dataclass(frozen=True)
class Foreign:
    """A network from elsewhere and its examples; see `models.load_foreign` and `data.load_examples`."""

    source: str
    weights: Path | None
    data: training.DataConfig
    classes: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    trust_code: bool = False

    def load(self, progress: Progress = quiet) -> Subject:
        """Return the network and its examples.

        Raises:
            UserError: one of them is not there or does not fit the other, or the network returns probabilities.
        """
        return self._load(progress)[0]

    def record(self, out: Path, *, label: str | None, command: str) -> records.RunRecord:
        """Write a run directory for the network: its record, its layers' spectra, and no training.

        Raises:
            UserError: as `load`, `out` holds something else, or the network is another one each time.
        """
        subject, examples, described = self._load(quiet)
        weights = provenance.digest_tensors(subject.model.state_dict())
        if weights != provenance.digest_tensors(self._network(examples).model.state_dict()):
            raise UserError(f"{self.source} makes other weights each time: give a file of them with --weights, or set a seed in it")
        behaviour = evaluation.behaviour(subject.model, subject.first(OBSERVED).x)
        _check_place(out, weights, behaviour)
        names = {"label": label or self.source, "model": self.source, "data": self.data.name, "command": command}
        known = {"classes": list(examples.classes), "remarks": list(examples.remarks), "behaviour": behaviour}
        run = untrained_run(out, subject.model, config=described, **known, **names)
        files = records.RunFiles(out)
        records.write_frame(files.metrics, run.metrics)
        records.write_frame(files.spectra, run.spectra)
        return records.write_sealed(files.record, run.record, files.beside)

    def on(self, examples: Examples) -> tuple[Subject, dict[str, str]]:
        """Return the network with examples that are there already, and what is known of it.

        Raises:
            UserError: it cannot be loaded, does not fit them, or returns probabilities.
        """
        foreign = self._network(examples)
        with torch.no_grad():
            evaluation.check_logits(foreign.model(examples.x[: evaluation.BATCH].to(_device())))
        return Subject(foreign.model, examples.x, examples.y, foreign.gradients), foreign.description

    def _load(self, progress: Progress) -> tuple[Subject, Examples, dict[str, str]]:
        examples = self.data.load_examples(progress)
        subject, description = self.on(examples)
        return subject, examples, description | {"examples": examples.note}

    def _network(self, examples: Examples) -> models.Foreign:
        return models.load_foreign(
            self.source,
            weights=self.weights,
            input_shape=tuple(examples.x.shape[1:]),
            num_classes=self.classes or len(examples.classes) or None,
            mean=self.mean,
            std=self.std,
            device=_device(),
            trust_code=self.trust_code,
        )


def weights_run(path: Path) -> records.Run:
    """Return a file of weights as a run without training or results, so that its layers can be reported on.

    Raises:
        UserError: it is not a file of weights, or holds none of a layer.
    """
    model = models.skeleton(path)
    names = {"label": path.name, "model": path.name, "data": "–", "command": ""}
    try:
        return untrained_run(path, model, config={"weights": str(path)}, **names)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def untrained_run(path: Path, network: nn.Module, /, **fields: Any) -> records.Run:
    """Return a network that was not trained here as a run with its layers' spectra, and no training or results."""
    import pandas as pd

    frame = conditioning.spectra(network)
    frame.insert(0, "epoch", 0)
    described: dict[str, Any] = {
        "method": FOREIGN,
        "seed": 0,
        "status": "complete",
        "created": records.now(),
        "versions": provenance.versions(),
        "machine": provenance.machine(_device()),
        "hashes": {"weights": provenance.digest_tensors(network.state_dict())},
        "parameters": count_parameters(network),
    }
    record = records.RunRecord(**described | fields)
    return records.Run(path, record, pd.DataFrame(columns=pd.Index(records.METRICS), dtype="float64"), frame, {})


def _check_place(out: Path, weights: str, behaviour: dict[str, str]) -> None:
    """Require a directory that is empty, not there, or of the network with these weights that answers like this."""
    path = records.RunFiles(out).record
    if not path.is_file():
        if out.is_file() or not records.is_vacant(out):
            raise UserError(f"{out} is not empty and not a run directory: choose another one with --out")
        return
    there = records.read_record(path, records.RunRecord)
    if there.method != FOREIGN or there.hashes.get("weights") != weights:
        raise UserError(f"{out} holds another network: choose another directory with --out")
    if where := records.unlike(there.behaviour, behaviour):
        reason = f"a network with these weights and other answers, or with other examples, {where}"
        raise UserError(f"{out} holds {reason}: choose another directory with --out")


def device_of(model: nn.Module) -> torch.device:
    """Return where a network computes: where its first parameter or buffer lies."""
    return next((each.device for each in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
