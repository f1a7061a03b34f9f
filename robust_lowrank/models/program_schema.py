"""What an exported program may say without being trusted; anything else in its file is left out or refused.

These are the fields of torch's own format. A program is written anew from them alone, so that torch never reads what was not looked
at: it evaluates expressions and guards, resolves names as attributes, makes source code of the names of values, and unpickles what
it does not know.
"""

import json
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from robust_lowrank.models.program_graph import (
    Argument,
    Graph,
    Guard,
    Integer,
    Module,
    Name,
    Number,
    OneOf,
    Path,
    Said,
    Symbol,
    TensorArgument,
    TensorMeta,
    Text,
    is_name,
    known,
)  # fmt: skip

TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2}
TYPES |= {28: 2, 29: 1, 30: 1, 31: 1, 32: 1, 33: 1, 34: 4, 35: 8}  # bytes of torch's numbers, by its codes


class UserInput(Said):
    """An input of whoever calls the program."""

    arg: Argument


class Constant(OneOf):
    """A value that an input always has."""

    as_none: bool = True
    as_int: Integer = 0
    as_float: Number = 0.0
    as_string: Text = ""
    as_bool: bool = False


class ConstantInput(Said):
    """An input that always has one value."""

    name: Name
    value: Constant


class Parameter(Said):
    """A parameter as an input."""

    arg: TensorArgument
    parameter_name: Path


class Buffer(Said):
    """A buffer as an input."""

    arg: TensorArgument
    buffer_name: Path
    persistent: bool


class TensorConstant(Said):
    """A constant as an input."""

    arg: TensorArgument
    tensor_constant_name: Path


class InputSpec(OneOf):
    """What an input of the graph is."""

    user_input: UserInput | None = None
    parameter: Parameter | None = None
    buffer: Buffer | None = None
    tensor_constant: TensorConstant | None = None
    constant_input: ConstantInput | None = None


class BufferMutation(Said):
    """A buffer's next value."""

    arg: TensorArgument
    buffer_name: Path


class OutputSpec(OneOf):
    """What an output of the graph is."""

    user_output: UserInput | None = None
    buffer_mutation: BufferMutation | None = None


class Signature(Said):
    """What the graph's inputs and outputs are."""

    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class Range(Said):
    """Bounds of an open size."""

    min_val: Integer | None
    max_val: Integer | None


class Tree(Said):
    """How inputs or outputs are packed."""

    type: Literal["builtins.tuple", "builtins.list", "builtins.dict"] | None
    context: str | None
    children_spec: list["Tree"]

    @model_validator(mode="after")
    def _named(self) -> Self:
        keys = [] if self.context in (None, "null") else json.loads(self.context or "")
        if not isinstance(keys, list) or not all(isinstance(key, str) and is_name(key) for key in keys):
            raise ValueError(f"the packing {str(self.context)[:80]!r}")
        return self


class Trees(Said):
    """A packing with the number of its format."""

    packed: tuple[Literal[1], Tree]


def _packing(text: str) -> str:
    """Return a packing, written anew."""
    if len(text) > 100_000:
        raise ValueError("a packing that is too large")
    packed = Trees.model_validate_json(f'{{"packed": {text}}}').packed
    return json.dumps([packed[0], packed[1].model_dump()])


Packing = Annotated[str, AfterValidator(_packing)]


class CallSignature(Said):
    """How a module was called."""

    inputs: list[Argument]
    outputs: list[Argument]
    in_spec: Packing
    out_spec: Packing
    forward_arg_names: list[Name] | None = None


class Call(Said):
    """A module that was called."""

    fqn: Module
    signature: CallSignature | None = None


class GraphModule(Said):
    """The graph, and how it is called."""

    graph: Graph
    signature: Signature
    module_call_graph: list[Call]


class Version(Said):
    """The version of the format."""

    major: Annotated[int, Field(ge=0, le=1000)]
    minor: Annotated[int, Field(ge=0, le=1000)]


class Program(Said):
    """An exported program."""

    graph_module: GraphModule
    opset_version: dict[Annotated[str, Field(max_length=40)], Annotated[int, Field(ge=0, le=10_000)]]
    range_constraints: dict[Symbol, Range]
    schema_version: Version
    verifiers: list[Literal["TRAINING", "ATEN", "EDGE"]] = Field(default_factory=list)
    guards_code: list[Guard] = Field(default_factory=list)


class Payload(Said):
    """A tensor in a file of the archive."""

    path_name: Annotated[str, known(lambda text: re.fullmatch(r"(weight|tensor)_\d{1,9}", text) is not None, "the file")]
    is_param: bool
    use_pickle: Literal[False]
    tensor_meta: TensorMeta

    def fits(self, held: int) -> bool:
        """Return whether the tensor lies within a file of so many bytes, and has no more numbers than that."""
        meta = self.tensor_meta
        if meta.dtype not in TYPES or any(part.as_expr for part in (*meta.sizes, *meta.strides, meta.storage_offset)):
            return False
        sizes, strides = [size.as_int for size in meta.sizes], [stride.as_int for stride in meta.strides]
        if len(sizes) != len(strides) or min((*sizes, *strides, meta.storage_offset.as_int), default=0) < 0:
            return False
        count = 1
        for size in sizes:
            count *= size
        last = meta.storage_offset.as_int + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        return count == 0 or max(count, last + 1) * TYPES[meta.dtype] <= held


class Payloads(Said):
    """The tensors of a program by their names."""

    config: dict[Path, Payload]
