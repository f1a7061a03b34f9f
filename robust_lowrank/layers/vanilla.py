"""The plain low-rank layers W = A B^T, which any optimizer trains as they are: the baseline of the geometric methods."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_lowrank import linalg
from robust_lowrank.layers.base import FactoredLayer, Factors, parameters_of
from robust_lowrank.layers.conv import ConvShape, _FactoredConv2d, conv_layer, pointwise
from robust_lowrank.layers.linear import linear_layer


def balanced(factors: Factors) -> tuple[Tensor, Tensor]:
    """Return A = U P sqrt(Sigma) and B = V Q sqrt(Sigma), the two halves of U S V^T with S = P Sigma Q^T."""
    u, v = factors.bases
    p, sigma, qh = linalg.svd(factors.core)
    return u @ p * sigma.sqrt(), v @ qh.T * sigma.sqrt()


class _TwoFactors(FactoredLayer):
    core_name = "A"
    A: nn.Parameter
    B: nn.Parameter

    @property
    def rank(self) -> int:
        """The number of columns of A and B."""
        return self.A.shape[1]

    def weight_parameters(self) -> int:
        """Return the size of A and B."""
        return self.A.numel() + self.B.numel()

    @torch.no_grad()
    def singular_values(self) -> Tensor:
        """Return the singular values of A B^T through the triangles of the QR factors."""
        r_a, r_b = torch.linalg.qr(self.A).R, torch.linalg.qr(self.B).R
        return linalg.svd(r_a @ r_b.T).sigma


class VanillaLinear(_TwoFactors):
    """A linear layer with W = A B^T, A (n, r) and B (m, r) without constraint."""

    kind = "linear"

    def __init__(self, factors: Factors, bias: Tensor | None = None) -> None:
        super().__init__()
        self.A, self.B = parameters_of(balanced(factors))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.weight_shape = (self.A.shape[0], self.B.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of x (..., m) as (..., n)."""
        return F.linear(F.linear(x, self.B.T), self.A, self.bias)

    def dense_weight(self) -> Tensor:
        """Return W (n, m)."""
        return self.A @ self.B.T

    def dense_layer(self) -> nn.Linear:
        """Return the `nn.Linear` with the merged weight."""
        return linear_layer(self.dense_weight(), self.bias)

    def factored_layers(self) -> nn.Sequential:
        """Return `nn.Linear(m, r)` with B^T, then `nn.Linear(r, n)` with A."""
        return nn.Sequential(linear_layer(self.B.T, None), linear_layer(self.A, self.bias))


class VanillaConv2d(_TwoFactors, _FactoredConv2d):
    """A convolution whose matricised kernel is A B^T: r spatial filters, then 1 x 1."""

    kind = "conv"

    def __init__(self, factors: Factors, shape: ConvShape, bias: Tensor | None = None) -> None:
        super().__init__()
        self.A, self.B = parameters_of(balanced(factors))
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.shape = shape
        self.weight_shape = (self.A.shape[0], self.B.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x (B, Cin, H, W)."""
        a = F.conv2d(x, self._filters(), None, *self.shape.window)
        return F.conv2d(a, self.A[:, :, None, None], self.bias)

    def _filters(self) -> Tensor:
        return self.B.T.reshape(-1, self.shape.channels, *self.shape.kernel)

    def dense_weight(self) -> Tensor:
        """Return the kernel (F, Cin, kh, kw)."""
        return (self.A @ self.B.T).reshape(-1, self.shape.channels, *self.shape.kernel)

    def factored_layers(self) -> nn.Sequential:
        """Return the spatial convolution with B^T, then the 1 x 1 convolution with A."""
        return nn.Sequential(conv_layer(self._filters(), None, self.shape.window), pointwise(self.A, self.bias))
