"""The training loop runs epochs of shuffled batches, without a synchronisation with the device inside an epoch."""

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.data import unit_range
from robust_lowrank.errors import TrainingError, UserError
from robust_lowrank.optim import LowRankOptimizer
from robust_lowrank.optim.processes import processes
from robust_lowrank.threat import KeyedNoise, Threat, threat
from robust_lowrank.training.adversarial import training_inputs, training_loss
from robust_lowrank.training.adversarial_config import AdversarialConfig
from robust_lowrank.training.config import TrainingConfig
from robust_lowrank.training.method_config import MethodConfig
from robust_lowrank.training.optimizers import PLAIN, make_optimizer, make_schedule

EVALUATION_BATCH = 512
SCHEDULE_STATE = ("last_epoch", "_step_count", "_last_lr")  # all else of a schedule follows from the configuration
RATES = ("lr", "initial_lr", "max_lr", "min_lr")  # of a parameter group, as schedules keep them there


class Examples(NamedTuple):
    """Images `(N, channels, height, width)`, uint8 or float32 in [0, 1], and labels `(N,)`."""

    images: Tensor
    labels: Tensor


class Outcome(NamedTuple):
    """An epoch: mean loss and accuracy of its batches, each as it was before its step; the last learning rate; the time.

    Accuracy is that on the images that the cross-entropy was taken on: perturbed ones in adversarial training, but with TRADES
    the clean ones.
    """

    loss: float
    accuracy: float
    lr: float
    seconds: float


class Loop:
    """Fits a network to examples with the cross-entropy, an epoch at a time.

    All examples lie on the network's device, if their images take no more than half of its free memory. An epoch visits every
    example once, in an order drawn on the CPU, so that it is the same on every device; its batches differ in size by one at most,
    so that none is too small for batch statistics. Adversarial training perturbs each batch once, before its step, by noise that
    depends on seed, example and step alone. Of several processes (`torch.distributed`) each takes its share of every batch, and
    all have the same network after every step; statistics of batches are those of shares.

    Args:
        first_epoch: what errors call its first epoch.

    Raises:
        UserError: the eps of adversarial training is beyond the diameter of all images, or batches are smaller than processes many.

    Attributes:
        step: the number of steps taken.
        optimizer: what steps.
        steps_per_epoch: the number of batches of an epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Examples,
        config: TrainingConfig,
        method: MethodConfig = PLAIN,
        *,
        seed: int,
        first_epoch: int = 1,
    ) -> None:
        self.model = model
        self.short: bool = config.precision == "bf16"
        self.device: torch.device = next(model.parameters()).device
        self.examples: Examples = Examples(_near(examples.images, self.device), examples.labels.to(self.device))
        self.step: int = 0
        self.steps_per_epoch: int = math.ceil(len(examples.labels) / config.batch_size)
        self._processes = processes()
        if self._processes is not None and len(examples.labels) // self.steps_per_epoch < self._processes.size:
            raise UserError(
                f"{self._processes.size} processes cannot share batches of {len(examples.labels) // self.steps_per_epoch}: "
                "start fewer of them, or take a larger batch_size"
            )
        self.optimizer: LowRankOptimizer = make_optimizer(model, config, method, steps_per_epoch=self.steps_per_epoch)
        self._schedule = make_schedule(self.optimizer, config, steps_per_epoch=self.steps_per_epoch)
        self._order = torch.Generator().manual_seed(seed)
        self._seed = seed
        self._first_epoch = first_epoch
        self._temperature = config.temperature
        self._attack: tuple[AdversarialConfig, Threat] | None = None
        if config.adversarial is not None:
            features = math.prod(examples.images.shape[1:])
            allowed = threat(config.adversarial.norm, config.adversarial.eps, features=features)
            self._attack = config.adversarial.complete(), allowed

    def state_dict(self) -> dict[str, Any]:
        """Return all that a loop on the same network needs at the end of an epoch to go on as if nothing had happened."""
        schedule = self._schedule.state_dict()
        return {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "schedule": {key: schedule[key] for key in SCHEDULE_STATE},
            "order": self._order.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned, after the network's weights have been loaded."""
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        vars(self._schedule).update({key: state["schedule"][key] for key in SCHEDULE_STATE})
        self._order.set_state(state["order"])

    def epoch(self, *, on_step: Callable[[], None]) -> Outcome:
        """Visit every example once.

        Raises:
            TrainingError: loss, gradients or factors were not finite, or a factorisation failed: it names layer, epoch and step.
        """
        started = time.perf_counter()
        self.model.train()
        epoch = self._first_epoch + self.step // self.steps_per_epoch
        loss = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device, dtype=torch.int64)
        lr = 0.0
        images, labels = self.examples
        order = torch.randperm(len(labels), generator=self._order).to(self.device)
        try:
            for index in order.tensor_split(self.steps_per_epoch):
                lr = self.optimizer.param_groups[0]["lr"]
                mine, weight = self._share(index)
                inputs = self._inputs(unit_range(images[mine.to(images.device)].to(self.device)), labels[mine], mine)
                batch_loss, batch_correct = self._train_on(inputs, labels[mine], weight)
                loss += batch_loss * len(index)
                correct += batch_correct
                self._schedule.step()
                self.step += 1
                on_step()
            self.optimizer.truncate()
        except TrainingError as error:
            raise TrainingError(f"training stopped in epoch {epoch} at {error}") from error
        if self._processes is not None:
            self._processes.average([loss, share := correct.double()])
            correct = share * self._processes.size
        mean_loss = float(loss) / len(labels)
        if not math.isfinite(mean_loss):
            raise TrainingError(f"training stopped in epoch {epoch}: the mean loss is {mean_loss}; try a smaller learning rate")
        return Outcome(mean_loss, round(float(correct)) / len(labels), lr, time.perf_counter() - started)

    def slow_down(self, by: float) -> None:
        """Multiply the learning rate by a factor, now and in all that is left of its schedule."""
        for group in self.optimizer.param_groups:
            group.update({key: group[key] * by for key in RATES if key in group})
        for name in ("base_lrs", "_last_lr"):
            setattr(self._schedule, name, [rate * by for rate in getattr(self._schedule, name)])

    def finish(self) -> None:
        """Drop the directions from which ranks would have grown, after the last epoch; the weights stay as they are."""
        self.optimizer.finish()

    def _inputs(self, images: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Return what the step trains on: the images, or what adversarial training makes of them."""
        if self._attack is None:
            return images
        noise = KeyedNoise(self._seed, "training", index, step=self.step)
        return training_inputs(self.model, images, labels, *self._attack, noise=noise)

    def _share(self, index: Tensor) -> tuple[Tensor, float]:
        """Return this process's part of a batch, and the weight of its loss in the mean over processes."""
        if self._processes is None:
            return index, 1.0
        mine = index.tensor_split(self._processes.size)[self._processes.rank]
        return mine, len(mine) * self._processes.size / len(index)

    def _train_on(self, inputs: Tensor, labels: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Take one step; return the loss and the number of correct predictions before it, of the first input of each label."""
        correct: list[Tensor] = []
        beta = None if self._attack is None else self._attack[0].beta

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.short):
                logits = self.model(inputs)
            correct.append((logits[: len(labels)].argmax(dim=1) == labels).sum())
            loss = weight * training_loss(logits.float() / self._temperature, labels, beta=beta)
            loss.backward()
            return loss

        loss = self.optimizer.step(closure)
        return loss.detach(), correct[0]


def _near(images: Tensor, device: torch.device) -> Tensor:
    """Return images on a device, or where they are if they are too many for it."""
    if device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return images
    return images.to(device)


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples) -> float:
    """Return the fraction of examples that a network classifies correctly in eval mode, each counted once.

    Raises:
        TrainingError: a logit is not finite.
    """
    model.eval()
    device = next(model.parameters()).device
    correct = torch.zeros((), device=device, dtype=torch.int64)
    finite = torch.ones((), device=device, dtype=torch.bool)
    batches = zip(examples.images.split(EVALUATION_BATCH), examples.labels.split(EVALUATION_BATCH), strict=True)
    for images, labels in batches:
        logits = model(unit_range(images.to(device)))
        correct += (logits.argmax(dim=1) == labels.to(device)).sum()
        finite &= torch.isfinite(logits).all()
    if not finite:
        raise TrainingError("the trained network returns logits that are not finite: try a smaller learning rate")
    return int(correct) / len(examples.labels)
