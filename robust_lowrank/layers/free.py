"""Free layers have factors W = A B^T or W = U S V^T that any optimizer trains as they are: the baselines."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_lowrank import linalg
from robust_lowrank.layers.base import FactoredLayer, parameters_of
from robust_lowrank.layers.conv import FactoredConv
from robust_lowrank.layers.convolution import convolve, point
from robust_lowrank.layers.linear import FactoredLinear, linear_layer
from robust_lowrank.layers.merged import MergedLayer
from robust_lowrank.linalg import Factors, Ranks


def balance(factors: Factors) -> tuple[Tensor, Tensor]:
    """Return A = U P sqrt(Sigma) and B = V Q sqrt(Sigma), the two halves of U S V^T with S = P Sigma Q^T."""
    u, v = factors.bases
    p, sigma, qh = linalg.svd(factors.core)
    return u @ p * sigma.sqrt(), v @ qh.T * sigma.sqrt()


class FreeLayer(FactoredLayer):
    """W = left right^T, where left (n, r) and right (m, r) come of free factors."""

    factor_names: ClassVar[tuple[str, ...]]

    @classmethod
    def shape_of(cls, factors: Mapping[str, Tensor]) -> list[int]:
        """Return (n, m)."""
        return [factors[name].shape[0] for name in (cls.factor_names[0], cls.factor_names[-1])]

    @abstractmethod
    def left(self) -> Tensor:
        """Return the left half (n, r)."""

    @abstractmethod
    def right(self) -> Tensor:
        """Return the right half (m, r)."""

    def ranks(self) -> Ranks:
        """Return the number of columns of both halves."""
        return self.rank, self.rank

    @property
    def rank(self) -> int:
        """The number of columns of both halves."""
        return self.right().shape[1]

    def names(self) -> tuple[str, ...]:
        """Return the names of the factors in the order of their product."""
        return self.factor_names

    @staticmethod
    @abstractmethod
    def stored(factors: Factors) -> dict[str, Tensor]:
        """Return what is stored of U S V^T, by name."""

    def _adopt(self, factors: Factors) -> tuple[int, int]:
        for name, value in self.stored(factors).items():
            self.register_parameter(name, parameters_of([value])[0])
        return self.left().shape[0], self.right().shape[0]

    @torch.no_grad()
    def keep_leading(self, rank: int) -> None:
        """Leave the leading singular triplets of the weight."""
        (u, left), (v, right) = linalg.qr(self.left()), linalg.qr(self.right())
        p, sigma, qh = linalg.svd(left @ right.T)
        leading = Factors(sigma[:rank].diag(), (u @ p[:, :rank], v @ qh[:rank].T))
        for name, value in self.stored(leading).items():
            self.take_value(self.get_parameter(name), value)

    def fits(self, loaded: Mapping[str, Tensor]) -> bool:
        """Return whether factors multiply to a weight of this layer's shape."""
        rank = loaded[self.factor_names[0]].shape[-1]
        old = dict(zip(self.names(), self.all_factors(), strict=True))
        small = self.core_name in self.factor_names[1:]
        shapes = {name: [rank] * old[name].dim() if small and name == self.core_name else [len(old[name]), rank] for name in old}
        return rank > 0 and all(list(value.shape) == shapes[name] for name, value in loaded.items())

    def merged(self) -> Tensor:
        """Return the matrix W (n, m)."""
        return self.left() @ self.right().T

    @torch.no_grad()
    def compact(self) -> Tensor:
        """Return the product of the triangles of both halves' QR factors."""
        return linalg.triangle(self.left()) @ linalg.triangle(self.right()).T


class _Pair(FreeLayer):
    core_name: ClassVar[str] = "A"
    factor_names: ClassVar[tuple[str, ...]] = ("A", "B")
    A: nn.Parameter
    B: nn.Parameter

    @staticmethod
    def stored(factors: Factors) -> dict[str, Tensor]:
        """Return A and B."""
        return dict(zip("AB", balance(factors), strict=True))

    @classmethod
    def count(cls, shape: Sequence[int], ranks: Ranks) -> int:
        """Return the size of A and B."""
        return ranks[0] * sum(shape)

    def wake(self) -> None:
        """Draw B from a Kaiming start; A is zero."""
        nn.init.kaiming_uniform_(self.B.data.T, a=math.sqrt(5))

    def left(self) -> Tensor:
        return self.A

    def right(self) -> Tensor:
        return self.B


class _Triple(FreeLayer):
    core_name: ClassVar[str] = "S"
    factor_names: ClassVar[tuple[str, ...]] = ("U", "S", "V")
    U: nn.Parameter
    S: nn.Parameter
    V: nn.Parameter

    @staticmethod
    def stored(factors: Factors) -> dict[str, Tensor]:
        """Return U, S and V."""
        return {"S": factors.core, "U": factors.bases[0], "V": factors.bases[1]}

    def left(self) -> Tensor:
        return self.U @ self.S

    def right(self) -> Tensor:
        return self.V

    def free_factors(self) -> tuple[nn.Parameter, ...]:
        """Return U and V."""
        return self.U, self.V


class _Diagonal(FreeLayer):
    core_name: ClassVar[str] = "values"
    factor_names: ClassVar[tuple[str, ...]] = ("P", "values", "Q")
    P: nn.Parameter
    values: nn.Parameter
    Q: nn.Parameter

    @staticmethod
    def stored(factors: Factors) -> dict[str, Tensor]:
        """Return the values, P and Q."""
        return {"values": factors.core.diagonal(), "P": factors.bases[0], "Q": factors.bases[1]}

    @classmethod
    def count(cls, shape: Sequence[int], ranks: Ranks) -> int:
        """Return the size of P, Q and the values."""
        return ranks[0] * (sum(shape) + 1)

    def left(self) -> Tensor:
        return self.P * self.values

    def right(self) -> Tensor:
        return self.Q

    def free_factors(self) -> tuple[nn.Parameter, ...]:
        """Return P and Q."""
        return self.P, self.Q


class _FreeLinear(FreeLayer, FactoredLinear):
    def forward(self, x: Tensor) -> Tensor:
        """Return the map of x (..., m) as (..., n)."""
        return F.linear(F.linear(x, self.right().T.to(x.dtype)), self.left().to(x.dtype), self.bias)

    def factored_layers(self) -> nn.Sequential:
        """Return `nn.Linear(m, r)`, then `nn.Linear(r, n)`."""
        first, second = (each.to(self.weight_dtype) for each in (self.right().T, self.left()))
        return nn.Sequential(linear_layer(first, None), linear_layer(second, self.bias))


class _FreeConv(FreeLayer, FactoredConv):
    def _convolve(self, x: Tensor) -> Tensor:
        a = convolve(x, self._kernel(self.right().T).to(x.dtype), self.shape.geometry)
        return convolve(a, self.left()[(..., *[None] * self.slides)].to(a.dtype), point(self.slides))

    def factored_layers(self) -> nn.Sequential:
        """Return the spatial convolution to r channels, then the 1 x 1 convolution."""
        spatial = self._plain(self._kernel(self.right().T), self.shape.geometry)
        return nn.Sequential(spatial, self._plain_pointwise(self.left(), self.bias))


class VanillaLinear(_Pair, _FreeLinear):
    """A linear layer with W = A B^T, A (n, r) and B (m, r) without constraint."""


class VanillaConv(_Pair, _FreeConv):
    """A convolution whose matricised kernel is A B^T: r spatial filters, then 1 x 1."""


class TripleLinear(_Triple, _FreeLinear):
    """A linear layer with W = U S V^T, all three without constraint, with their ordinary gradients."""


class TripleConv(_Triple, _FreeConv):
    """A convolution whose matricised kernel is U S V^T, all three without constraint, with their ordinary gradients."""


class DiagonalLinear(_Diagonal, _FreeLinear):
    """A linear layer with W = P diag(values) Q^T without constraint."""


class DiagonalConv(_Diagonal, _FreeConv):
    """A convolution whose matricised kernel is P diag(values) Q^T without constraint."""


class MergedPair(_Pair, MergedLayer):
    """A block W = A B^T without constraint."""


class MergedTriple(_Triple, MergedLayer):
    """A block W = U S V^T, all three without constraint, with their ordinary gradients."""


class MergedDiagonal(_Diagonal, MergedLayer):
    """A block W = P diag(values) Q^T without constraint."""
