"""Networks that are programs, for images (1, 8, 8) in ten classes, each with one attack in it.

`make_...(folder)` writes a file and returns it; its docstring says what the attack is.
"""

import functools
import json
import pickle
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.hostile import Code, marker

SHAPE, CLASSES = (1, 8, 8), 10
GRAPH, WEIGHTS, CONSTANTS = (
    "models/model.json",
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
)
Maker = Callable[[Path], Path]
ON_READING: dict[str, str] = {
    "PAGE": "<!DOCTYPE html><html>Sign in</html>",
    "POINTER": "version https://git-lfs.github.com/spec/v1\n",
}


@functools.cache
def plain() -> bytes:
    """Return a program without any attack."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).eval()
    program = torch.export.export(model, (torch.rand(2, *SHAPE),), dynamic_shapes=({0: torch.export.Dim("n")},))
    with tempfile.TemporaryDirectory() as place:
        torch.export.save(program, file := Path(place) / "plain.pt2")
        return file.read_bytes()


def make_plain(folder: Path) -> Path:
    """Write the program without any attack, which is loaded."""
    (path := folder / "plain.pt2").write_bytes(plain())
    return path


def _touch(folder: Path) -> str:
    return f"__import__('pathlib').Path({str(marker(folder))!r}).touch()"


def _changed(folder: Path, name: str, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write the plain program with its files changed."""
    with zipfile.ZipFile(BytesIO(plain())) as source:
        files = {each.partition("/")[2]: source.read(each) for each in source.namelist()}
    change(files)
    with zipfile.ZipFile(path := folder / f"{name}.pt2", "w", compression) as target:
        for each, content in files.items():
            target.writestr(each if each.startswith("..") else f"net/{each}", content)
    return path


def _said(folder: Path, name: str, change: Callable[[Any], None], file: str = GRAPH) -> Path:
    """Write the plain program with what one of its files says changed."""

    def rewrite(files: dict[str, bytes]) -> None:
        said = json.loads(files[file])
        change(said)
        files[file] = json.dumps(said).encode()

    return _changed(folder, name, rewrite)


def _graph(said: Any) -> Any:
    return said["graph_module"]["graph"]


def _expression(folder: Path, name: str, expression: str) -> Path:
    def change(said: Any) -> None:
        _graph(said)["tensor_values"]["input"]["sizes"][0] = {"as_expr": {"expr_str": expression, "hint": {"as_int": 2}}}

    return _said(folder, name, change)


def make_expression(folder: Path) -> Path:
    """A symbolic size is Python that touches a file: torch hands it to sympy, which evaluates it."""
    return _expression(folder, "expression", _touch(folder))


def make_endless_power(folder: Path) -> Path:
    """A symbolic size is a number with more digits than there is memory."""
    return _expression(folder, "power", "9**9**9**9")


def make_assumption(folder: Path) -> Path:
    """What is assumed of a symbol is Python that touches a file."""
    return _expression(folder, "assumption", f"Symbol('s0', integer={_touch(folder)})")


def make_range(folder: Path) -> Path:
    """The name of a range is Python that touches a file."""
    return _said(folder, "range", lambda said: said["range_constraints"].update({_touch(folder): {"min_val": 2, "max_val": 4}}))


def make_guard(folder: Path) -> Path:
    """A guard is Python that touches a file: torch makes a function of it."""
    return _said(folder, "guard", lambda said: said.update(guards_code=[f"{_touch(folder)} is None"]))


def make_value_name(folder: Path) -> Path:
    """The name of a value is Python that touches a file: torch makes source code of names."""

    def change(said: Any) -> None:
        node = _graph(said)["nodes"][-1]
        node["name"] = f"y = {_touch(folder)}\n    z"

    return _said(folder, "value_name", change)


def make_input_name(folder: Path) -> Path:
    """The name of the input, wherever it stands, is Python that touches a file."""

    def change(files: dict[str, bytes]) -> None:
        name = json.dumps(f"x=({_touch(folder)})")
        files[GRAPH] = (
            files[GRAPH].replace(b'"name": "input"', b'"name": ' + name.encode()).replace(b'"input": {', name.encode() + b": {")
        )

    return _changed(folder, "input_name", change)


def make_parameter_name(folder: Path) -> Path:
    """The name of a parameter ends a string in the source code that torch makes of it."""
    name = f'1"), {_touch(folder)}, getattr(self, "1'

    def change(files: dict[str, bytes]) -> None:
        for file in (GRAPH, WEIGHTS):
            files[file] = files[file].replace(b'"1.weight"', json.dumps(name).encode())

    return _changed(folder, "parameter_name", change)


def _operation(folder: Path, name: str, target: str, *values: Any) -> Path:
    """Write a program whose last operation is another one, on these values."""

    def change(said: Any) -> None:
        node = _graph(said)["nodes"][-1]
        node["target"] = target
        node["inputs"] = [{"name": key, "arg": value, "kind": 1} for key, value in values]

    return _said(folder, name, change)


def make_file_operation(folder: Path) -> Path:
    """An operation of torch that maps a file into memory, and makes it where it is not there."""
    values = {"as_string": str(marker(folder))}, {"as_bool": True}, {"as_int": 640}
    named = zip(("filename", "shared", "size"), values, strict=True)
    return _operation(folder, "file_operation", "torch.ops.aten.from_file.default", *named)


def make_function(folder: Path) -> Path:
    """A function of torch's that writes a file stands for an operation: torch resolves any name."""
    return _operation(folder, "function", "torch.save", ("", {"as_int": 1}), ("", {"as_string": str(marker(folder))}))


def make_attribute(folder: Path) -> Path:
    """An attribute of an operation stands for one of its overloads."""
    return _operation(folder, "attribute", "torch.ops.aten.relu.__class__", ("", {"as_int": 1}))


def make_other_function(folder: Path) -> Path:
    """A function of another module, through an attribute of torch, stands for an operation."""
    return _operation(folder, "other_function", "torch.os.system", ("", {"as_string": f"touch {marker(folder)}"}))


def make_operation_argument(folder: Path) -> Path:
    """An operation is handed a function."""
    return _operation(folder, "operation_argument", "torch.ops.aten.relu.default", ("self", {"as_operator": "torch.os.system"}))


def make_opaque_object(folder: Path) -> Path:
    """A constant is a pickled object that touches a file."""

    def change(files: dict[str, bytes]) -> None:
        files["data/constants/opaque_obj_0"] = pickle.dumps(Code(folder))
        said = {"config": {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}}}
        files[CONSTANTS] = json.dumps(said).encode()

    return _changed(folder, "opaque_object", change)


def _pickled(folder: Path) -> bytes:
    torch.save(Code(folder), written := BytesIO())
    return written.getvalue()


def make_pickled_weight(folder: Path) -> Path:
    """A weight is a pickled object that touches a file."""

    def change(files: dict[str, bytes]) -> None:
        said = json.loads(files[WEIGHTS])
        payload = said["config"]["1.weight"]
        payload["use_pickle"] = True
        files[f"data/weights/{payload['path_name']}"] = _pickled(folder)
        files[WEIGHTS] = json.dumps(said).encode()

    return _changed(folder, "pickled_weight", change)


def make_old_weights(folder: Path) -> Path:
    """Weights stand in the older form, a pickled object, which touches a file; those of the newer form are missing."""

    def change(files: dict[str, bytes]) -> None:
        del files[WEIGHTS]
        files["data/weights/model.pt"] = _pickled(folder)

    return _changed(folder, "old_weights", change)


def make_packing(folder: Path) -> Path:
    """How outputs are packed names a module to import."""
    (folder / "imported_by_the_packing.py").write_text(f"{_touch(folder)}\n", encoding="utf-8")
    context = json.dumps([{"__enum__": True, "fqn": "imported_by_the_packing:A", "name": "B"}])
    leaf = {"type": None, "context": None, "children_spec": []}

    def change(said: Any) -> None:
        call = said["graph_module"]["module_call_graph"][0]["signature"]
        call["out_spec"] = json.dumps([1, {"type": "builtins.dict", "context": context, "children_spec": [leaf]}])

    return _said(folder, "packing", change)


def make_compiled_code(folder: Path) -> Path:
    """The archive holds a compiled library, which torch loads."""
    return _changed(folder, "compiled", lambda files: files.update({"data/aotinductor/model/net.so": b"\x7fELF"}))


def make_path_out(folder: Path) -> Path:
    """A name in the archive leads out of it."""
    return _changed(folder, "path_out", lambda files: files.update({"../../EXECUTED": b""}))


def make_twice(folder: Path) -> Path:
    """A name stands in the archive twice, but for capitals: whoever reads it sees one or the other."""
    return _changed(folder, "twice", lambda files: files.update({"MODELS/model.json": b"{}"}))


def make_weight_elsewhere(folder: Path) -> Path:
    """A weight is to lie elsewhere in the archive."""

    def change(said: Any) -> None:
        said["config"]["1.weight"]["path_name"] = "../../models/model.json"

    return _said(folder, "weight_elsewhere", change, WEIGHTS)


def make_expanded_weight(folder: Path) -> Path:
    """A few bytes are declared to be a matrix with a million rows and columns."""

    def change(said: Any) -> None:
        meta = said["config"]["1.weight"]["tensor_meta"]
        meta["sizes"], meta["strides"] = [{"as_int": 10**6}] * 2, [{"as_int": 0}] * 2

    return _said(folder, "expanded_weight", change, WEIGHTS)


def make_empty_weight(folder: Path) -> Path:
    """No bytes are declared to be a matrix with a million rows and columns, which torch fills with zeros."""

    def change(files: dict[str, bytes]) -> None:
        said = json.loads(files[WEIGHTS])
        payload = said["config"]["1.weight"]
        payload["tensor_meta"]["sizes"] = [{"as_int": 10**6}] * 2
        files[f"data/weights/{payload['path_name']}"] = b""
        files[WEIGHTS] = json.dumps(said).encode()

    return _changed(folder, "empty_weight", change)


def make_compressed(folder: Path) -> Path:
    """The archive is compressed, a thousandth of what it holds."""
    return _changed(folder, "compressed", lambda files: files.update({"extra/zeros": bytes(1 << 26)}), zipfile.ZIP_DEFLATED)


def make_deep(folder: Path) -> Path:
    """What the program says is nested deeper than Python calls functions."""
    return _changed(folder, "deep", lambda files: files.update({GRAPH: b"[" * 200_000 + b"]" * 200_000}))


def make_long_number(folder: Path) -> Path:
    """A number in the program has five thousand digits."""
    return _changed(
        folder, "number", lambda files: files.update({GRAPH: files[GRAPH].replace(b'"as_int": 8', b'"as_int": ' + b"8" * 5000)})
    )


def make_page(folder: Path) -> Path:
    """A web page in the place of a program."""
    (path := folder / "page.pt2").write_text(ON_READING["PAGE"], encoding="utf-8")
    return path


def make_pointer(folder: Path) -> Path:
    """A pointer of Git LFS in the place of a program."""
    (path := folder / "pointer.PT2").write_text(ON_READING["POINTER"], encoding="utf-8")
    return path


class _Writing(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path: str = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        written = torch.from_file(self.path, True, 640, dtype=torch.float32)  # pyright: ignore[reportCallIssue]
        return x.flatten(1)[:, :10] + written[:10]


class _Endless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() * 0 == 0):
            x = x + 0
        return x


def _script(path: Path, model: nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(model).save(path)
    return path


def make_writing_script(folder: Path) -> Path:
    """TorchScript whose forward makes a file."""
    return _script(folder / "writing.ts", _Writing(str(marker(folder))))


def make_endless_script(folder: Path) -> Path:
    """TorchScript whose forward never ends."""
    return _script(folder / "endless.pt", _Endless())


def _onnx(folder: Path, name: str, change: Callable[[Any], None]) -> Path:
    """Write an ONNX file of a matrix product, changed; needs the package onnx."""
    import onnx
    from onnx import TensorProto, helper

    x, y = (
        helper.make_tensor_value_info(key, TensorProto.FLOAT, ["n", *sizes]) for key, sizes in (("x", SHAPE), ("y", (CLASSES,)))
    )
    weight = helper.make_tensor("w", TensorProto.FLOAT, [64, CLASSES], bytes(64 * CLASSES * 4), raw=True)
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "net", [x], [y], [weight]), opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    change(model)
    (path := folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    assert onnx.load(path, load_external_data=False)
    return path


def make_plain_onnx(folder: Path) -> Path:
    """Write the ONNX file without any attack, which is loaded."""
    return _onnx(folder, "plain", lambda model: None)


def _elsewhere(tensor: Any, **entries: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    for key, value in entries.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _secret(folder: Path) -> Path:
    """Return a file outside the directory in which a network is written."""
    (folder / "model").mkdir(exist_ok=True)
    (path := folder / "secret.bin").write_bytes(bytes(64 * CLASSES * 4))
    return path


def make_onnx_above(folder: Path) -> Path:
    """Weights lie in the directory above."""
    _secret(folder)
    return _onnx(folder / "model", "above", lambda model: _elsewhere(model.graph.initializer[0], location="../secret.bin"))


def make_onnx_absolute(folder: Path) -> Path:
    """Weights lie at an absolute path."""
    secret = str(_secret(folder))
    return _onnx(folder / "model", "absolute", lambda model: _elsewhere(model.graph.initializer[0], location=secret))


def make_onnx_link(folder: Path) -> Path:
    """Weights lie beside the file, where a link leads out."""
    secret = _secret(folder)
    (folder / "model/weights.bin").symlink_to(secret)
    return _onnx(folder / "model", "link", lambda model: _elsewhere(model.graph.initializer[0], location="weights.bin"))


def make_onnx_constant(folder: Path) -> Path:
    """The value of a constant within the graph lies in the directory above."""
    from onnx import helper

    _secret(folder)

    def change(model: Any) -> None:
        tensor = model.graph.initializer.pop()
        _elsewhere(tensor, location="../secret.bin")
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))

    return _onnx(folder / "model", "constant", change)


def make_onnx_memory(folder: Path) -> Path:
    """Weights lie at an address in memory, in the runtime's own notation."""
    location = "*/_ORT_MEM_ADDR_/*"
    return _onnx(
        folder, "memory", lambda model: _elsewhere(model.graph.initializer[0], location=location, offset="4096", length="2560")
    )


def make_onnx_short(folder: Path) -> Path:
    """Weights are to lie beyond the end of the file beside."""
    (folder / "short.bin").write_bytes(bytes(64))
    return _onnx(folder, "short", lambda model: _elsewhere(model.graph.initializer[0], location="short.bin", length="2560"))


def make_onnx_device(folder: Path) -> Path:
    """Weights lie in a file that never ends."""
    return _onnx(folder, "device", lambda model: _elsewhere(model.graph.initializer[0], location="/dev/zero"))


def make_onnx_operation(folder: Path) -> Path:
    """An operation of a library that is to be loaded."""

    def change(model: Any) -> None:
        model.graph.node[1].domain, model.graph.node[1].op_type = "evil.ops", "Run"
        opset = model.opset_import.add()
        opset.domain, opset.version = "evil.ops", 1

    return _onnx(folder, "operation", change)


def make_onnx_loop(folder: Path) -> Path:
    """A loop that never ends."""
    from onnx import TensorProto, helper

    def change(model: Any) -> None:
        flag = helper.make_tensor_value_info("go", TensorProto.BOOL, [])
        again = helper.make_tensor_value_info("again", TensorProto.BOOL, [])
        count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
        body = helper.make_graph([helper.make_node("Identity", ["go"], ["again"])], "body", [count, flag], [again])
        model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
        model.graph.node.append(helper.make_node("Loop", ["", "yes"], [], body=body))

    return _onnx(folder, "loop", change)


def make_onnx_functions(folder: Path) -> Path:
    """Functions that call one another twice each, forty deep: a million million operations."""
    from onnx import helper

    def change(model: Any) -> None:
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
        model.opset_import.append(opsets[1])
        for n in range(40):
            inner = ("Identity", "") if n == 0 else (f"F{n - 1}", "mine")
            nodes = [helper.make_node(inner[0], [a], [b], domain=inner[1]) for a, b in (("a", "b"), ("b", "c"))]
            model.functions.append(helper.make_function("mine", f"F{n}", ["a"], ["c"], nodes, opsets))
        model.graph.node[1].output[0] = "z"
        model.graph.node.append(helper.make_node("F39", ["z"], ["y"], domain="mine"))

    return _onnx(folder, "functions", change)


def make_onnx_page(folder: Path) -> Path:
    """A web page in the place of an ONNX file."""
    (path := folder / "page.onnx").write_text(ON_READING["PAGE"], encoding="utf-8")
    return path


def make_onnx_noise(folder: Path) -> Path:
    """Bytes that are no model."""
    (path := folder / "noise.ONNX").write_bytes(bytes(range(7, 256)) * 20)
    return path


ONNX: tuple[Maker, ...] = (
    make_onnx_above, make_onnx_absolute, make_onnx_link, make_onnx_constant, make_onnx_memory, make_onnx_short, make_onnx_device,
    make_onnx_operation, make_onnx_loop, make_onnx_functions, make_onnx_page, make_onnx_noise,
)  # fmt: skip
HOSTILE: tuple[Maker, ...] = (
    make_expression, make_endless_power, make_assumption, make_range, make_guard, make_value_name, make_input_name,
    make_parameter_name, make_file_operation, make_function, make_attribute, make_other_function, make_operation_argument,
    make_opaque_object, make_pickled_weight, make_old_weights, make_packing, make_compiled_code, make_path_out, make_twice,
    make_weight_elsewhere, make_expanded_weight, make_empty_weight, make_compressed, make_deep, make_long_number, make_page,
    make_pointer, make_writing_script, make_endless_script,
)  # fmt: skip
"""All of which are refused without `--trust-code`; those of `ONNX` need the package onnx to be made."""
