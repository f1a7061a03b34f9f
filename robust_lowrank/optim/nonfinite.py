"""What is not finite is found before it moves a weight, and named."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robust_lowrank.errors import TrainingError
from robust_lowrank.layers.network import shown_name
from robust_lowrank.optim.processes import whole

AT_ONCE = ("cpu",)  # devices on which a look costs no waiting
LOOK_EVERY = 100  # steps between two looks at the notes of a device other than the CPU


@dataclass
class Note:
    """Which gradients of a list have ever not been finite, and at which step first; it lies on their device."""

    sound: Tensor
    step: Tensor

    def add(self, sound: Tensor, step: int) -> None:
        """Note down one more evaluation."""
        self.step = torch.where(self.sound.all() & ~sound.all(), step, self.step)
        self.sound = self.sound & sound


class Sentinel:
    """Looks at the gradients of every evaluation.

    On the CPU it raises at once. Other devices are not waited for: where a gradient is not finite, all of that evaluation become
    zero there, a note is left, and `report` reads it.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 1))
        >>> net(torch.full((1, 2), float("inf"))).sum().backward()
        >>> Sentinel(net).look(step=7)
        Traceback (most recent call last):
        robust_lowrank.errors.TrainingError: step 7: the gradient of weight of layer '0' is not finite
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = list(model.named_parameters())
        self._notes: dict[tuple[torch.device, tuple[str, ...]], Note] = {}

    def look(self, *, step: int, loss: Any = None) -> None:
        """Require that all gradients are finite, and the loss if it is on the CPU.

        Raises:
            TrainingError: one on the CPU is not.
        """
        devices: dict[torch.device, dict[str, Tensor]] = {}
        for name, parameter in self._parameters:
            if (grad := parameter.grad) is not None:
                devices.setdefault(grad.device, {})[name] = grad._values() if grad.is_sparse else grad
        for device, grads in devices.items():
            sound = torch.stack([_sum(grad) for grad in grads.values()]).isfinite()
            if device.type in AT_ONCE:
                if not bool(sound.all()):
                    self._name_the_first(grads, step)
                continue
            for grad in grads.values():
                grad.masked_fill_(~sound.all(), 0)
            blank = Note(torch.ones_like(sound), torch.zeros((), dtype=torch.int64, device=device))
            self._notes.setdefault((device, tuple(grads)), blank).add(sound, step)
        if isinstance(loss, Tensor) and loss.device.type in AT_ONCE and not bool(loss.isfinite().all()):
            raise TrainingError(f"step {step}: the loss is {float(loss.detach().sum())}")

    def report(self, *, step: int) -> None:
        """Require that no gradient since the last report was not finite, and that all weights are finite; this waits for devices.

        Raises:
            TrainingError: one is not.
        """
        notes, self._notes = self._notes, {}
        found = [(int(note.step), names, note.sound) for (_, names), note in notes.items() if not bool(note.sound.all())]
        if found:
            first, names, sound = min(found, key=lambda note: note[0])
            raise TrainingError(f"step {first}: the gradient of {_place(names[int(sound.int().argmin())])} is not finite")
        require_finite(self._parameters, f"step {step}")

    def _name_the_first(self, grads: dict[str, Tensor], step: int) -> None:
        """Raise if the sum of a gradient is not finite because an entry is not, and not because finite ones overflow."""
        for name, grad in grads.items():
            if not bool(grad.isfinite().all()):
                require_finite(self._parameters, f"step {step}")
                raise TrainingError(f"step {step}: the gradient of {_place(name)} is not finite")


def require_finite(named: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Require that parameters or buffers, given with their paths in the network, are finite; this waits for devices.

    Args:
        where: in the training, in words: what the error begins with.

    Raises:
        TrainingError: one is not.
    """
    for name, tensor in named:
        if not bool(_sum(tensor.detach()).isfinite()) and not bool(tensor.isfinite().all()):
            raise TrainingError(f"{where}: {_place(name)} is not finite")


def _sum(a: Tensor) -> Tensor:
    """Return a number that is not finite if an entry is not: the cheapest one."""
    return whole(a.sum(dtype=torch.promote_types(a.dtype, torch.float32)))


def _place(path: str) -> str:
    """Return which parameter of which layer a path in the network is, in words."""
    layer, _, name = path.rpartition(".")
    return f"{name} of layer {shown_name(layer)!r}" if layer else name
