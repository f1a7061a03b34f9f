"""Programs are written to files that run without the network's code: torch.export, ONNX, and ONNX in eight bits."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from robust_lowrank.answers import quiet, require_close, run, tensors
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.exporting.tracing import fixed_batch, trace
from robust_lowrank.extras import needed
from robust_lowrank.records import replacing

CALIBRATION_BATCH = 32


@torch.no_grad()
def write_program(model: nn.Module, example_input: Any, path: Path) -> None:
    """Write a network of ordinary layers as torch reads it with `torch.export.load(path).module()`.

    Raises:
        UserError: as `trace`, or the program computes something else.
    """
    program = _traced(model, example_input)
    with replacing(path) as temporary, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.pt2"  # torch insists on the suffix
        with quiet():
            torch.export.save(program, file)
        module = torch.export.load(file).module()
        require_close(run(module, example_input), run(model, example_input), "the exported program")
        shutil.copyfile(file, temporary)


@torch.no_grad()
def write_onnx(model: nn.Module, example_input: Any, path: Path) -> None:
    """Write a network of ordinary layers as an ONNX file, and require that ONNX Runtime computes the same with it.

    Raises:
        UserError: as `trace`; ONNX or its runtime are not installed, cannot express the network, or compute something else.
    """
    with replacing(path) as temporary:
        _write_onnx(model, example_input, temporary)


@torch.no_grad()
def write_int8(model: nn.Module, example_input: Any, path: Path) -> None:
    """Write a network as an ONNX file whose products are taken in eight bits, weights by channel.

    The ranges of what flows between layers are those that the example shows, so it should be some hundred typical inputs.

    Raises:
        UserError: as `write_onnx`, or the runtime cannot quantise the network.
    """
    with replacing(path) as temporary, tempfile.TemporaryDirectory() as folder:
        exact, prepared = Path(folder) / "exact.onnx", Path(folder) / "prepared.onnx"
        _write_onnx(model, example_input, exact)
        from onnxruntime.quantization import QuantFormat, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        with quiet():
            try:
                quant_pre_process(exact, prepared)
                calibration: Any = _Calibration(exact, example_input)
                quantize_static(prepared, temporary, calibration, quant_format=QuantFormat.QDQ, per_channel=True)
            except Exception as error:  # the runtime raises classes of no common base
                raise UserError(f"ONNX Runtime cannot quantise the network: {first_line(error)}\nTake to='onnx'") from error


def _traced(model: nn.Module, example_input: Any) -> ExportedProgram:
    """Return the program of a network, with a warning if it takes batches of the example's size alone."""
    try:
        program = trace(model, example_input)
    except UserError as error:
        raise UserError(f"{error}\nThe forms 'dense' and 'factors' keep its code") from error
    if fixed := fixed_batch(program):
        warnings.warn(f"the network takes batches of {fixed} alone, as in example_input, and so does its export", stacklevel=3)
    return program


def _write_onnx(model: nn.Module, example_input: Any, path: Path) -> None:
    require_onnx()
    program = _traced(model, example_input)
    with quiet():
        try:
            written = torch.onnx.export(program, dynamo=True, verbose=False)
            assert written is not None
            written.save(path, external_data=False)
        except Exception as error:  # the exporter raises classes of no common base
            raise UserError(
                f"ONNX cannot express the network: {first_line(error)}\nTake to='torch-export', or 'dense', which keeps its code"
            ) from error
    session = _session(path)
    given = list(tensors(example_input))
    names = [each.name for each in session.get_inputs()]
    if len(names) != len(given):
        raise UserError(f"the ONNX file takes {len(names)} of the {len(given)} inputs in example_input: leave the others away")
    feed = {name: each.cpu().numpy() for name, each in zip(names, given, strict=True)}
    answers = [torch.from_numpy(each) for each in session.run(None, feed)]
    require_close(answers, run(model, example_input), "the ONNX file")


def require_onnx() -> None:
    """Require the packages that write and run ONNX files.

    Raises:
        UserError: one is missing.
    """
    with needed("onnx", "an ONNX file"):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401


def _session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


class _Calibration:
    """Hands the inputs that show the ranges to the runtime, batch by batch."""

    def __init__(self, path: Path, example_input: Any) -> None:
        names = [each.name for each in _session(path).get_inputs()]
        parts = [each.cpu().split(CALIBRATION_BATCH) for each in tensors(example_input)]
        self._batches: Iterator[tuple[Tensor, ...]] = iter(zip(*parts, strict=False))
        self._names = names

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by the names of the inputs, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {name: each.numpy() for name, each in zip(self._names, batch, strict=True)}
