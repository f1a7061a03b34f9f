"""ONNX files are looked at before anything that they name is opened, and stand behind a plain `nn.Module`."""

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_lowrank.errors import UserError, first_line, shown
from robust_lowrank.extras import needed
from robust_lowrank.models.files import require_file, sha256
from robust_lowrank.models.plain import TRUST
from robust_lowrank.models.programs import Program

TYPES = {"tensor(float)": torch.float32, "tensor(double)": torch.float64, "tensor(float16)": torch.float16}
LARGEST = 2**31 - 1  # bytes of a protocol buffer
MOST_CALLS = 1_000_000  # of functions within functions, each written out
DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))  # whose operations ONNX Runtime has by itself
FATAL = 4  # the severity below which ONNX Runtime prints nothing: what it raises is said


def load_onnx(path: Path, *, trust_code: bool = False) -> Program:
    """Load an ONNX file, to run on the CPU.

    Raises:
        UserError: onnxruntime is not installed; there is no such file, it is no model, it has more than one input or output,
            weights outside its directory, operations that ONNX Runtime lacks, or loops, which may never end, without trust.
    """
    require_file(path, "model")
    with needed("onnx", str(path)):
        import onnx  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is larger than 2 GiB, and no ONNX file is: its weights belong into a file beside it")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # of the parser's own classes, of no common base
        raise _unreadable(path, error) from error
    _check_operations(path, model, trust_code=trust_code)
    beside = _check_weights(path, model)
    del model
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of the runtime's own classes
        raise _unreadable(path, error) from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        raise UserError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs: one of each is due, images and logits")
    if inputs[0].type not in TYPES or not inputs[0].shape:
        raise UserError(f"{path} takes inputs of type {inputs[0].type}: images are a batch of floats in [0, 1]")
    name, batch = inputs[0].name, inputs[0].shape[0]

    def run(x: Tensor) -> Tensor:
        (logits,) = session.run(None, {name: np.ascontiguousarray(x.detach().cpu().numpy())})
        return torch.from_numpy(logits).to(x.device)

    return Program(run, _digest(path, beside), dtype=TYPES[inputs[0].type], batch=batch if isinstance(batch, int) else None)


def input_name(path: Path) -> str:
    """Return the name that a file of `load_onnx` has for its input."""
    import onnxruntime  # pyright: ignore[reportMissingImports]

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()[0].name


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is not an ONNX model, or it is damaged: {first_line(error)}")


def _check_operations(path: Path, model: Any, *, trust_code: bool) -> None:
    """Require operations that the runtime has, functions that end, and no loop without trust."""
    functions = {(each.domain, each.name): each for each in model.functions}
    for node in _nodes(model):
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in functions:
            raise UserError(
                f"{path} has the operation {shown(node.op_type)[:80]} of {shown(node.domain)[:80]!r}, which ONNX Runtime lacks: "
                "export the network without operations of its own"
            )
        if node.op_type == "Loop" and not trust_code:
            raise UserError(f"{path} has a loop, which may never end: refused\n{TRUST}")

    @cache
    def size(key: tuple[str, str]) -> int:
        inner = (node for node in _nodes_of([functions[key].node]) if (node.domain, node.op_type) in functions)
        return 1 + sum(size((node.domain, node.op_type)) for node in inner)

    try:
        calls = sum(size(key) for key in functions)
    except RecursionError as error:
        raise UserError(f"{path} is damaged: it has functions that call themselves, or too many within one another") from error
    if calls > MOST_CALLS:
        raise UserError(f"{path} has functions within functions that are more than {MOST_CALLS:,} operations: refused")


def _check_weights(path: Path, model: Any) -> list[str]:
    """Return the names of the files with weights beside a model, all of them regular files in its directory that are large enough.

    Raises:
        UserError: one is not.
    """
    beside = set()
    folder = path.parent.resolve()
    for tensor in _tensors(model):
        if not tensor.external_data and tensor.data_location != tensor.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        file = folder / name
        inside = name and "\\" not in name and "\0" not in name and ":" not in name and ".." not in PurePosixPath(name).parts
        if not inside or PurePosixPath(name).is_absolute() or file.resolve() != file:
            raise UserError(
                f"{path} has weights in {shown(name)[:120]!r}, which is not a file in its own directory: refused\n"
                "Where you trust it, copy that file beside it and load it with onnx.load, save it with onnx.save"
            )
        if not file.is_file():
            raise UserError(f"{path} has weights in {shown(name)[:120]!r} beside it, where no such file is: put it there")
        try:
            offset, length = int(entries.get("offset", "0")[:20]), int(entries.get("length", "0")[:20])
        except ValueError as error:
            raise UserError(f"{path} is damaged: offset or length of weights in {shown(name)[:120]!r} are no numbers") from error
        if min(offset, length) < 0 or offset + max(length, _bytes(tensor)) > file.stat().st_size:
            raise UserError(f"{path} is damaged, or {shown(name)[:120]!r} beside it: weights are to lie beyond its end")
        beside.add(name)
    return sorted(beside)


def _bytes(tensor: Any) -> int:
    """Return how many bytes the numbers of a tensor have at least."""
    count = 1
    for size in tensor.dims:
        count *= max(size, 0)
    return count // 2  # of four bits each, the smallest that there are


def _tensors(model: Any) -> Iterator[Any]:
    """Yield all tensors that a model holds, wherever they stand."""
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _nodes(model: Any) -> Iterator[Any]:
    """Yield all operations of a model, those within others and within functions too."""
    tops = [model.graph, *(graph for info in model.training_info for graph in (info.initialization, info.algorithm))]
    yield from _nodes_of([*(graph.node for graph in tops), *(function.node for function in model.functions)])


def _graphs(model: Any) -> Iterator[Any]:
    """Yield all graphs of a model."""
    yield model.graph
    yield from (graph for info in model.training_info for graph in (info.initialization, info.algorithm))
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from (attribute.g, *attribute.graphs)


def _nodes_of(lists: list[Any]) -> Iterator[Any]:
    """Yield the operations of lists, and those within them."""
    pending = list(lists)
    while pending:
        for node in pending.pop():
            yield node
            pending += (graph.node for attribute in node.attribute for graph in (attribute.g, *attribute.graphs))


def _digest(path: Path, beside: list[str]) -> str:
    """Return the sha256 of the file, or one over it and the files beside it that hold its weights."""
    sums = [sha256(path), *(sha256(path.parent / name) for name in beside)]
    return sums[0] if not beside else hashlib.sha256("\n".join(sums).encode()).hexdigest()
