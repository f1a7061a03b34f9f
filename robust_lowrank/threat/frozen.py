"""A network is frozen for a while, and its modes and states restored."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from robust_lowrank.errors import UserError


@contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode without parameter gradients for a block, and restore all that an attack touches.

    Restored are every submodule's mode, every parameter's `requires_grad` and `.grad`, and the random states of Python, NumPy
    and torch on all devices. Frozen parameters also spare the layers the work of their gradients. Within a loop that runs in
    inference mode the block has gradients none the less.

    Raises:
        UserError: the model itself was made in inference mode.
    """
    if any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers())):
        raise UserError("the network was made in inference mode, so that nothing has gradients: make or load it outside")
    modes = [(module, module.training) for module in model.modules()]
    parameters = [(parameter, parameter.requires_grad, parameter.grad) for parameter in model.parameters()]
    with _random_states_kept(), torch.inference_mode(False):
        try:
            model.eval()
            for parameter, _, _ in parameters:
                parameter.requires_grad_(False)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter, requires_grad, grad in parameters:
                parameter.requires_grad_(requires_grad)
                parameter.grad = grad


@contextmanager
def _random_states_kept() -> Iterator[None]:
    python, legacy_numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy_numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
