"""A network of the zoo: how it is made, run, and trained."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Inputs = dict[str, Any]


def distance(tensor: Tensor) -> Tensor:
    """Return the mean square distance from a wave: the mean square of what a layer norm returns would have no gradient."""
    return (tensor - torch.arange(tensor.numel()).sin().reshape(tensor.shape)).square().mean()


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network with all that tests need of it.

    Attributes:
        make: returns it as its library makes it, without dropout.
        inputs: returns its keyword arguments for one batch.
        tensor: turns its output into one tensor.
        loss: makes a loss of its output; by default of the tensor.
        needs: the package it comes from, if that may be missing.
        dtype: what it is compared in; float64 if it enlarges an error of rounding more than a thousandfold.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    tensor: Callable[[Any], Tensor] = lambda output: output
    loss: Callable[[Any], Tensor] | None = None
    needs: str = ""
    dtype: torch.dtype = torch.float32

    @contextmanager
    def at_home(self) -> Iterator[None]:
        """Set its precision, and silence its package, which tells of faster kernels that are not installed."""
        before, log = torch.get_default_dtype(), logging.getLogger(self.needs or __name__)
        if self.needs:
            import_module(self.needs)
        level = log.level
        torch.set_default_dtype(self.dtype)
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
            torch.set_default_dtype(before)

    def build(self) -> nn.Module:
        """Return the network, ready to be compared: heads that start at zero are drawn, batch norms know a batch."""
        model = self.make()
        for parameter in model.parameters():
            if parameter.dim() > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.1)
        norms = {module: module.momentum for module in model.modules() if isinstance(module, _BatchNorm)}
        if norms:
            for norm in norms:
                norm.momentum = 1.0
            self.run(model.train(), self.inputs())
            for norm, momentum in norms.items():
                norm.momentum = momentum
        return model

    @torch.no_grad()
    def run(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """Return the tensor that the network makes of its inputs, whatever was drawn before."""
        torch.manual_seed(1)
        return self.tensor(model(**inputs))

    def loss_of(self, model: nn.Module, inputs: Inputs) -> Tensor:
        """Return the loss."""
        output = model(**inputs)
        return distance(self.tensor(output)) if self.loss is None else self.loss(output)
