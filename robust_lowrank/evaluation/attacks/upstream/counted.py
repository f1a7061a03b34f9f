"""A counted model shows itself to upstream attacks in their shape and type, and notices what is not finite."""

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.network.meter import Meter
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.threat import Threat


class CountedModel(nn.Module):
    """A target for float32 images of any shape with as many features; it counts evaluations and notices what is not finite."""

    target: Target
    threat: Threat
    shape: tuple[int, ...]
    meter: Meter
    nonfinite: Tensor

    def __init__(self, target: Target, threat: Threat, shape: tuple[int, ...], meter: Meter | None = None) -> None:
        super().__init__()
        self.target, self.threat, self.shape, self.meter = target, threat, shape, meter or Meter()
        self.watch(None)

    def watch(self, clean: Tensor | None) -> None:
        """Begin to watch a batch of clean inputs: their example owns what is seen from now on."""
        self._clean = clean
        self.nonfinite = torch.zeros(0 if clean is None else len(clean), dtype=torch.bool)
        self._calls, self._rows = [0, 0], [0, 0]

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 logits of their own memory, as Square writes into them; Square's empty batches do not reach the model."""
        if len(x) == 0:
            return x.new_zeros(0, self.target.classes)
        self.meter.count(len(x))
        inputs = x.reshape(-1, *self.shape)
        logits = self.target(inputs).float().clone()
        self.meter.watch(logits)
        self._see(0, inputs, logits)
        if x.requires_grad and torch.is_grad_enabled():
            inputs.register_hook(lambda gradient: self._see(1, inputs.detach(), gradient))
        return logits

    @property
    def rows(self) -> tuple[int, int]:
        """Forwards and backwards over all examples since `watch`."""
        return self._rows[0], self._rows[1]

    def spent(self, broken: Tensor) -> Tensor:
        """Return forwards and backwards an example, (2, N): every call for those that hold, a mean of the rest for the others."""
        calls, rows = torch.tensor(self._calls), torch.tensor(self._rows)
        held = int((~broken).sum())
        share = (rows - held * calls).clamp(min=0) // max(int(broken.sum()), 1)
        return torch.where(broken, share[:, None], calls[:, None])

    def _see(self, kind: int, inputs: Tensor, values: Tensor) -> None:
        """Count a forward (0) or backward (1) and look at what it gave."""
        self._calls[kind] += 1
        self._rows[kind] += len(inputs)
        self.notice(inputs, values)

    def notice(self, inputs: Tensor, values: Tensor) -> None:
        """Charge values that are not finite to the examples whose inputs were."""
        if self._clean is None or bool(values.detach().sum().isfinite()):
            return
        guilty = inputs.isfinite().flatten(1).all(dim=1) & ~values.isfinite().flatten(1).all(dim=1)
        if len(inputs) == len(self._clean):
            self.nonfinite |= guilty.cpu()
            return
        for point in inputs[guilty].detach():
            distance = self.threat.distance(self._clean, point.expand_as(self._clean))
            self.nonfinite |= (distance <= max(self.threat.eps, float(distance.min()))).cpu()
