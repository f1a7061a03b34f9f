"""CondLR and DLRT as their papers and released codes compute them.

Patches are unfolded, each product is one of autograd, projectors are dense, and K, L and S are evaluated one after another.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Evaluate = Callable[[], Tensor]


class Unfolded(nn.Module):
    """A linear layer or convolution with the weight U S V^T, trained in S, or in K = U S or L = V S^T."""

    def __init__(self, dense: nn.Linear | nn.Conv2d, rank: float) -> None:
        super().__init__()
        u, s, vh = torch.linalg.svd(dense.weight.detach().flatten(1), full_matrices=False)
        r = max(1, round(rank * len(s)))
        self.u, self.s, self.v = (nn.Parameter(each) for each in (u[:, :r].clone(), s[:r].diag(), vh[:r].T.clone()))
        self.k, self.l = nn.Parameter(self.u.detach() @ self.s.detach()), nn.Parameter(self.v.detach() @ self.s.detach().T)
        self.bias = dense.bias
        self.conv = dense if isinstance(dense, nn.Conv2d) else None
        self.trained = "s"
        if self.conv is not None:
            self.conv.weight = None  # pyright: ignore[reportAttributeAccessIssue]

    def forward(self, x: Tensor) -> Tensor:
        if self.conv is None:
            return self._multiply(x)
        kernel, dilation, padding, stride = (getattr(self.conv, name) for name in ("kernel_size", "dilation", "padding", "stride"))
        y = self._multiply(F.unfold(x, kernel, dilation, padding, stride).mT).mT
        height = (x.shape[2] + 2 * padding[0] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
        return y.reshape(*y.shape[:2], height, -1)

    def _multiply(self, x: Tensor) -> Tensor:
        if self.trained == "k":
            return F.linear(x @ self.v, self.k, self.bias)
        if self.trained == "l":
            return F.linear(x @ self.l, self.u, self.bias)
        return F.linear(x @ self.v @ self.s.T, self.u, self.bias)


def unfold(net: nn.Module, rank: float, excluded: str) -> list[Unfolded]:
    """Put unfolded layers into the places of all linear layers and convolutions but one, and return them."""
    layers = []
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.Linear | nn.Conv2d) and name != excluded:
            parent, _, child = name.rpartition(".")
            layers.append(Unfolded(module, rank))
            setattr(net.get_submodule(parent), child, layers[-1])
    return layers


def _dense_parameters(net: nn.Module, layers: list[Unfolded]) -> Iterator[nn.Parameter]:
    factors = {id(factor) for layer in layers for factor in (layer.u, layer.s, layer.v, layer.k, layer.l)}
    return (parameter for parameter in net.parameters() if id(parameter) not in factors)


def _descend(parameters: Iterator[nn.Parameter], lr: float) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.data -= lr * parameter.grad


def condlr_step(net: nn.Module, layers: list[Unfolded], evaluate: Evaluate, *, lr: float, tau: float) -> None:
    """Take a step of CondLR (methods (18)-(23))."""
    evaluate()
    with torch.no_grad():
        for layer in layers:
            u, s, v = layer.u, layer.s, layer.v
            for basis, square in ((u, s @ s.T), (v, s.T @ s)):
                projector = torch.eye(len(basis), dtype=basis.dtype) - basis @ basis.T
                increment = projector @ torch.linalg.solve(square, basis.grad, left=False)
                q, triangle = torch.linalg.qr(basis - lr * increment)
                basis.copy_(q * triangle.diagonal().sign())
            p, sigma, qh = torch.linalg.svd(s - lr * s.grad)
            middle, eps = sigma.square().mean().sqrt(), tau / (2 + tau)
            s.copy_(p @ sigma.clamp(middle * (1 - eps), middle * (1 + eps)).diag() @ qh)
        _descend(_dense_parameters(net, layers), lr)


def dlrt_step(net: nn.Module, layers: list[Unfolded], evaluate: Evaluate, *, lr: float) -> None:
    """Take a step of DLRT at fixed rank (methods (32)-(35))."""
    for trained in ("k", "l"):
        for layer in layers:
            layer.trained = trained
            with torch.no_grad():
                getattr(layer, trained).copy_(layer.u @ layer.s if trained == "k" else layer.v @ layer.s.T)
        evaluate()
        for layer in layers:
            _descend(iter((getattr(layer, trained),)), lr)
    with torch.no_grad():
        for layer in layers:
            u, v = torch.linalg.qr(layer.k).Q, torch.linalg.qr(layer.l).Q
            layer.s.copy_((u.T @ layer.u) @ layer.s @ (v.T @ layer.v).T)
            layer.u.copy_(u)
            layer.v.copy_(v)
            layer.trained = "s"
    evaluate()
    _descend((layer.s for layer in layers), lr)
    _descend(_dense_parameters(net, layers), lr)
