"""Inputs reach a hyperplane by the shortest way within [0, 1]."""

import math

import torch
from torch import Tensor

ORDERS = {"Linf": math.inf, "L2": 2.0, "L1": 1.0}
DUALS = {"Linf": 1.0, "L2": 2.0, "L1": math.inf}


def lengths(change: Tensor, norm: str) -> Tensor:
    """Return the length of each row of (N, ...), (N,) float64."""
    return torch.linalg.vector_norm(change.double().flatten(1), ord=ORDERS[norm], dim=1)


def project_onto_hyperplane(x: Tensor, w: Tensor, b: Tensor, norm: str) -> Tensor:
    """Return for each row the shortest change d with w . (x + d) = b and x + d in [0, 1].

    Where no point of [0, 1] lies on the hyperplane, the change goes as near to it as it can. Features of weight 0 stay.

    Example:
        >>> project_onto_hyperplane(torch.tensor([[0.5, 0.9]]), torch.tensor([[1.0, 1.0]]), torch.tensor([1.8]), "Linf")
        tensor([[0.3000, 0.1000]])

    Shapes: `x` and `w` (N, ...), `x` within [0, 1]; `b` (N,). The result has the type of `x`; within, all is float64.
    Source: Croce and Hein 2020 (arXiv 1907.02044), section 2.2.
    """
    point, normal = x.double().flatten(1), w.double().flatten(1)
    gap = b.double() - (normal * point).sum(dim=1)
    direction = normal.sign() * gap.sign()[:, None]
    room = torch.where(direction > 0, 1 - point, torch.where(direction < 0, point, 0.0))
    largest = normal.abs().amax(dim=1)
    scale = torch.where(largest > 0, largest, 1.0)
    weight, gap = normal.abs() / scale[:, None], gap.abs() / scale
    if norm == "L1":
        size = _greedy(weight, room, gap)
    else:
        size = _level(weight, weight if norm == "L2" else torch.ones_like(weight), room, gap)
    return (direction * size).to(x.dtype).reshape(x.shape)


def _level(weight: Tensor, pace: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """Return min(t pace, room) for the t at which its product with `weight` is `gap`; `room` if there is no such t.

    The product is concave and piecewise linear in t, with a kink where a feature reaches its wall.
    """
    reached, order = torch.where(pace > 0, room / pace, 0.0).sort(dim=1)
    full = (weight * room).gather(1, order).cumsum(dim=1)
    rate = (weight * pace).gather(1, order).flip(1).cumsum(dim=1).flip(1)
    start = torch.zeros_like(full[:, :1])
    value = torch.cat([start, full[:, :-1]], dim=1) + reached * rate
    kink = (value < gap[:, None]).sum(dim=1, keepdim=True)
    t, product = torch.cat([start, reached], dim=1).gather(1, kink), torch.cat([start, value], dim=1).gather(1, kink)
    beyond = kink.clamp(max=value.shape[1] - 1)
    t = t + (gap[:, None] - product) / rate.gather(1, beyond).clamp(min=torch.finfo(rate.dtype).tiny)
    return torch.where(kink < value.shape[1], torch.minimum(t * pace, room), room)


def _greedy(weight: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """Return what each feature contributes if those of largest weight go to their wall one after the other until `gap` is met."""
    heavy, order = weight.sort(dim=1, descending=True, stable=True)
    most = room.gather(1, order)
    before = (heavy * most).cumsum(dim=1) - heavy * most
    share = torch.where(heavy > 0, (gap[:, None] - before) / heavy, 0.0)
    return torch.zeros_like(room).scatter(1, order, torch.minimum(share.clamp(min=0), most))
