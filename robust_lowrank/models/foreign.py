"""Any classifier becomes a target: architectures with weights, TorchScript, programs, ONNX."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank import checkpoint
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.models.architectures import architecture
from robust_lowrank.models.files import sha256
from robust_lowrank.models.normalize import normalised, written
from robust_lowrank.models.onnx_files import load_onnx
from robust_lowrank.models.programs import Program, float_type_of, load_exported, load_torchscript
from robust_lowrank.models.weights import load_weights

PROGRAMS = {".pt": "TorchScript", ".ts": "TorchScript", ".pt2": "exported program", ".onnx": "ONNX"}


class Foreign(NamedTuple):
    """A network that this package did not train, and what can be said of it."""

    model: nn.Module  # images in [0, 1] to outputs (N, classes), in evaluation mode
    gradients: bool  # outputs have a gradient with respect to the images
    description: dict[str, str]  # source, kind, sha256 of the file or else of the weights, file, normalisation


def load_foreign(
    source: str,
    *,
    weights: Path | None,
    input_shape: tuple[int, ...],
    num_classes: int | None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: torch.device,
    trust_code: bool = False,
) -> Foreign:
    """Load a classifier of images in [0, 1] and find out, on one input, whether it has gradients.

    Example:
        >>> cpu = torch.device("cpu")
        >>> target = load_foreign("torch.nn:Flatten", weights=None, input_shape=(1, 1, 3), num_classes=3, device=cpu)
        >>> target.gradients, target.model(torch.rand(2, 1, 1, 3)).shape
        (True, torch.Size([2, 3]))

    Files are data: of weights nothing but tensors is unpickled, exported programs and ONNX files are looked at before they are
    loaded, and TorchScript, which is code, is refused without `trust_code`. A function of the user's is ordinary Python: importing
    its module runs it.

    Args:
        source: `module:function` (that takes no arguments, or `input_shape` and `num_classes`), `torchvision:NAME` or that name
            alone, `timm:NAME`, one of `MODELS`; or a file: TorchScript `.pt` or `.ts`, exported program `.pt2`, `.onnx`.
        weights: of an architecture: `.safetensors`, `.pt`, `.pth` or `.th`. A function may do without, files have their own.
        input_shape: of one input, (channels, height, width) for images.
        num_classes: that the network must have; without it, whatever the architecture has by itself.
        mean: to subtract from each channel, for networks that expect normalised images. None: they normalise by themselves.
        std: to divide each channel by; given with `mean`.
        device: where the network shall be; ONNX files run on the CPU.
        trust_code: load TorchScript too, exported programs that are more than plain ones, and ONNX files with loops: their code may
            do whatever you may.

    Raises:
        UserError: something is not there, is damaged or refused, or does not fit; the message says what to do.
    """
    suffix = Path(source).suffix.lower()
    if suffix in PROGRAMS:
        if weights is not None:
            raise UserError(f"{source} holds its own weights: leave {weights} away")
        program = _load_program(Path(source), device, trust_code=trust_code)
        model, _ = normalised(program, input_shape, mean, std)
        described = {"kind": PROGRAMS[suffix], "sha256": program.digest, "file": source}
    else:
        network, kind, normalises = architecture(source, input_shape=input_shape, num_classes=num_classes)
        if weights is None and not kind.startswith("function"):
            raise UserError(f"{source} is an architecture, and its weights would be random: give the file of its weights too")
        model, kept = normalised(network, input_shape, mean, std, own=normalises)
        if weights is None:
            described = {"kind": kind, "sha256": checkpoint.digest(network)}
        else:
            load_weights(network, weights, kept=kept)
            described = {"kind": kind, "sha256": sha256(weights), "file": str(weights)}
    model = model.to(device).eval()
    if mean is not None and std is not None:
        described["normalisation"] = f"mean {written(mean)}, std {written(std)}"
    gradients = _probe(source, model, input_shape, num_classes, device)
    return Foreign(model, gradients, {"source": source} | described)


def _load_program(path: Path, device: torch.device, *, trust_code: bool) -> Program:
    if path.suffix.lower() == ".onnx":
        return load_onnx(path, trust_code=trust_code)
    load = load_exported if path.suffix.lower() == ".pt2" else load_torchscript
    return load(path, device, trust_code=trust_code)


def _probe(source: str, model: nn.Module, input_shape: tuple[int, ...], num_classes: int | None, device: torch.device) -> bool:
    """Return whether the outputs for one input have a gradient, after making sure that they have the right form."""
    with torch.enable_grad():
        x = torch.full((1, *input_shape), 0.5, dtype=float_type_of(model), device=device).requires_grad_()
        try:
            logits = model(x)
        except Exception as error:
            raise UserError(
                f"{source} cannot take an input of shape {(1, *input_shape)}: {first_line(error)}\n"
                "Inputs are (N, channels, height, width) for most networks; give the shape that this one was made for"
            ) from error
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != 1:
            form = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise UserError(f"{source} returned {form} for one input, where logits of shape (1, classes) are due")
        if num_classes is not None and logits.shape[1] != num_classes:
            raise UserError(f"{source} has {logits.shape[1]} classes, not {num_classes}: say so, and give data with these classes")
        try:
            return torch.autograd.grad(logits.sum(), x, allow_unused=True)[0] is not None
        except RuntimeError:
            return False
