"""ONNX files run through onnxruntime, without gradients."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_lowrank.errors import UserError
from robust_lowrank.models.files import existing, sha256
from robust_lowrank.models.programs import Program

DTYPES = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16}


def load_onnx(path: Path) -> Program:
    """Load an ONNX file, to run on the CPU.

    Raises:
        UserError: onnxruntime is not installed; there is no such file, it is no model, or it
            has more than one input or output.
    """
    existing(path, "model")
    try:
        import onnx  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"{path} needs onnxruntime: pip install 'robust-lowrank[onnx]'") from error
    try:
        digest = _digest(path, onnx.load(path, load_external_data=False).graph)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # both raise classes of their own, of no common base
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is not an ONNX model, or it is damaged: {reason}") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs: one of each is due, images and logits")
    if inputs[0].type not in DTYPES:
        raise UserError(f"{path} takes inputs of type {inputs[0].type}: images are floats in [0, 1]")
    name, batch = inputs[0].name, inputs[0].shape[0]

    def run(x: Tensor) -> Tensor:
        (logits,) = session.run(None, {name: np.ascontiguousarray(x.detach().cpu().numpy())})
        return torch.from_numpy(logits).to(x.device)

    return Program(run, digest, dtype=DTYPES[inputs[0].type], batch=batch if isinstance(batch, int) else None)


def _digest(path: Path, graph: Any) -> str:
    """Return the sha256 of the file, or one over it and the files beside it that hold its weights."""
    beside = {entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"}
    sums = [sha256(path), *(sha256(path.parent / name) for name in sorted(beside))]
    return sums[0] if not beside else hashlib.sha256("\n".join(sums).encode()).hexdigest()
