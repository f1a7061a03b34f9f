"""Candidates are the matrices of a network that can be factored; of every other one there is a reason."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import UninitializedTensorMixin  # pyright: ignore[reportAttributeAccessIssue]
from torch.nn.utils import parametrize
from torch.nn.utils.parametrize import ParametrizationList

from robust_lowrank.choices import Choices, Chosen, joined
from robust_lowrank.layers import Adapter, FactoredLayer
from robust_lowrank.layers.chain import STATIC
from robust_lowrank.layers.forms import Dense, Form, Source
from robust_lowrank.layers.linear import is_transposed
from robust_lowrank.layers.merged import Block, MergedParameter, Place
from robust_lowrank.layers.network import WHOLE, owner_of

TABLES = (nn.Embedding, nn.EmbeddingBag)
SCALES = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
MULTIPLIED = (
    *(nn.Linear, nn.Bilinear, nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase),
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)  # torch's modules whose parameters of two or more dimensions are linear maps
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
PLAIN = {  # what a class may add to torch's and still compute the same
    *("__module__", "__qualname__", "__doc__", "__annotations__", "__init__", "__constants__", "__parameters__", "__orig_bases__"),
    *("__firstlineno__", "__static_attributes__", "reset_parameters", "extra_repr", "__repr__"),
}
REAL = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Seen(NamedTuple):
    """What a pass has shown: how often modules are called, and with which parameters is multiplied, by their identities."""

    calls: dict[int, int]
    multiplied: set[int]


class Candidate(NamedTuple):
    """What can be factored, under its name in the network.

    Attributes:
        why: why its weight is merged in every forward pass; empty if it is a chain.
        names: of the layer whose place a chain takes, as it may have several.
    """

    name: str
    layer: Source
    why: str = ""
    names: tuple[str, ...] = ()


@dataclass
class Matrix:
    """A parameter of two or more dimensions.

    Attributes:
        name: of its layer if that is factored as a whole, else its own.
        places: the modules that have it, by name, with its name there.
        candidates: what of it can be factored: itself, or its blocks.
        kept: why it stays dense; empty if it does not.
    """

    name: str
    places: list[tuple[str, nn.Module, str]]
    tensor: Tensor
    candidates: list[Candidate] = field(default_factory=list)
    kept: str = ""

    def owners(self) -> list[Place]:
        """Return the modules that have it, each once, with its name there."""
        return list({(id(owner), name): Place(owner, name) for _, owner, name in self.places}.values())


def find(
    model: nn.Module,
    form: Form,
    *,
    exclude: Choices = (),
    include: Choices | None = None,
    seen: Seen | None = None,
    adding: str | None = None,
) -> list[Matrix]:
    """Return the matrices of a network that are not factored yet, each with what can be factored of it, or why it stays dense.

    Args:
        seen: what a pass of the network has shown.
        adding: the name of updates to be added, beside others that frozen weights may have.

    Raises:
        UserError: an entry of `exclude` or `include` is no regular expression, or matches nothing.
    """
    excluded, included = Chosen(exclude, "exclude"), None if include is None else Chosen(include, "include")
    matrices = list(_matrices(model, adding))
    for matrix in matrices:
        _judge(matrix, form, excluded, included, seen)
    names = sorted({matrix.name for matrix in matrices})
    for chosen in (excluded, included):
        if chosen is not None:
            chosen.require_use(names)
    return matrices


def _judge(matrix: Matrix, form: Form, excluded: Chosen, included: Chosen | None, seen: Seen | None) -> None:
    name, module, parameter = matrix.places[0]
    tensor = matrix.tensor
    hit = excluded.hit(matrix.places, _block_names(matrix))
    wanted = included is not None and included.hit(matrix.places, _block_names(matrix)) is not None
    if matrix.kept:
        pass
    elif hit is not None:
        matrix.kept = f"excluded by {hit!r}"
    elif included is not None and not wanted:
        matrix.kept = "it is not included"
    elif reason := _no_matrix(module, parameter, tensor):
        matrix.kept = reason
    elif (others := sorted({each for each, owner, _ in matrix.places if owner is not module})) and not wanted:
        matrix.kept = f"its weight is shared with {', '.join(others)}: include it to factor both"
    elif reason := None if wanted else _by_choice(matrix, seen):
        matrix.kept = f"{reason}: include it to factor it"
    elif why := _why_merged(matrix, form, seen):
        matrix.candidates = _blocks(matrix, why)
    else:
        names = tuple(each for each, _, _ in matrix.places)
        matrix.candidates = [Candidate(name, module, names=names)]  # pyright: ignore[reportArgumentType]
    merged = bool(matrix.candidates) and bool(matrix.candidates[0].why)
    matrix.name = name if name and parameter == "weight" and not merged else joined(name, parameter)


def _no_matrix(module: nn.Module, parameter: str, tensor: Tensor) -> str:
    """Return why nothing can factor a parameter."""
    if isinstance(tensor, UninitializedTensorMixin):
        return "it has no shape yet: run the network once first"
    if isinstance(module, torch.jit.ScriptModule):
        return "its module is compiled by TorchScript"
    if tensor.dtype not in REAL or tensor.layout != torch.strided:
        kind = str(tensor.dtype if tensor.layout == torch.strided else tensor.layout).removeprefix("torch.")
        return f"it is {kind}: only dense real matrices are factored"
    if isinstance(module, TABLES) and module.sparse:
        return "its gradients are sparse"
    if tensor.numel() == 0:
        return f"it is empty, of the shape {tuple(tensor.shape)}"
    if sum(size > 1 for size in tensor.shape) < 2:
        return f"it is a vector, of the shape {tuple(tensor.shape)}"
    if isinstance(module, ParametrizationList):
        return "it has another parametrization"
    if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
        return "its gradient has hooks, a mask perhaps, which factors would not have"
    return ""


def _by_choice(matrix: Matrix, seen: Seen | None) -> str:
    """Return why a parameter stays dense unless it is asked for."""
    (_, module, parameter), tensor = matrix.places[0], matrix.tensor
    kind = type(module).__name__
    multiplied = seen is not None and id(tensor) in seen.multiplied
    if seen is not None and not multiplied and not any(seen.calls.get(id(owner)) for _, owner, _ in matrix.places):
        return "it takes no part in the pass of example_input"
    if isinstance(module, MULTIPLIED) or is_transposed(module):
        return ""
    if isinstance(module, TABLES) or "Embedding" in kind:
        return "it is a table of vectors"
    if isinstance(module, SCALES) or "Norm" in kind:
        return "it scales elementwise"
    stack = tensor.dim() > 2 and all(size > 1 for size in tensor.shape)
    if multiplied or (seen is None and (parameter == "weight" or stack)):
        return ""
    if seen is not None:
        return f"a parameter of a {kind}, it is multiplied with nothing as a matrix"
    return f"a parameter of a {kind}, it may be no matrix of a linear map, which an example_input tells"


def _why_merged(matrix: Matrix, form: Form, seen: Seen | None) -> str:
    """Return why a weight is merged in every pass; empty if its layer is computed as a chain."""
    name, module, parameter = matrix.places[0]
    if any(owner is not module for _, owner, _ in matrix.places):
        return "it is shared"
    if not name:
        return "it is the whole network"
    if seen is not None and not seen.calls.get(id(module)):
        return "its layer is never called: its weight is read by another one"
    return _no_chain(module, parameter, form)


def _no_chain(module: nn.Module, parameter: str, form: Form) -> str:
    """Return why a layer cannot be computed as a chain of thin ones; empty if it can."""
    if not isinstance(module, Dense) and not is_transposed(module):
        return f"{type(module).__name__}.{parameter}"
    kind = next((each for each in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) if isinstance(module, each)), type(module))
    if parametrize.is_parametrized(module):
        return "another parameter of its layer is parametrized"
    between = type(module).__mro__[: type(module).__mro__.index(kind)]
    if added := sorted(name for each in between for name, value in vars(each).items() if not _is_plain(name, value, kind)):
        return f"{type(module).__name__} has a {added[0]} of its own"
    if "forward" in vars(module):
        return "its layer has a forward of its own"
    if parameter != "weight" or set(module._parameters) - {"weight", "bias"} or module._buffers or module._modules:
        return "its layer has other tensors"
    if any(getattr(module, hooks) for hooks in HOOKS):
        return "its layer has hooks"
    return form.refusal(module) or ""


def _is_plain(name: str, value: object, kind: type) -> bool:
    """Return whether what a class adds to torch's changes nothing: static methods and constants, which chains show as well."""
    return name in PLAIN or (isinstance(value, STATIC) and not hasattr(kind, name))


def _blocks(matrix: Matrix, why: str) -> list[Candidate]:
    """Return the blocks of a parameter, each a candidate."""
    name, _, parameter = matrix.places[0]
    places = matrix.owners()
    return [
        Candidate(
            joined(name, parameter) if label == WHOLE else f"{joined(name, parameter)}.{label}",
            block,
            why,
        )
        for label, block in blocks_of(places, matrix.tensor).items()
    ]


def blocks_of(places: list[Place], tensor: Tensor) -> dict[str, Block]:
    """Return the matrices that a parameter consists of, one above the other, by their labels.

    The fused projection of an attention has one for q, k and v each, a grouped convolution one a group, and a stack of matrices,
    such as those of experts, one each. A single one has the label `whole`.
    """
    module, parameter, _ = places[0]
    tensor = tensor.detach()
    labels = [WHOLE]
    if isinstance(module, nn.MultiheadAttention) and parameter == "in_proj_weight":
        matrix, labels = tensor, list("qkv")
    elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)):
        matrix, groups = tensor.flatten(1), module.groups
        if groups > 1 and min(len(tensor) // groups, tensor.shape[1]) > 1:
            labels = [str(index) for index in range(groups)]
    else:
        sizes = [size for size in tensor.shape if size > 1]
        stack = len(sizes) > 2 and not isinstance(module, nn.Bilinear)
        matrix = tensor.reshape(-1, sizes[-1]) if stack or len(sizes) == 2 else tensor.flatten(1)
        if stack:
            labels = [str(index) for index in range(math.prod(sizes[:-2]))]
    rows = len(matrix) // len(labels)
    return {
        label: Block([place._replace(block=label) for place in places], block, index * rows)
        for index, (label, block) in enumerate(zip(labels, matrix.split(rows), strict=True))
    }


def places_of(model: nn.Module, tensor: Tensor) -> list[Place]:
    """Return the modules that have a parameter, with its name in each."""
    return [
        Place(module, name) for module in model.modules() for name, parameter in module._parameters.items() if parameter is tensor
    ]


def _matrices(model: nn.Module, adding: str | None) -> Iterator[Matrix]:
    """Yield the parameters of two or more dimensions outside factored layers, each once.

    Frozen bases of adapters that may get an update of the name `adding` are shown as they were before.
    """
    found: dict[int, Matrix] = {}
    inside: set[int] = set()
    frozen: set[int] = set()
    free: set[int] = set()
    wrapped: set[int] = set()
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, FactoredLayer | MergedParameter):
            inside.update(id(part) for part in module.modules())
        if is_of_peft(module):
            wrapped.update(id(part) for part in module.modules())
        if isinstance(module, Adapter):
            (frozen if adding in (None, *module.names) else free).update(id(part) for part in module.base.modules())
        if id(module) in inside:
            continue
        for parameter, tensor in module._parameters.items():
            if tensor is None or not (isinstance(tensor, UninitializedTensorMixin) or tensor.dim() > 1):
                continue
            place = (name.removesuffix(".base") if id(module) in free else name, module, parameter)
            if (stand_in := _stand_in(module)) is not None and adding not in (None, *stand_in.names):
                owner, parameter = owner_of(name)
                place = (owner, model.get_submodule(owner), parameter)
            found.setdefault(id(tensor), Matrix(joined(name, parameter), [], tensor)).places.append(place)
    for matrix in found.values():
        _, module, _ = matrix.places[0]
        if id(module) in frozen or _stand_in(module) is not None:
            matrix.kept = "it is the frozen base of an adapter"
        elif id(module) in wrapped:
            matrix.kept = "it is a part of a layer of PEFT: unload that first (merge_and_unload)"
        yield matrix


def _block_names(matrix: Matrix) -> list[str]:
    """Return the names of the blocks of a parameter, as reports have them."""
    name, module, parameter = matrix.places[0]
    if matrix.kept or _no_matrix(module, parameter, matrix.tensor):
        return []
    return [f"{joined(name, parameter)}.{label}" for label in blocks_of(matrix.owners(), matrix.tensor)]


def is_of_peft(module: nn.Module) -> bool:
    """Return whether a module is what PEFT puts in the place of one: a layer with adapters, or a copy that trains."""
    wrappers = ("BaseTunerLayer", "AuxiliaryTrainingWrapper", "ModulesToSaveWrapper")
    return any(each.__module__.startswith("peft.") and each.__name__ in wrappers for each in type(module).__mro__)


def _stand_in(module: nn.Module) -> MergedParameter | None:
    """Return what updates the parameter that a module keeps, if it keeps that for an adapter."""
    first = module[0] if isinstance(module, ParametrizationList) and len(module) > 0 else None
    return first if isinstance(first, MergedParameter) else None
