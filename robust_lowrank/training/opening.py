"""The run of a loop of one's own is opened: all that could make it useless later is tried before anything is written."""

import dataclasses
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robust_lowrank import checkpoint, evaluation, models, records
from robust_lowrank.compression import count_parameters
from robust_lowrank.data import Description, Reading, digest, unit_range
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.evaluation.network.target import checked_target
from robust_lowrank.exporting import export
from robust_lowrank.exporting.tracing import fixed_batch, trace
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.methods import Method
from robust_lowrank.models.operations import unknown_operations
from robust_lowrank.models.programs import float_type_of
from robust_lowrank.optim import LowRankOptimizer
from robust_lowrank.provenance import machine, versions
from robust_lowrank.records import RunFiles, RunRecord
from robust_lowrank.tables import parse_table
from robust_lowrank.threat import frozen_eval
from robust_lowrank.training.config import DataConfig
from robust_lowrank.training.method_config import DENSE
from robust_lowrank.training.naming import title_of
from robust_lowrank.training.recorded import RecordedConfig, is_recorded, load_recorded
from robust_lowrank.training.rundir import RunWriter, existing_record, same_images

OWN = "own examples"  # what records call data that were given as tensors
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
REMEDY = "Name the function that makes the dense network: source='module:function'"


class HeldOut(NamedTuple):
    """Examples that a network is tested on: inputs as they are stored, labels, and where they come from."""

    images: Tensor  # uint8, or float32 in [0, 1]
    labels: Tensor
    name: str = OWN
    place: DataConfig | None = None
    classes: tuple[str, ...] = ()

    @property
    def x(self) -> Tensor:
        """The inputs in [0, 1]."""
        return unit_range(self.images)


def take_examples(data: Any, reading: Reading) -> HeldOut:
    """Return the test examples of a data set by name or path, or inputs and labels that were given.

    Raises:
        UserError: there is no such data set, or they are no tensors of these types.
    """
    if not isinstance(reading, Reading):
        raise UserError(f"reading is a {type(reading).__name__}: give data.Reading(...), such as data.Reading(size=32)")
    if isinstance(data, str | Path):
        place = parse_table({"name": str(data), **dataclasses.asdict(reading)}, DataConfig, source="data")
        dataset = place.load()
        return HeldOut(dataset.test_images, dataset.test_y, str(data), place, dataset.classes)
    if not isinstance(data, tuple | list) or len(data) != 2 or not all(isinstance(each, Tensor) for each in data):
        raise UserError(f"data is a {type(data).__name__}: give a data set's name or path, or tensors (x, y) of test examples")
    if reading != Reading():
        raise UserError("reading says how files are read, and data are tensors: leave it out")
    x, y = (each.detach().cpu() for each in data)
    if x.dtype not in (torch.uint8, torch.float32):
        raise UserError(f"test inputs are uint8 or float32 in [0, 1], not {x.dtype}: give x.float()")
    if y.dtype not in INTEGERS or y.shape != x.shape[:1]:
        raise UserError(f"test labels are integers, one for each of {len(x)} inputs, not {tuple(y.shape)} {y.dtype}")
    return HeldOut(x.contiguous(), y.long().contiguous())


def config_for(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    examples: HeldOut,
    *,
    source: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> RecordedConfig:
    """Return what `run.json` says of how the network is trained."""
    inner = optimizer.inner if isinstance(optimizer, LowRankOptimizer) else optimizer
    methods = _methods(model)
    options = dataclasses.asdict(methods[0]) if len(methods) == 1 else {}  # pyright: ignore[reportArgumentType]
    return RecordedConfig(
        source=source,
        mean=None if mean is None else tuple(map(float, mean)),
        std=None if std is None else tuple(map(float, std)),
        data=examples.place,
        method={"name": "+".join(method.name for method in methods) or DENSE, **options},
        optimizer=None if inner is None else type(inner).__name__,
    )


def open_run(out: Path, model: nn.Module, config: RecordedConfig, examples: HeldOut, *, label: str | None, seed: int) -> RunWriter:
    """Return the writer of a new run, or that of an incomplete one after the epoch whose weights the network has.

    Raises:
        UserError: as `rlr.record`.
    """
    there = _existing(out, config, {"test": digest(examples.images, examples.labels)})
    data = _try(model, config, examples)
    if there is not None and (writer := _go_on(out, there, model)) is not None:
        return writer
    method = " + ".join(title_of(method) for method in _methods(model)) or title_of(None)
    weights = checkpoint.digest(model)
    record = RunRecord(
        label=label or method,
        method=config.method["name"],
        model=config.source or type(model).__name__,
        data=examples.name,
        seed=seed,
        created=records.now(),
        command=shlex.join(["python", *sys.argv]),
        config=config.to_record(),
        versions=versions(),
        machine=machine(next(model.parameters()).device),
        hashes={"test": digest(examples.images, examples.labels), "start": weights, "weights": weights},
        parameters=count_parameters(model),
        classes=list(data.classes),
        input_shape=data.input_shape,
    )
    writer = RunWriter(out, record)
    if examples.place is None:
        with records.replacing(writer.files.examples) as temporary:
            save_file({"x": examples.images, "y": examples.labels}, temporary)
    with frozen_eval(model):
        writer.write(model, None)
    return writer


def taking_images(model: nn.Module, examples: HeldOut, config: RecordedConfig) -> nn.Module:
    """Return the network with its normalisation in front, if it takes normalised inputs; its layers are the same objects.

    Raises:
        UserError: mean and std do not fit the inputs.
    """
    shape = tuple(examples.images.shape[1:])
    return models.normalised(model, shape, config.mean, config.std)[0].to(next(model.parameters()).device)


def plain(network: nn.Module) -> nn.Module:
    """Return a copy of a network in dense layers of torch alone, on the CPU and in evaluation mode.

    Raises:
        UserError: it cannot be copied.
    """
    try:
        return export(network, to="dense").cpu().eval()
    except Exception as error:  # of whatever the network keeps
        raise UserError(f"the network cannot be copied: {first_line(error)}") from error


def _methods(model: nn.Module) -> list[Method]:
    methods: list[Method] = []
    for _, layer in named_factored_layers(model):
        if layer.method is not None and layer.method not in methods:
            methods.append(layer.method)
    return methods


def _existing(out: Path, config: RecordedConfig, hashes: dict[str, str]) -> RunRecord | None:
    """Return the record of the incomplete run in `out`, or None if nothing is there.

    Raises:
        UserError: something else is there.
    """
    path, elsewhere = RunFiles(out).record, "choose another directory, or delete this one"
    if out.is_dir():
        records.require_plain(out)
    if path.is_file() and not is_recorded(records.read_record(path, RunRecord).config):
        raise UserError(f"{out} holds a run that rlr.record did not begin: {elsewhere}")
    there = existing_record(out, config.to_record(), hashes)
    if there is not None and there.status == "complete":
        raise UserError(f"{out} holds a run that is complete, {there.label}: {elsewhere}")
    if there is not None and not same_images(there, hashes):
        raise UserError(f"{out} holds a run that is tested on other examples: {elsewhere}")
    return there


def _try(model: nn.Module, config: RecordedConfig, examples: HeldOut) -> Description:
    """Require a network that takes the examples and can be kept; return the shape of its inputs and its classes.

    Raises:
        UserError: it does not, or cannot.
    """
    if next(model.parameters(), None) is None:
        raise UserError(f"{type(model).__name__} has no parameters: there is nothing to record")
    network, shape = taking_images(model, examples, config), tuple(examples.images.shape[1:])
    with frozen_eval(network):
        target = checked_target(network, examples.x, examples.labels)
        with torch.no_grad():
            logits = target(unit_range(examples.images[: evaluation.BATCH]).to(target.device))
        evaluation.check_logits(logits)
        if not bool(torch.isfinite(logits).all()):
            raise UserError("the network returns logits that are not finite: look at its weights")
        classes = examples.classes if len(examples.classes) == target.classes else tuple(map(str, range(target.classes)))
        data = Description(shape, classes)
        dense = plain(network)
        if config.source is None:
            try:
                program = trace(dense, blank_batch(dense, shape))
            except UserError as error:
                raise UserError(f"{error}\n{REMEDY}") from error
            if unknown := unknown_operations(program.graph_module):
                raise UserError(f"the network has operations that no program of a run may hold, {', '.join(unknown[:4])}\n{REMEDY}")
            if fixed := fixed_batch(program):
                raise UserError(f"the network takes batches of {fixed} alone, and so would the program of the run\n{REMEDY}")
        else:
            _try_source(model, network, config, data, examples)
    return data


def blank_batch(network: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return inputs of zeros on which a network can be traced."""
    return torch.zeros(2, *shape, dtype=float_type_of(network))


def _try_source(model: nn.Module, network: nn.Module, config: RecordedConfig, data: Description, examples: HeldOut) -> None:
    """Require that the function makes a network which answers, with the weights of this one, as this one does."""
    with TemporaryDirectory() as folder:
        files = RunFiles(Path(folder))
        checkpoint.save(model, files.weights)
        try:
            made = load_recorded(config, data, files)
        except UserError as error:
            reason = first_line(error).removeprefix(f"{files.weights} ")
            raise UserError(f"{config.source} does not make the network that is trained: {reason}") from error
    if where := records.unlike(evaluation.behaviour(network, examples.x), evaluation.behaviour(made, examples.x)):
        raise UserError(
            f"{config.source} makes a network that has the weights of this one and other answers, {where}\n"
            "Name the function that has made the network; what was changed on it afterwards belongs into that function"
        )


def _go_on(out: Path, there: RunRecord, model: nn.Module) -> RunWriter | None:
    """Return the writer that goes on after the epoch whose weights the network has; None where those are of the beginning.

    Raises:
        UserError: it has the weights of none.
    """
    files, weights = RunFiles(out), checkpoint.digest(model)
    metrics = records.read_frame(files.metrics, ("seconds", "weights")) if there.epochs_done else None
    known = [there.hashes.get("start", ""), *([] if metrics is None else metrics["weights"])]
    if weights not in known:
        raise UserError(
            f"{out} stopped after epoch {there.epochs_done}, and the network has the weights of none of its epochs\n"
            f"Go on from the last ones, rlr.load(model, {str(files.weights)!r}), or choose another directory"
        )
    done = len(known) - 1 - known[::-1].index(weights)
    if done < there.epochs_done:
        message = f"{out} goes on after epoch {done} of {there.epochs_done}, whose weights the network has: later ones are dropped"
        warnings.warn(message, stacklevel=2)
    if metrics is None or not done:
        return None
    changes = {
        "epochs_done": done,
        "hashes": there.hashes | {"weights": weights},
        "seconds": float(metrics["seconds"].iloc[:done].sum()),
        "parameters": count_parameters(model),
        "versions": versions(),
        "machine": machine(next(model.parameters()).device),
    }
    with frozen_eval(model):
        writer = RunWriter.resume(out, there.model_copy(update=changes), model)
    if writer is None:
        raise UserError(f"{out}: its histories do not reach epoch {done}: choose another directory, or delete this one")
    return writer
