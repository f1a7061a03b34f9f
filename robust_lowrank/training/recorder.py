"""A recorder writes the run directory of a network that a loop of one's own trains."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_lowrank import checkpoint, evaluation, records
from robust_lowrank.compression import count_parameters
from robust_lowrank.conditioning import History, Monitor
from robust_lowrank.data import Reading, unit_range
from robust_lowrank.errors import TrainingError, UserError
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.exporting.programs import write_program
from robust_lowrank.models.files import sha256
from robust_lowrank.optim.nonfinite import require_finite
from robust_lowrank.records import METRICS
from robust_lowrank.submodules import uncompiled
from robust_lowrank.threat import frozen_eval
from robust_lowrank.training.costs import measure_costs
from robust_lowrank.training.networks import described
from robust_lowrank.training.opening import HeldOut, blank_batch, config_for, open_run, plain, take_examples, taking_images
from robust_lowrank.training.recorded import RecordedConfig, load_recorded
from robust_lowrank.training.rundir import RunWriter

RESERVED = ("epoch", "seconds", "weights")  # columns of the metrics that the run fills by itself


@contextmanager
def record(
    out: Path | str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    data: str | Path | tuple[Tensor, Tensor],
    reading: Reading = Reading(),  # noqa: B008 it is frozen
    source: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    monitor: Monitor | None = None,
    label: str | None = None,
    seed: int = 0,
) -> Iterator["Recorder"]:
    """Write a run directory while a loop of one's own trains a network, for `attack`, `certify`, `condition` and `report`.

    Example:
        >>> with record("runs/mine", model, optimizer, data="digits") as run:  # doctest: +SKIP
        ...     for epoch in range(run.epochs_done, 10):
        ...         loss = train_one_epoch(model, optimizer)
        ...         run.epoch(loss=loss)

    Nothing of the training changes, down to the last bit: modes, gradients and random states are left as found, and a step waits
    for no device. When the block ends well the run is complete: its record has test accuracy, costs, norms of layers and answers of
    the network. After an error it is at its last whole epoch. Opened again, an incomplete run goes on after the epoch whose weights
    the network has; with those of its beginning it begins anew.

    The network is kept as an exported program, `network.pt2`, which needs none of your code; where `torch.export` cannot make one,
    name the function that makes the dense network as `source`.

    Args:
        out: the directory; it may exist if it is empty or holds this run, incomplete.
        model: the network, dense, after `compress` or after `adapt`; logits (N, classes) come out of it.
        optimizer: what trains it: its steps are counted, and its learning rate is recorded.
        data: on what the network is tested and later attacked: the name or path of a data set, or inputs (N, ...) in [0, 1] as
            float32, or as uint8, with labels (N,). Tensors are kept in the run.
        reading: how files of your own are read, such as `data.Reading(size=32)`.
        source: `module:function` of the function that makes the dense network, as `rlr-eval train --model` takes it.
        mean: what a network of normalised images expects subtracted from each channel. None: it normalises by itself.
        std: what it expects each channel divided by; given with `mean`.
        monitor: a monitor that is attached to the optimizer, or called in the loop; the run keeps its rows.
        label: what reports call the run; made from the method without it.
        seed: that of the training; runs that differ in it alone are one method to reports.

    Raises:
        UserError: an argument is wrong, the network cannot be kept or does not take the examples, or `out` holds something else;
            nothing has been written then.
    """
    model, examples = uncompiled(model), take_examples(data, reading)
    config = config_for(model, optimizer, examples, source=source, mean=mean, std=std)
    with records.writing(Path(out)):
        writer = open_run(Path(out), model, config, examples, label=label, seed=seed)
        recorder = Recorder(writer, config, examples, model, optimizer, monitor)
        with recorder.watching():
            yield recorder
        recorder.complete()


class Recorder:
    """Records epochs; `record` makes it.

    Attributes:
        out: the run directory.
    """

    def __init__(
        self,
        writer: RunWriter,
        config: RecordedConfig,
        examples: HeldOut,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        monitor: Monitor | None,
    ) -> None:
        self.out: Path = writer.out
        self._writer, self._config, self._examples = writer, config, examples
        self._model, self._optimizer, self._monitor = model, optimizer, monitor
        self._lr: float | Tensor = math.nan
        self._steps = _last_step(writer)
        self._history = _history(writer, self._steps)
        if monitor is not None and writer.metrics and monitor.steps != self._steps:
            monitor.rewind(self._steps)
        self._since = time.perf_counter()

    @property
    def epochs_done(self) -> int:
        """The number of epochs that are recorded, those of an earlier attempt included."""
        return self._writer.record.epochs_done

    def epoch(self, *, loss: Any = None, accuracy: Any = None, **numbers: Any) -> None:
        """Record an epoch that has just ended: weights, spectra, and the numbers given.

        Example:
            >>> run.epoch(loss=0.3, accuracy=0.9, validation_accuracy=0.88, margin=1.2)  # doctest: +SKIP

        Args:
            loss: on the examples trained on.
            accuracy: on the same.
            numbers: further columns of `metrics.parquet`, under their names; `lr` and `step` in place of the optimizer's.

        Raises:
            UserError: one is no number; the epoch is not recorded then.
            TrainingError: a weight of the network is not finite, nor is the epoch recorded then.
        """
        seconds = time.perf_counter() - self._since
        given = {"train_loss": loss, "train_accuracy": accuracy} | numbers
        if taken := [name for name in RESERVED if name in given]:
            raise UserError(f"run.epoch({taken[0]}=...): the run fills {taken[0]} by itself; give the number another name")
        known = {"epoch": self.epochs_done + 1, "step": self._step(), "lr": _number("lr", self._lr), "seconds": seconds}
        told = {name: _number(name, value) for name, value in given.items() if value is not None}
        self._require_finite_weights()
        with frozen_eval(self._model):
            hashes = self._writer.record.hashes | {"weights": checkpoint.digest(self._model)}
            row = dict.fromkeys(METRICS, math.nan) | known | told | {"weights": hashes["weights"]}
            self._write(row, hashes=hashes, seconds=self._writer.record.seconds + seconds)
        self._since = time.perf_counter()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count the optimizer's steps and take the monitor's rows for a while."""
        hook = None if self._optimizer is None else self._optimizer.register_step_post_hook(self._count)
        if self._monitor is not None:
            self._monitor.writers += (self._history,)
        try:
            yield
        finally:
            if hook is not None:
                hook.remove()
            if self._monitor is not None:
                self._monitor.writers = tuple(writer for writer in self._monitor.writers if writer is not self._history)

    def complete(self) -> None:
        """Record the network as it is after the training, and close the run.

        Raises:
            UserError: what the run keeps of the network answers otherwise than the network does.
            TrainingError: a weight or a logit is not finite.
        """
        self._require_finite_weights()
        model, writer, examples = self._model, self._writer, self._examples
        if not self.epochs_done and checkpoint.digest(model) != writer.record.hashes["start"]:
            self.epoch()
        network, data = taking_images(model, examples, self._config), described(writer.record)
        with frozen_eval(network):
            hashes = writer.record.hashes | {"weights": checkpoint.digest(model)}
            if writer.metrics:
                writer.metrics[-1]["weights"] = hashes["weights"]  # pyright: ignore[reportArgumentType]
            self._write(None, hashes=hashes)  # steps, or the end of a window, may have come after the last epoch
            if self._config.source is None:
                dense = plain(network)
                write_program(dense, blank_batch(dense, data.input_shape), writer.files.program)
                hashes["program"] = sha256(writer.files.program)
            kept = load_recorded(self._config, data, writer.files, next(model.parameters()).device)
            behaviour = evaluation.behaviour(kept, examples.x)
            if where := records.unlike(evaluation.behaviour(network, examples.x), behaviour):
                raise UserError(
                    f"{self.out}: what it keeps of the network answers otherwise than the network itself, {where}\n"
                    "Name the function that makes the network, source='module:function', and open the run again"
                )
            self._write(
                None,
                status="complete",
                hashes=hashes | {"weights": checkpoint.digest(kept)},
                behaviour=behaviour,
                test_accuracy=_accuracy(kept, examples),
                costs=measure_costs(network, data.input_shape),
            )

    def _require_finite_weights(self) -> None:
        where = f"training stopped in epoch {self.epochs_done + 1} at step {self._step():g}"
        try:
            require_finite(chain(self._model.named_parameters(), self._model.named_buffers()), where)
        except TrainingError as error:
            kept = f"{self.out} keeps epoch {self.epochs_done}" if self.epochs_done else "no epoch is recorded yet"
            raise TrainingError(f"{error}; {kept}. Load the last sound weights and go on with a smaller learning rate") from error

    def _write(self, row: dict[str, Any] | None, **changes: Any) -> None:
        if len(self._history):
            self._history.save(self._writer.files.monitor)
        self._writer.write(self._model, row, parameters=count_parameters(self._model), **changes)

    def _count(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._steps += 1
        self._lr = optimizer.param_groups[0]["lr"]

    def _step(self) -> float:
        if self._monitor is not None:
            return self._monitor.steps
        return math.nan if self._optimizer is None else self._steps


def _last_step(writer: RunWriter) -> int:
    """Return the step after the last recorded epoch; 0 before the first, or if it is not known."""
    step = writer.metrics[-1]["step"] if writer.metrics else math.nan
    return 0 if math.isnan(step) else int(step)


def _history(writer: RunWriter, step: int) -> History:
    """Return what a monitor has recorded up to a step."""
    history = History()
    if writer.files.monitor.is_file():
        history.read(writer.files.monitor)
        history.rewind(step)
    return history


def _number(name: str, value: Any) -> float:
    try:
        if isinstance(value, str):
            raise TypeError(value)
        return float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"run.epoch({name}=...) is a {type(value).__name__}, where one number is due") from error


@torch.no_grad()
def _accuracy(network: nn.Module, examples: HeldOut) -> float:
    """Return the share of examples that a network classifies as their labels say."""
    target = Target(network, examples.x[:1])
    correct = 0
    for images, labels in zip(examples.images.split(evaluation.BATCH), examples.labels.split(evaluation.BATCH), strict=True):
        logits = target(unit_range(images).to(target.device))
        if not bool(torch.isfinite(logits).all()):
            raise TrainingError("the trained network returns logits that are not finite: try a smaller learning rate")
        correct += int((logits.argmax(dim=1).cpu() == labels).sum())
    return correct / len(examples.labels)
