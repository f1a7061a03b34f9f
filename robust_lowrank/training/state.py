"""A training run begins, or goes on where it was interrupted, and its state is kept after every epoch."""

import re
from collections.abc import Callable
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from robust_lowrank import records
from robust_lowrank.compression import compress, count_parameters, plan
from robust_lowrank.conditioning import Alert, Monitor, ParquetWriter
from robust_lowrank.data import Dataset, Description
from robust_lowrank.errors import TrainingError, UserError
from robust_lowrank.methods import SVD
from robust_lowrank.models import classifier
from robust_lowrank.provenance import machine, versions
from robust_lowrank.records import RunFiles
from robust_lowrank.training.config import TrainConfig, TrainingConfig
from robust_lowrank.training.loop import Examples, Loop
from robust_lowrank.training.method_config import DENSE
from robust_lowrank.training.naming import describe
from robust_lowrank.training.networks import build_network
from robust_lowrank.training.rank_config import LatencyTable
from robust_lowrank.training.resume import SavedState, load_state, save_state
from robust_lowrank.training.rundir import RunWriter, difference, refuse_changed_code, same_images

if TYPE_CHECKING:
    import pandas as pd

MOST_HALVINGS = 5  # of the learning rate, before a training that is not finite stops all the same
RETURNS = 2  # to the end of one epoch


class Phase(NamedTuple):
    """Epochs `first` to `last` of a training, with one optimizer, one schedule and one order of batches."""

    first: int
    last: int
    training: TrainingConfig
    seed: int


def phases(config: TrainConfig) -> list[Phase]:
    """Return the phases of a training: one, and with the method SVD a second if the truncated network is tuned."""
    epochs = config.training.epochs
    first = Phase(1, epochs, config.training, config.seed)
    method = None if config.method.name == DENSE else config.method.method()
    if not isinstance(method, SVD) or not method.finetune:
        return [first]
    tuning = config.training.model_copy(update={"epochs": method.finetune})
    return [first, Phase(epochs + 1, epochs + method.finetune, tuning, config.seed + 1)]


class TrainJob(NamedTuple):
    """A training: network, images and directory."""

    config: TrainConfig
    out: Path
    dataset: Dataset
    hashes: dict[str, str]  # of the images
    device: torch.device
    command: str

    @property
    def data(self) -> Description:
        """What is known of the images."""
        return self.dataset.description

    def phase(self, epoch: int) -> Phase:
        """Return the phase of an epoch."""
        return next(phase for phase in phases(self.config) if epoch <= phase.last)

    def loop(self, model: nn.Module, phase: Phase) -> Loop:
        """Return what fits the network in a phase."""
        examples = Examples(self.dataset.train_images, self.dataset.train_y)
        return Loop(model, examples, phase.training, self.config.method, seed=phase.seed, first_epoch=phase.first)


@dataclass
class TrainState:
    """A training after its last complete epoch.

    Attributes:
        loop: that of the phase in which the next epoch lies, or the last one.
        on_alert: what the monitor tells of a layer beyond its limits, where the configuration wants a monitor.
        history: the file of the monitor, where there is one.
        halvings: how often the learning rate has been halved, of `on_nonfinite = "rollback"`.
    """

    job: TrainJob
    model: nn.Module
    phase: Phase
    loop: Loop
    writer: RunWriter
    on_alert: InitVar[Callable[[Alert], None]]
    monitor: Monitor | None = None
    history: ParquetWriter | None = None
    halvings: int = 0

    def __post_init__(self, on_alert: Callable[[Alert], None]) -> None:
        if (config := self.job.config.monitor) is not None:
            self.history = ParquetWriter(RunFiles(self.job.out).monitor)  # a history that is there is continued
            self.monitor = Monitor(
                self.model, every=config.every, dense_every=config.dense_every, writers=[self.history], on_alert=on_alert
            ).attach(self.loop.optimizer)

    @classmethod
    def begin(cls, job: TrainJob, on_alert: Callable[[Alert], None]) -> Self:
        """Return a training at its beginning, its directory written.

        Raises:
            UserError: ranks, penalties or eps do not fit; nothing has been written then.
        """
        config = job.config
        torch.manual_seed(config.seed)
        model = build_network(config.model, job.data)
        if isinstance(config.method.rank, LatencyTable):
            model.to(job.device)  # where it is timed
        kept_dense = {} if config.method.name == SVD.name else factorise(model, config, job.data)
        model.to(job.device)
        phase = job.phase(1)
        loop = job.loop(model, phase)
        record = records.RunRecord(
            label=describe(config.method, config.training.adversarial),
            method=config.method.name,
            model=config.model.name,
            data=config.data.name,
            seed=config.seed,
            created=records.now(),
            command=job.command,
            config=config.to_record(),
            versions=versions(),
            machine=machine(job.device),
            hashes=job.hashes,
            parameters=count_parameters(model),
            classes=list(job.data.classes),
            input_shape=job.data.input_shape,
            remarks=list(job.data.remarks),
            kept_dense=kept_dense,
        )
        writer = RunWriter(job.out, record)
        writer.write(model, None)
        return cls(job, model, phase, loop, writer, on_alert)

    @classmethod
    def resume(cls, job: TrainJob, on_alert: Callable[[Alert], None]) -> Self | None:
        """Return a training where it was interrupted, or None if it was not, or its files do not agree on where that was.

        Raises:
            UserError: its network has the weights of then and gives other answers.
        """
        state = load_state(job.out, lambda: build_network(job.config.model, job.data))
        if state is None or not _fits(state.record, job):
            return None
        model = state.model.to(job.device)
        refuse_changed_code(job.out, state.record, model, job.dataset)
        phase = job.phase(state.record.epochs_done + 1)
        try:
            loop, halvings = job.loop(model, phase), state.values.get("halvings", 0)
            loop.slow_down(0.5**halvings)
            if state.values["fitting"] is not None:
                loop.load_state_dict(state.values["fitting"])
            record = state.record.model_copy(update={"versions": versions(), "machine": machine(job.device)})
            if (writer := RunWriter.resume(job.out, record, model)) is None:
                return None
            training = cls(job, model, phase, loop, writer, on_alert, halvings=halvings)
            if training.monitor is not None and training.history is not None:
                training.monitor.load_state_dict(state.values["monitor"])
                if len(training.history) != state.values["rows"]:
                    return None
            _set_random_states(state.values["random"], job.device)
        except (UserError, ValueError, LookupError, AttributeError, TypeError, RuntimeError):
            return None
        return training

    def roll_back(self, error: TrainingError, on_alert: Callable[[Alert], None]) -> Self:
        """Return the training after its last complete epoch once more, with half the learning rate of this attempt.

        Where that has not helped twice, the epoch before was unsound already, and the training begins anew.

        Raises:
            TrainingError: the learning rate has been halved often enough.
        """
        if self.halvings == MOST_HALVINGS:
            raise TrainingError(f"{error}\nHalving it {MOST_HALVINGS} times has not helped") from error
        state = type(self).resume(self.job, on_alert)
        if state is None or self.halvings - state.halvings == RETURNS:
            state = type(self).begin(self.job, on_alert)
        halvings = self.halvings + 1
        state.loop.slow_down(0.5 ** (halvings - state.halvings))
        state.halvings = halvings
        place = f"the end of epoch {state.done}" if state.done else "the beginning"
        remark = f"{error}. Went back to {place}, with the learning rate times {0.5**halvings:g}"
        record = state.writer.record
        state.writer.record = record.model_copy(update={"remarks": [*self.remarks, remark]})
        return state

    @property
    def remarks(self) -> list[str]:
        """What the record says of how the training went, and of the images as they came."""
        return self.writer.record.remarks

    @property
    def done(self) -> int:
        """The number of epochs that are complete."""
        return self.writer.record.epochs_done

    @property
    def step(self) -> int:
        """The number of steps taken in all phases."""
        return (self.phase.first - 1) * self.loop.steps_per_epoch + self.loop.step

    def enter(self, epoch: int) -> None:
        """Begin another phase if an epoch lies in one."""
        if (phase := self.job.phase(epoch)) != self.phase:
            self.phase, self.loop = phase, self.job.loop(self.model, phase)
            self.loop.slow_down(0.5**self.halvings)
            if self.monitor is not None:
                self.monitor.detach()
                self.monitor.attach(self.loop.optimizer)

    def keep(self) -> None:
        """Write down where the training stands, so that it goes on from here if it is interrupted."""
        ends = self.done == self.phase.last
        values = {"fitting": None if ends else self.loop.state_dict(), "random": _random_states(self.job.device)}
        values |= {"halvings": self.halvings} if self.halvings else {}
        if self.monitor is not None and self.history is not None:
            values |= {"monitor": self.monitor.state_dict(), "rows": len(self.history)}
        save_state(self.job.out, SavedState(self.writer.record, self.model, values))


def factorise(model: nn.Module, config: TrainConfig, data: Description) -> dict[str, str]:
    """Compress a network of images such as these in place as a configuration says; return which layers stayed dense and why."""
    method = config.method
    if method.name == DENSE:
        return {}
    assert method.init is not None
    init = "weights" if method.name == SVD.name else method.init
    return compress(model, method=method.method(), init=init, **_layers_and_ranks(model, config, data)).kept_dense


def plan_layers(config: TrainConfig, data: Description) -> "pd.DataFrame":
    """Return what `factorise` would do to the network of a configuration for such images, as `rlr.plan` does.

    Raises:
        UserError: the network stays dense, or ranks do not fit.
    """
    if config.method.name == DENSE:
        raise UserError("a dense network is not compressed: name a method, such as condlr")
    model = build_network(config.model, data)
    return plan(model, method=config.method.method(), **_layers_and_ranks(model, config, data))


def _layers_and_ranks(model: nn.Module, config: TrainConfig, data: Description) -> dict[str, Any]:
    method = config.method
    exclude = (re.escape(classifier(model)),) if method.exclude is None else method.exclude
    rank = method.rank if isinstance(method.rank, int | float | None) else method.rank.to_rank()
    example = torch.zeros(2, *data.input_shape, device=next(model.parameters()).device)
    return {"rank": rank, "exclude": exclude, "example_input": example}


def _fits(record: records.RunRecord, job: TrainJob) -> bool:
    """Return whether a state is one of this training, with epochs left."""
    same = same_images(record, job.hashes) and not difference(record, job.config.to_record(), job.hashes)
    return same and 0 < record.epochs_done < phases(job.config)[-1].last


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def _set_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
