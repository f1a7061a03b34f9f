"""TorchScript files and exported programs, which hold code, stand behind a plain `nn.Module`."""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_lowrank.answers import quiet
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.models.files import contents, require_file, sha256
from robust_lowrank.models.plain import TRUST, plain_program


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
        count, x = len(x), x.to(self.dtype)
        if self.batch is None:
            return self.run[0](x)
        if lacking := -count % self.batch:
            x = torch.cat([x, x[-1:].expand(lacking, *x.shape[1:])])
        return torch.cat([self.run[0](part) for part in x.split(self.batch)])[:count]


def load_torchscript(path: Path, device: torch.device, *, trust_code: bool = False) -> Program:
    """Load a TorchScript file in evaluation mode.

    Raises:
        UserError: there is no such file, it holds something else, or its code is not trusted.
    """
    if (inside := contents(require_file(path, "model"))) == "weights":
        raise UserError(f"{path} holds weights, not a network: give the architecture as the model, and this file as its weights")
    if inside != "TorchScript":
        raise UserError(f"{path} is not a TorchScript file: write one with torch.jit.trace(model.eval(), x).save(...)")
    if not trust_code:
        raise UserError(
            f"{path} is TorchScript, which is code: it may write files, or never end. A program of torch.export (.pt2), or ONNX, "
            f"needs no trust\n{TRUST}"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated")
        try:
            script = torch.jit.load(path, map_location=device)
        except (RuntimeError, ValueError) as error:
            raise _unreadable(path, error) from error
    if hasattr(script, "training"):  # frozen scripts have no mode
        script.eval()
    return Program(_freeze(script), sha256(path), dtype=float_type(script.state_dict().values()))


def load_exported(path: Path, device: torch.device, *, trust_code: bool = False) -> Program:
    """Load a program that `torch.export.save` wrote.

    Raises:
        UserError: as `read_program`.
    """
    module, images = read_program(path, device, trust_code=trust_code)
    batch = images.shape[0] if isinstance(images.shape[0], int) else None
    return Program(_freeze(module), sha256(path), dtype=images.dtype, batch=batch)


def read_program(path: Path, device: torch.device, *, trust_code: bool = False) -> tuple[nn.Module, Tensor]:
    """Read a program that `torch.export.save` wrote, on a device; return it with an example of its input, without values.

    `torch.export.load` evaluates, resolves and unpickles what a file says: without trust it is given what `plain_program` lets
    through.

    Raises:
        UserError: there is no such file, it holds something else or more than a plain program, or the program was exported in
            training mode or with several inputs.
    """
    if contents(require_file(path, "model")) != "exported program":
        raise UserError(f"{path} is not an exported program: write one with torch.export.save(torch.export.export(...), ...)")
    with path.open("rb") if trust_code else plain_program(path) as file, quiet():
        try:
            program = torch.export.load(file)
        except Exception as error:  # whatever a damaged archive provokes in a loader that expects its own
            raise _unreadable(path, error) from error
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise UserError(f"{path} has {len(inputs)} inputs, where one is due: the images")
    images = inputs[0].meta["val"]
    if not isinstance(images, Tensor) or not images.is_floating_point() or not images.dim():
        raise UserError(f"{path} takes no batch of floats, which images in [0, 1] are")
    if operations := _training_operations(program.graph):
        raise UserError(f"{path} was exported in training mode ({', '.join(operations)}): export model.eval()")
    try:
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        return program.module(), images
    except Exception as error:  # as above
        raise _unreadable(path, error) from error


def float_type(tensors: Iterable[Tensor]) -> torch.dtype:
    """Return the type of the first tensor of floats, float32 if there is none."""
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.float32)


def float_type_of(model: nn.Module) -> torch.dtype:
    """Return the type of a network's first parameter or buffer of floats, float32 if there is none."""
    return float_type([*model.parameters(), *model.buffers()])


def _freeze(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def _training_operations(graph: Any) -> list[str]:
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


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged, or of a version of torch that this one cannot read: {first_line(error)}")
