"""TorchScript files and exported programs, which hold code, stand behind a plain `nn.Module`."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.models.files import archived, contents, existing, sha256


class Program(nn.Module):
    """A function from inputs to logits that was read from a file, always in the mode in which it was stored.

    Its state is that sha256, so that another file is another network to whoever hashes the state; its weights are not
    parameters, and switching between training and evaluation does not reach them.

    Args:
        run: (N, ...) to (N, classes).
        digest: sha256 of the file that it was read from.
        dtype: of its inputs.
        batch: the only batch size that it takes, None: any. Other batches are cut and filled up to it.
    """

    file: Tensor

    def __init__(self, run: Callable[[Tensor], Tensor], digest: str, *, dtype: torch.dtype, batch: int | None = None) -> None:
        super().__init__()
        self.run: tuple[Callable[[Tensor], Tensor]] = (run,)  # in a tuple, as an attribute of its own would make a submodule of it
        self.dtype: torch.dtype = dtype
        self.batch: int | None = batch
        self.register_buffer("file", torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8))

    @property
    def digest(self) -> str:
        """The sha256 of the file."""
        return bytes(self.file.tolist()).hex()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, with whatever gradient the program has."""
        x = x.to(self.dtype)
        if self.batch is None:
            return self.run[0](x)
        return torch.cat([self._filled(part) for part in x.split(self.batch)])

    def _filled(self, part: Tensor) -> Tensor:
        lacking = (self.batch or 0) - len(part)
        return self.run[0](torch.cat([part, part[-1:].expand(lacking, *part.shape[1:])]) if lacking else part)[: len(part)]


def load_torchscript(path: Path, device: torch.device) -> Program:
    """Load a TorchScript file in evaluation mode.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if (held := contents(existing(path, "model"))) == "weights":
        raise UserError(f"{path} holds weights, not a network: give the architecture as the model, and this file as its weights")
    if held != "TorchScript":
        raise UserError(f"{path} is not a TorchScript file: write one with torch.jit.trace(model.eval(), x).save(...)")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated")
        try:
            script = torch.jit.load(path, map_location=device)
        except (RuntimeError, ValueError) as error:
            raise _damaged(path, error) from error
    if hasattr(script, "training"):  # frozen scripts have no mode
        script.eval()
    return Program(_frozen(script), sha256(path), dtype=_dtype(script.state_dict()))


def load_exported(path: Path, device: torch.device) -> Program:
    """Load a program that `torch.export.save` wrote.

    `torch.export.load` unpickles whatever it does not know: here that is refused.

    Raises:
        UserError: there is no such file, it holds something else or objects that are no tensors, or the program was exported in
            training mode or with several inputs.
    """
    if contents(existing(path, "model")) != "exported program":
        raise UserError(f"{path} is not an exported program: write one with torch.export.save(torch.export.export(...), ...)")
    if any("opaque_obj" in name for name in archived(path)):
        raise UserError(f"{path} holds pickled objects, and unpacking them could run any code: refused")
    with _tensors_only():
        try:
            program = torch.export.load(path)
        except Exception as error:  # whatever a damaged archive provokes in a loader that expects its own
            raise _damaged(path, error) from error
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise UserError(f"{path} has {len(inputs)} inputs, where one is due: the images")
    if layers := _training(program.graph):
        raise UserError(f"{path} was exported in training mode ({', '.join(layers)}): export model.eval()")
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    images = inputs[0].meta["val"]
    batch = images.shape[0] if isinstance(images.shape[0], int) else None
    return Program(_frozen(program.module()), sha256(path), dtype=images.dtype, batch=batch)


def _frozen(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _training(graph: Any) -> list[str]:
    """Return the operations that are told to behave as in training."""
    calls = [node for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    return sorted(
        {
            str(node.target)
            for node in calls
            for argument, value in zip(node.target._schema.arguments, node.args, strict=False)
            if argument.name in ("train", "training") and value is True
        }
    )


def _dtype(state: dict[str, Tensor]) -> torch.dtype:
    return next((tensor.dtype for tensor in state.values() if tensor.is_floating_point()), torch.float32)


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Let `torch.load` restore tensors only, even where it is asked for more, and say nothing while it refuses."""
    switch, before = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    logger = logging.getLogger("torch.export")
    level = logger.level
    os.environ[switch] = "1"
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        os.environ.pop(switch)
        if before is not None:
            os.environ[switch] = before


def _damaged(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{path} is damaged, or of a version of torch that this one cannot read: {reason}")
