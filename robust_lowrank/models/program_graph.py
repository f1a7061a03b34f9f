"""What the graph of an exported program may say: names, numbers, plain expressions, known operations, and no objects."""

import keyword
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

from robust_lowrank.models.operations import is_known
from robust_lowrank.models.symbolic import SYMBOL, is_arithmetic, is_guard

RESERVED = frozenset(("self", "torch", "math", "operator", "args", "kwargs", "fx_pytree", "pytree", "device", "inf", "nan"))
PATH = re.compile(r"(?!__)[\w\-]+(\.(?!__)[\w\-]+)*", re.ASCII)
MODULE = re.compile(r"[\w\-.@]*", re.ASCII)
LONGEST = 400  # characters of a name or a text


def known(accepts: Callable[[Any], bool], what: str) -> AfterValidator:
    """Return what lets a value through that is accepted, and otherwise says what it is."""

    def check(value: Any) -> Any:
        if not accepts(value):
            raise ValueError(f"{what} {str(value)[:80]!r}")
        return value

    return AfterValidator(check)


def is_name(text: str) -> bool:
    """Return whether a name of a value is one wherever torch writes it, and hides nothing that torch needs."""
    plain = text.isascii() and text.isidentifier() and len(text) <= LONGEST
    return plain and not text.startswith("__") and text not in RESERVED and not keyword.iskeyword(text)


def _is_path(text: str) -> bool:
    return len(text) <= LONGEST and PATH.fullmatch(text) is not None


Name = Annotated[str, known(is_name, "the name")]
Module = Annotated[str, known(lambda text: len(text) <= LONGEST and MODULE.fullmatch(text) is not None, "the name")]
Path = Annotated[str, known(_is_path, "the name")]
Operation = Annotated[str, known(is_known, "the operation")]
Symbol = Annotated[str, known(lambda text: SYMBOL.fullmatch(text) is not None, "the symbol")]
Expression = Annotated[str, known(is_arithmetic, "the expression")]
Guard = Annotated[str, known(is_guard, "the guard")]
Text = Annotated[str, Field(max_length=LONGEST)]
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Number = float | Literal["Infinity", "-Infinity", "NaN"]
Code = Annotated[int, Field(ge=0, le=64)]  # of a type, a layout or a form of memory


class Said(BaseModel, strict=True, extra="ignore", allow_inf_nan=False):
    """Fields of which others are left out."""


class OneOf(BaseModel, strict=True, extra="forbid", allow_inf_nan=False):
    """Fields of which exactly one is given, and no other."""

    @model_validator(mode="after")
    def _single(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"{len(self.model_fields_set)} values where one is due")
        return self

    @property
    def given(self) -> Any:
        """The one that is given."""
        return getattr(self, next(iter(self.model_fields_set)))


class Device(Said):
    """Where a tensor lies."""

    type: Literal["cpu", "cuda", "mps", "xpu", "meta"]
    index: Annotated[int, Field(ge=0, le=64)] | None = None


class Hint(OneOf):
    """The value that a size had when the program was made."""

    as_int: Integer = 0
    as_bool: bool = False
    as_float: Number = 0.0


class Symbolic(Said):
    """A size that is left open."""

    expr_str: Expression
    hint: Hint | None = None


class SymInt(OneOf):
    """A size."""

    as_expr: Symbolic | None = None
    as_int: Integer = 0


class SymFloat(OneOf):
    """A number of sizes."""

    as_expr: Symbolic | None = None
    as_float: Number = 0.0


class SymBool(OneOf):
    """A comparison of sizes."""

    as_expr: Symbolic | None = None
    as_bool: bool = False


class TensorMeta(Said):
    """Type and form of a tensor."""

    dtype: Code
    sizes: Annotated[list[SymInt], Field(max_length=64)]
    requires_grad: bool
    device: Device
    strides: Annotated[list[SymInt], Field(max_length=64)]
    storage_offset: SymInt
    layout: Literal[7]  # strided


class SymIntArgument(OneOf):
    """A size among arguments."""

    as_name: Name = ""
    as_int: Integer = 0


class SymFloatArgument(OneOf):
    """A number among arguments."""

    as_name: Name = ""
    as_float: Number = 0.0


class SymBoolArgument(OneOf):
    """A comparison among arguments."""

    as_name: Name = ""
    as_bool: bool = False


class TensorArgument(Said):
    """A tensor by its name."""

    name: Name


class OptionalTensorArgument(OneOf):
    """A tensor, or none."""

    as_tensor: TensorArgument | None = None
    as_none: bool = True


class GraphArgument(Said):
    """A part of the program that another operation runs."""

    name: Name
    graph: "Graph"


class Complex(Said):
    """A complex number."""

    real: Number
    imag: Number


class Argument(OneOf):
    """A value that an operation takes or gives: no object, no operation, no function."""

    as_none: bool = True
    as_tensor: TensorArgument | None = None
    as_tensors: list[TensorArgument] = []
    as_int: Integer = 0
    as_ints: list[Integer] = []
    as_float: Number = 0.0
    as_floats: list[Number] = []
    as_string: Text = ""
    as_strings: list[Text] = []
    as_sym_int: SymIntArgument | None = None
    as_sym_ints: list[SymIntArgument] = []
    as_scalar_type: Code = 0
    as_memory_format: Code = 0
    as_layout: Literal[7] = 7
    as_device: Device | None = None
    as_bool: bool = False
    as_bools: list[bool] = []
    as_sym_bool: SymBoolArgument | None = None
    as_sym_bools: list[SymBoolArgument] = []
    as_graph: GraphArgument | None = None
    as_optional_tensors: list[OptionalTensorArgument] = []
    as_optional_tensor: OptionalTensorArgument | None = None
    as_sym_float: SymFloatArgument | None = None
    as_sym_floats: list[SymFloatArgument] = []
    as_complex: Complex | None = None
    as_nested_tensors: list[list[TensorArgument]] = []


class NamedArgument(Said):
    """An argument of an operation."""

    name: Annotated[str, known(lambda text: text == "" or (text.isascii() and text.isidentifier()), "the name")]
    arg: Argument
    kind: Literal[0, 1, 2] | None = None


class Node(Said):
    """A call of an operation."""

    target: Operation
    inputs: list[NamedArgument]
    outputs: list[Argument]
    metadata: Annotated[dict[str, str], AfterValidator(lambda _: {})] = {}
    is_hop_single_tensor_return: bool | None = None
    name: Name | None = None


class Graph(Said):
    """Calls in their order."""

    inputs: list[Argument]
    outputs: list[Argument]
    nodes: Annotated[list[Node], Field(max_length=100_000)]
    tensor_values: dict[Name, TensorMeta]
    sym_int_values: dict[Name, SymInt]
    sym_bool_values: dict[Name, SymBool]
    is_single_tensor_return: bool = False
    custom_obj_values: Annotated[dict[str, Any], Field(max_length=0)] = {}
    sym_float_values: dict[Name, SymFloat] = {}
