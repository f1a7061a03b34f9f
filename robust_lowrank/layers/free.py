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
from robust_lowrank.layers.conv import FactoredConv2d, conv_layer, pointwise
from robust_lowrank.layers.functional import POINT, convolve
from robust_lowrank.layers.linear import FactoredLinear, linear_layer
from robust_lowrank.linalg import Factors, Ranks


def balance(factors: Factors) -> tuple[Tensor, Tensor]:
    """Return A = U P sqrt(Sigma) and B = V Q sqrt(Sigma), the two halves of U S V^T with S = P Sigma Q^T."""
    u, v = factors.bases
    p, sigma, qh = linalg.svd(factors.core)
    return u @ p * sigma.sqrt(), v @ qh.T * sigma.sqrt()


class _Free(FactoredLayer):
    """W = left right^T, where left (n, r) and right (m, r) come of free factors."""

    factor_names: ClassVar[tuple[str, ...]]

    @classmethod
    def shape_of(cls, factors: Mapping[str, Tensor]) -> list[int]:
        """Return (n, m)."""
        return [factors[name].shape[0] for name in (cls.factor_names[0], cls.factor_names[-1])]

    @abstractmethod
    def left(self) -> Tensor: ...

    @abstractmethod
    def right(self) -> Tensor: ...

    def ranks(self) -> Ranks:
        """Return the number of columns of both halves."""
        return self.rank, self.rank

    @property
    def rank(self) -> int:
        """The number of columns of both halves."""
        return self.right().shape[1]

    def all_factors(self) -> tuple[nn.Parameter, ...]:
        """Return the factors in the order of their product."""
        return tuple(getattr(self, name) for name in self.factor_names)

    @torch.no_grad()
    def compact(self) -> Tensor:
        """Return the product of the triangles of both halves' QR factors."""
        return linalg.triangle(self.left()) @ linalg.triangle(self.right()).T


class _Pair(_Free):
    core_name: ClassVar[str] = "A"
    factor_names: ClassVar[tuple[str, ...]] = ("A", "B")
    A: nn.Parameter
    B: nn.Parameter

    def _adopt(self, factors: Factors) -> tuple[int, int]:
        self.A, self.B = parameters_of(balance(factors))
        return self.A.shape[0], self.B.shape[0]

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


class _Triple(_Free):
    core_name: ClassVar[str] = "S"
    factor_names: ClassVar[tuple[str, ...]] = ("U", "S", "V")
    U: nn.Parameter
    S: nn.Parameter
    V: nn.Parameter

    def _adopt(self, factors: Factors) -> tuple[int, int]:
        self.S, self.U, self.V = parameters_of((factors.core, *factors.bases))
        return self.U.shape[0], self.V.shape[0]

    def left(self) -> Tensor:
        return self.U @ self.S

    def right(self) -> Tensor:
        return self.V

    def free_factors(self) -> tuple[nn.Parameter, ...]:
        """Return U and V."""
        return self.U, self.V


class _Diagonal(_Free):
    core_name: ClassVar[str] = "values"
    factor_names: ClassVar[tuple[str, ...]] = ("P", "values", "Q")
    P: nn.Parameter
    values: nn.Parameter
    Q: nn.Parameter

    def _adopt(self, factors: Factors) -> tuple[int, int]:
        self.values, self.P, self.Q = parameters_of((factors.core.diagonal(), *factors.bases))
        return self.P.shape[0], self.Q.shape[0]

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


class _FreeLinear(_Free, FactoredLinear):
    def forward(self, x: Tensor) -> Tensor:
        """Return the map of x (..., m) as (..., n)."""
        return F.linear(F.linear(x, self.right().T.to(x.dtype)), self.left().to(x.dtype), self.bias)

    def dense_weight(self) -> Tensor:
        """Return W (n, m)."""
        return self.left() @ self.right().T

    def factored_layers(self) -> nn.Sequential:
        """Return `nn.Linear(m, r)`, then `nn.Linear(r, n)`."""
        return nn.Sequential(linear_layer(self.right().T, None), linear_layer(self.left(), self.bias))


class _FreeConv2d(_Free, FactoredConv2d):
    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x (B, Cin, H, W)."""
        a = convolve(x, self._filters().to(x.dtype), self.shape.geometry)
        return convolve(a, self.left()[:, :, None, None].to(a.dtype), POINT, self.bias)

    def _filters(self) -> Tensor:
        return self.right().T.reshape(-1, self.shape.channels, *self.shape.kernel)

    def dense_weight(self) -> Tensor:
        """Return the kernel (F, Cin, kh, kw)."""
        return (self.left() @ self.right().T).reshape(-1, self.shape.channels, *self.shape.kernel)

    def factored_layers(self) -> nn.Sequential:
        """Return the spatial convolution to r channels, then the 1 x 1 convolution."""
        return nn.Sequential(conv_layer(self._filters(), None, self.shape.geometry), pointwise(self.left(), self.bias))


class VanillaLinear(_Pair, _FreeLinear):
    """A linear layer with W = A B^T, A (n, r) and B (m, r) without constraint."""


class VanillaConv2d(_Pair, _FreeConv2d):
    """A convolution whose matricised kernel is A B^T: r spatial filters, then 1 x 1."""


class TripleLinear(_Triple, _FreeLinear):
    """A linear layer with W = U S V^T, all three without constraint, with their ordinary gradients."""


class TripleConv2d(_Triple, _FreeConv2d):
    """A convolution whose matricised kernel is U S V^T, all three without constraint, with their ordinary gradients."""


class DiagonalLinear(_Diagonal, _FreeLinear):
    """A linear layer with W = P diag(values) Q^T without constraint."""


class DiagonalConv2d(_Diagonal, _FreeConv2d):
    """A convolution whose matricised kernel is P diag(values) Q^T without constraint."""
