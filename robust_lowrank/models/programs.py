"""TorchScript files, exported programs and ONNX files, which hold code, stand behind a plain `nn.Module`."""

import hashlib
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError, first_line
from robust_lowrank.models.files import contents, names_inside, require_file, sha256

ONNX_TYPES = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16}


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


def load_torchscript(path: Path, device: torch.device) -> Program:
    """Load a TorchScript file in evaluation mode.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    if (inside := contents(require_file(path, "model"))) == "weights":
        raise UserError(f"{path} holds weights, not a network: give the architecture as the model, and this file as its weights")
    if inside != "TorchScript":
        raise UserError(f"{path} is not a TorchScript file: write one with torch.jit.trace(model.eval(), x).save(...)")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated")
        try:
            script = torch.jit.load(path, map_location=device)
        except (RuntimeError, ValueError) as error:
            raise _unreadable(path, error) from error
    if hasattr(script, "training"):  # frozen scripts have no mode
        script.eval()
    return Program(_freeze(script), sha256(path), dtype=float_type(script.state_dict().values()))


def load_exported(path: Path, device: torch.device) -> Program:
    """Load a program that `torch.export.save` wrote.

    `torch.export.load` unpickles whatever it does not know: here that is refused.

    Raises:
        UserError: as `read_program`.
    """
    program, images = read_program(path, device)
    batch = images.shape[0] if isinstance(images.shape[0], int) else None
    return Program(_freeze(program.module()), sha256(path), dtype=images.dtype, batch=batch)


def read_program(path: Path, device: torch.device) -> tuple[Any, Tensor]:
    """Read a program that `torch.export.save` wrote, on a device; return it with an example of its input, without values.

    Raises:
        UserError: there is no such file, it holds something else or objects that are no tensors, or the program was exported in
            training mode or with several inputs.
    """
    if contents(require_file(path, "model")) != "exported program":
        raise UserError(f"{path} is not an exported program: write one with torch.export.save(torch.export.export(...), ...)")
    if any("opaque_obj" in name for name in names_inside(path)):
        raise UserError(f"{path} holds pickled objects, and unpacking them could run any code: refused")
    with _tensors_only():
        try:
            program = torch.export.load(path)
        except Exception as error:  # whatever a damaged archive provokes in a loader that expects its own
            raise _unreadable(path, error) from error
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1:
        raise UserError(f"{path} has {len(inputs)} inputs, where one is due: the images")
    if operations := _training_operations(program.graph):
        raise UserError(f"{path} was exported in training mode ({', '.join(operations)}): export model.eval()")
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return program, inputs[0].meta["val"]


def load_onnx(path: Path) -> Program:
    """Load an ONNX file, to run on the CPU.

    Raises:
        UserError: onnxruntime is not installed; there is no such file, it is no model, or it has more than one input or output.
    """
    require_file(path, "model")
    try:
        import onnx  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{path} needs onnxruntime: pip install 'robust-lowrank[onnx]'") from error
    try:
        digest = _onnx_digest(path, onnx.load(path, load_external_data=False).graph)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # both raise classes of their own, of no common base
        raise UserError(f"{path} is not an ONNX model, or it is damaged: {first_line(error)}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs: one of each is due, images and logits")
    if inputs[0].type not in ONNX_TYPES:
        raise UserError(f"{path} takes inputs of type {inputs[0].type}: images are floats in [0, 1]")
    name, batch = inputs[0].name, inputs[0].shape[0]

    def run(x: Tensor) -> Tensor:
        (logits,) = session.run(None, {name: np.ascontiguousarray(x.detach().cpu().numpy())})
        return torch.from_numpy(logits).to(x.device)

    return Program(run, digest, dtype=ONNX_TYPES[inputs[0].type], batch=batch if isinstance(batch, int) else None)


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


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged, or of a version of torch that this one cannot read: {first_line(error)}")


def _onnx_digest(path: Path, graph: Any) -> str:
    """Return the sha256 of the file, or one over it and the files beside it that hold its weights."""
    beside = {entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"}
    sums = [sha256(path), *(sha256(path.parent / name) for name in sorted(beside))]
    return sums[0] if not beside else hashlib.sha256("\n".join(sums).encode()).hexdigest()
