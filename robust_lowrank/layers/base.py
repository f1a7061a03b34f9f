"""A factored layer has a core and orthonormal bases, and answers what reports want to know."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from robust_lowrank import linalg
from robust_lowrank.layers.merging import merge
from robust_lowrank.linalg import Factors, Ranks

Kind = Literal["linear", "conv", "tucker", "merged"]
LOOSE = 1e-2  # norms of U^T U - I from which bases are no orthonormal ones that have been rounded


class FactoredLayer(nn.Module, ABC):
    """A weight that is stored as factors: of a layer that computes with them (`ChainLayer`), or of a merged one (`MergedLayer`).

    Factors are in float32 or better, whatever the network is cast to.

    Attributes:
        method: what trains the factors.
        weight_shape: (n, m) of the weight as a matrix; for a kernel n = F filters and m = Cin * kh * kw.
        weight_dtype: of the weight as others see it.
        idle: for each basis, how many of its last columns the core gives no weight; from them a rank may grow. () for none.
        alpha: of an update of a frozen weight, its factor.
        start: of an update that cannot begin at zero, what it began with, which is subtracted from it.
        loads: how often factors have been loaded from a state dict.
    """

    kind: ClassVar[Kind]
    core_name: ClassVar[str]
    basis_names: tuple[str, ...] = ()
    method: Any = None
    idle: tuple[int, ...] = ()
    alpha: float = 1.0
    loads: int = 0
    _looked_at: Any = None
    weight_shape: tuple[int, int]

    def __init__(self, factors: Factors) -> None:
        super().__init__()
        self.weight_shape = self._adopt(factors)
        self.weight_dtype: torch.dtype = self.core.dtype
        self.start: Start | None = None

    @classmethod
    @abstractmethod
    def takes(cls, layer: Any) -> bool:
        """Return whether it can take the place of such a layer, or block of a parameter, if not of any (`refusal`)."""

    @classmethod
    @abstractmethod
    def in_place_of(cls, layer: Any, factors: Factors, bias: Tensor | None) -> Any:
        """Return the layer of these factors that takes the place of `layer`."""

    @classmethod
    def weight_of(cls, layer: Any) -> Tensor:
        """Return the weight of what it replaces, with the outputs first."""
        return layer.weight

    @classmethod
    def refusal(cls, layer: Any) -> str | None:
        """Return the reason why a layer cannot be factored so; None if it can."""
        return None

    @classmethod
    @abstractmethod
    def shape_of(cls, factors: Mapping[str, Tensor]) -> list[int]:
        """Return the shape of the weight that factors, by name, multiply to; of a matricised kernel that of the matrix."""

    @abstractmethod
    def _adopt(self, factors: Factors) -> tuple[int, int]:
        """Make parameters that own copies of factors, and return the shape of the weight as a matrix."""

    @property
    def core(self) -> nn.Parameter:
        """The small factor: S (r, r) or C (r1, r2, kh, kw)."""
        return self._factor(self.core_name)

    def bases(self) -> tuple[nn.Parameter, ...]:
        """Return the orthonormal factors, in the order of the core's modes."""
        return tuple([self._factor(name) for name in self.basis_names])

    def _factor(self, name: str) -> nn.Parameter:
        found = self._parameters.get(name)
        return getattr(self, name) if found is None else found  # a parametrization has it

    def free_factors(self) -> tuple[nn.Parameter, ...]:
        """Return the factors of which a method wants orthonormal columns that nothing keeps so."""
        return ()

    def names(self) -> tuple[str, ...]:
        """Return the names of all factors."""
        return self.core_name, *self.basis_names

    def all_factors(self) -> tuple[nn.Parameter, ...]:
        """Return all parameters of the weight."""
        return tuple([self._factor(name) for name in self.names()])

    def wake(self) -> None:
        """Draw anew what in a weight of zero has no gradient; it stays zero."""

    def factors(self) -> Factors:
        """Return the factors as tensors that share the layer's memory."""
        return Factors(self.core.detach(), tuple([basis.detach() for basis in self.bases()]))

    def set_factors(self, factors: Factors, *, idle: tuple[int, ...] = ()) -> None:
        """Install factors, of any ranks, whose tensors are the layer's from now on; the parameters stay the same objects."""
        self.idle = idle
        for parameter, value in zip((self.core, *self.bases()), (factors.core, *factors.bases), strict=True):
            self.take_value(parameter, value)

    @staticmethod
    def take_value(parameter: nn.Parameter, value: Tensor) -> None:
        """Give a parameter another value, of any shape; it is copied if it is not contiguous, or part of a larger tensor."""
        if parameter.shape != value.shape:
            _forget_accumulator(parameter)
        whole = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
        parameter.data = value.detach() if whole else value.detach().clone(memory_format=torch.contiguous_format)

    def used_factors(self) -> Factors:
        """Return the factors without idle columns: the same weight."""
        core, bases = self.factors()
        kept = tuple(basis.shape[1] - idle for basis, idle in zip(bases, self.idle or (0,) * len(bases), strict=True))
        return Factors(core[tuple(map(slice, kept))], tuple(basis[:, :rank] for basis, rank in zip(bases, kept, strict=True)))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any) -> None:
        """Take up factors of any ranks that they can have."""
        new = {name: state_dict.get(prefix + name) for name in self.names()}
        loaded = {name: value for name, value in new.items() if isinstance(value, Tensor)}
        if loaded.keys() == new.keys() and self.fits(loaded):
            for name, value in loaded.items():
                parameter = self.get_parameter(name)
                if parameter.shape != value.shape:
                    blank = parameter.data.new_empty(value.shape)
                    parameter.grad = None
                    _forget_accumulator(parameter)
                    parameter.data = blank
        super()._load_from_state_dict(state_dict, prefix, *args, **options)
        for parameter in self.all_factors():
            parameter.data = linalg.at_least_float32(parameter.data)
        if loaded:
            self.idle = idle_columns(self.factors())
            self.loads += 1

    def fits(self, loaded: Mapping[str, Tensor]) -> bool:
        """Return whether factors multiply to a weight of this layer's shape."""
        core, bases = loaded[self.core_name], [loaded[name] for name in self.basis_names]
        ranks = [basis.shape[-1] for basis in bases]
        whole = [*ranks, *self.core.shape[len(bases) :]] == list(core.shape) and min(core.shape, default=1) > 0
        if len(ranks) == core.dim() == 2 and ranks[0] != ranks[1]:  # only beside a complete basis has the other more columns
            narrow = ranks.index(min(ranks))
            whole = whole and len(bases[narrow]) == ranks[narrow]
        return whole and all(
            new.dim() == 2 and len(new) == len(old) and new.shape[1] <= len(new)
            for new, old in zip(bases, self.bases(), strict=True)
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        began = () if self.start is None else tuple(self.start.buffers())
        kept = {id(tensor) for factor in (*self.all_factors(), *began) for tensor in (factor, factor.grad) if tensor is not None}
        self.weight_dtype = fn(torch.empty(0, dtype=self.weight_dtype, device=self.core.device)).dtype

        def precise(tensor: Tensor) -> Tensor:
            out = fn(tensor)
            short = id(tensor) in kept and linalg.at_least_float32(out).dtype != out.dtype
            return tensor.to(out.device, torch.float32) if short else out

        return super()._apply(precise, recurse)

    def ranks(self) -> Ranks:
        """Return the ranks of the factors as they are stored."""
        return tuple(basis.shape[1] for basis in self.bases())

    @property
    def rank(self) -> int:
        """The number of singular values that the weight matrix can have."""
        shape = self.used_factors().core.shape
        return min(shape[0], math.prod(shape[1:]))

    def keep_leading(self, rank: int) -> None:
        """Leave the leading directions of a weight without orthonormal bases; a whole one stays whole."""

    @abstractmethod
    def merged(self) -> Tensor:
        """Return the weight as a matrix (n, m), or a Tucker kernel, whose gradients arrive at the factors as the projected ones."""

    def shaped(self, weight: Tensor) -> Tensor:
        """Return a weight as `merged` returns it in the shape in which its layer has it."""
        return weight

    def dense_weight(self) -> Tensor:
        """Return the weight in the shape in which its layer has it."""
        return self.shaped(self.merged())

    def weight_change(self) -> Tensor:
        """Return what an update adds to the weight that is frozen beside it, in that one's shape."""
        change = self.merged() if self.start is None else self.merged() - merge(self.start.factors())
        return self.shaped(self.alpha * change)

    @torch.no_grad()
    def compact(self) -> Tensor:
        """Return a small matrix with the singular values of the weight matrix, in float64, whatever was done to the factors.

        It is the core between the triangles of the bases' QR factors, which are orthogonal only while bases are orthonormal, and
        unfolded along its first mode.
        """
        core, bases = self.used_factors()
        core = linalg.in_float64(core)
        for mode, basis in enumerate(bases):
            core = linalg.mode_product(core, linalg.triangle(basis), mode)
        return linalg.unfold(core, 0)

    @torch.no_grad()
    def singular_values(self) -> Tensor:
        """Return the singular values of the weight matrix, descending, in float64, at the cost of small matrices."""
        return linalg.svd(self.compact()).sigma

    def look_at_bases(self) -> None:
        """Warn in evaluation mode if something has changed the bases in place that does not keep them orthonormal."""
        watched = torch._C._are_functorch_transforms_active() or torch._C._len_torch_function_stack()  # or traced
        if self.training or torch.compiler.is_compiling() or watched or torch._C._len_torch_dispatch_stack():
            return
        bases = self.bases()
        versions = [None if basis.is_inference() else basis._version for basis in bases]
        if versions == self._looked_at:
            return
        self._looked_at = versions
        if any(not basis.is_meta and float(linalg.gram_defect(basis.detach())) > LOOSE for basis in bases):
            warnings.warn(
                "the bases of a factored layer are not orthonormal: something else than LowRankOptimizer has moved them, such as "
                "an average of factors, which is none of weights: take rlr.AveragedModel in place of torch's",
                stacklevel=3,
            )

    def weight_parameters(self) -> int:
        """Return the number of stored weight parameters."""
        return sum(factor.numel() for factor in self.all_factors())

    @classmethod
    def count(cls, shape: Sequence[int], ranks: Ranks) -> int:
        """Return the number of weight parameters at these ranks of a weight that has that shape before it is factored."""
        bases = sum(size * rank for size, rank in zip(shape, ranks, strict=False))
        return bases + math.prod(ranks) * math.prod(shape[len(ranks) :])

    def dense_parameters(self) -> int:
        """Return the number of weight parameters of the dense layer."""
        return math.prod(self.weight_shape)

    def inference_parameters(self) -> int:
        """Return the least number of weight parameters with which ordinary layers compute the same."""
        n, m = self.weight_shape
        return min(self.rank * (n + m), n * m)

    def extra_repr(self) -> str:
        """Return what `print(model)` shows."""
        n, m = self.weight_shape
        return f"{n}x{m}, core={'x'.join(map(str, self.core.shape))}"


class Start(nn.Module):
    """Factors that an update began with: they stay as they are."""

    def __init__(self, factors: Factors) -> None:
        super().__init__()
        names = ("core", *(f"basis{mode}" for mode in range(len(factors.bases))))
        for name, factor in zip(names, (factors.core, *factors.bases), strict=True):
            self.register_buffer(name, factor.detach().clone(memory_format=torch.contiguous_format))

    def factors(self) -> Factors:
        """Return them."""
        core, *bases = self.buffers()
        return Factors(core, tuple(bases))


class MatrixFactors(FactoredLayer):
    """The weight as a matrix W = U S V^T, U (n, r) and V (m, r) orthonormal, S (r, r).

    After `loss.backward()` the gradients of (U, S, V) are the projected ones: G V, U^T G V and G^T U.
    """

    core_name: ClassVar[str] = "S"
    basis_names: tuple[str, ...] = ("U", "V")

    def _adopt(self, factors: Factors) -> tuple[int, int]:
        self.S, self.U, self.V = parameters_of((factors.core, *factors.bases))
        return self.U.shape[0], self.V.shape[0]

    @classmethod
    def shape_of(cls, factors: Mapping[str, Tensor]) -> list[int]:
        """Return (n, m)."""
        return [factors["U"].shape[0], factors["V"].shape[0]]

    def parameters_as_factors(self) -> Factors:
        """Return the factors as the parameters that they are."""
        return Factors(self.S, (self.U, self.V))

    def merged(self) -> Tensor:
        """Return the matrix W (n, m), whose gradients arrive at the factors as the projected ones."""
        return merge(self.parameters_as_factors())


def idle_columns(factors: Factors) -> tuple[int, ...]:
    """Return for each basis how many of its last columns the core gives no weight; () for none, and for a weight of zero."""
    core = factors.core
    if core.is_meta or not bool(core.any()):
        return ()
    used = [int(linalg.unfold(core, mode).any(1).nonzero().max()) + 1 for mode in range(len(factors.bases))]
    idle = tuple(size - each for size, each in zip(core.shape, used, strict=False))
    return idle if any(idle) else ()


def parameters_of(tensors: Sequence[Tensor]) -> list[nn.Parameter]:
    """Return parameters that own contiguous copies of the tensors."""
    return [nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format)) for tensor in tensors]


def own_or_same(tensor: Tensor | None) -> nn.Parameter | None:
    """Return a parameter itself, which others may share, and of another tensor a parameter that owns a copy."""
    return tensor if tensor is None or isinstance(tensor, nn.Parameter) else parameters_of([tensor])[0]


def _forget_accumulator(parameter: nn.Parameter) -> None:
    """Drop the node that accumulates a parameter's gradient: while an old graph lives it would insist on the old shape.

    Torch drops it when the type of the data changes, and on no other occasion.
    """
    other = torch.float32 if parameter.dtype == torch.float16 else torch.float16
    parameter.data = torch.empty(0, dtype=other, device=parameter.device)
