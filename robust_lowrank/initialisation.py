"""Factored layers start from the leading part of given weights, or from factors drawn anew."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from robust_lowrank import linalg
from robust_lowrank.layers import ChainLayer, FactoredLayer
from robust_lowrank.layers.forms import Source, build, form_of
from robust_lowrank.layers.merged import Block
from robust_lowrank.linalg import Factors, Ranks
from robust_lowrank.methods import Method

Init = Literal["weights", "gaussian", "kaiming"]
RELU_GAIN = math.sqrt(2.0)  # of drawn weights: keeps the mean square of what ReLUs let through
NORMALISED_GAIN = math.sqrt(1 / 3)  # with normalisations: torch's own, for relative steps like a dense layer's
NORMALISATIONS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.GroupNorm, nn.LayerNorm, nn.RMSNorm),
)


def initial_factors(tensor: Tensor, ranks: Ranks, method: Method, init: Init, gain: float = RELU_GAIN) -> Factors:
    """Return the first factors of a layer whose weight is `tensor`, within the method's constraint."""
    if init == "gaussian":
        return method.project(gaussian_factors(tensor, ranks))
    if init == "kaiming":
        drawn = torch.randn_like(tensor) * (gain / math.sqrt(tensor[0].numel()))
        factors = method.project(leading_factors(drawn, ranks))
        return factors._replace(core=factors.core * (drawn.norm() / factors.core.norm())) if ranks else factors
    return method.project(leading_factors(tensor, ranks))


def gain_of(model: nn.Module) -> float:
    """Return the gain of weights drawn for a network: whether it has a normalisation decides."""
    return NORMALISED_GAIN if any(isinstance(module, NORMALISATIONS) for module in model.modules()) else RELU_GAIN


def leading_factors(tensor: Tensor, ranks: Ranks) -> Factors:
    """Return the leading singular triplets of a matrix, the truncated HOSVD of a kernel, or without ranks the tensor itself."""
    if not ranks:
        return Factors(tensor, ())
    if tensor.ndim == 4:
        return linalg.hosvd(tensor, ranks)
    u, sigma, vh = linalg.svd(tensor)
    rank = ranks[0]
    return Factors(sigma[:rank].diag(), (u[:, :rank], vh[:rank].T))


def gaussian_factors(tensor: Tensor, ranks: Ranks) -> Factors:
    """Return factors of the tensor's shape with random bases and a core whose unfolding has singular values around 1."""
    bases = tuple(linalg.qf(tensor.new_empty(n, rank).normal_()) for n, rank in zip(tensor.shape, ranks, strict=False))
    if tensor.ndim == 2 and ranks:
        return Factors(tensor.new_empty(ranks[0]).normal_().abs().sort(descending=True).values.diag(), bases)
    core = tensor.new_empty(*ranks, *tensor.shape[len(ranks) :]).normal_()
    return Factors(core * math.sqrt(core.shape[0] / core.numel()), bases)


def zero_factors(tensor: Tensor, ranks: Ranks) -> Factors:
    """Return factors of a weight of zero, with random bases: what an adapter starts from."""
    return gaussian_factors(tensor, ranks)._replace(core=tensor.new_zeros(*ranks, *tensor.shape[len(ranks) :]))


@torch.no_grad()
def factor(layer: Source, ranks: Ranks, method: Method, init: Init, gain: float = RELU_GAIN) -> tuple[FactoredLayer, float]:
    """Return the factored layer for a dense one, and ||W_factored - W|| / ||W||, NaN when the start is drawn anew."""
    weight = form_of(method).weight(layer)
    if weight.is_meta:
        raise linalg.FactorisationError("its weight is on the meta device and has no values: call to_empty and load them first")
    built = build(layer, initial_factors(weight, ranks, method, init, gain), method)
    trains = layer.trains if isinstance(layer, Block) else layer.weight.requires_grad
    for parameter in built.all_factors():
        parameter.requires_grad_(trains)
    if isinstance(built, ChainLayer) and built.bias is not None and layer.bias is not None:
        built.bias.requires_grad_(layer.bias.requires_grad)
    error = linalg.norm(linalg.at_least_float32(built.merged()).reshape(weight.shape) - weight) / linalg.norm(weight)
    return built, float(error) if init == "weights" else math.nan
