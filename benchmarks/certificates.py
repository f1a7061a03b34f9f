"""what is proved of perceptrons on the digits by bounding their layers together, and by the product of their norms"""

import math
from dataclasses import replace
from itertools import pairwise

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robust_lowrank import CondLR, LowRankOptimizer, compress, data
from robust_lowrank.conditioning import certified_curve, certify, lipschitz
from robust_lowrank.layers import ChainLayer
from robust_lowrank.methods import Method

WIDTH, EPOCHS = 64, 25
RADII = (0.1, 0.2)
METHODS: dict[str, Method | None] = {"dense": None, "condlr tau=0.1": CondLR(tau=0.1), "condlr tau=0": CondLR(tau=0.0)}
DEPTHS = (4, 6)


def train(layers: int, method: Method | None) -> nn.Module:
    """Return a trained perceptron, whose losses are those of logits over 2."""
    digits = data.load("digits")
    torch.manual_seed(0)
    sizes = [math.prod(digits.input_shape), *[WIDTH] * (layers - 1), digits.num_classes]
    parts = [part for m, n in pairwise(sizes) for part in (nn.Linear(m, n), nn.ReLU())][:-1]
    for part in parts[::2]:
        nn.init.kaiming_normal_(part.get_parameter("weight"), nonlinearity="relu")
    network = nn.Sequential(nn.Flatten(), *parts)
    if method is not None:
        compress(network, method=method, rank=0.5, exclude=[str(len(parts))], init="kaiming")
    optimizer = LowRankOptimizer(network, torch.optim.SGD, lr=0.1, momentum=0.3)
    for _ in range(EPOCHS):
        for x, y in zip(digits.train_x.split(64), digits.train_y.split(64), strict=True):
            optimizer.zero_grad()
            cross_entropy(network(x) / 2, y).backward()
            optimizer.step()
    return network.eval()


def by_product(network: nn.Module) -> Tensor:
    """Return how fast differences of logits change by the norms of the layers, one by one."""
    weights = [
        (each.dense_weight() if isinstance(each, ChainLayer) else each.get_parameter("weight")).detach().double()
        for each in network.children()
        if isinstance(each, nn.Linear | ChainLayer)
    ]
    return math.prod(float(torch.linalg.matrix_norm(each, 2)) for each in weights[:-1]) * torch.cdist(weights[-1], weights[-1])


def run() -> pd.DataFrame:
    """Return a row a network: the ratio of the bounds, and certified accuracy by both."""
    digits = data.load("digits")
    rows = []
    for layers in DEPTHS:
        for name, method in METHODS.items():
            network = train(layers, method)
            bound, product = lipschitz(network, digits.input_shape), by_product(network)
            assert bound.steepness is not None
            pairs = ~torch.eye(len(product), dtype=torch.bool)
            row: dict[str, object] = {"network": f"{name}, {layers} layers"}
            row["together over product"] = round(float((bound.steepness / product)[pairs].mean()), 2)
            for how, steepness in (("together", bound.steepness), ("product", product)):
                table = certify(network, digits.test_x, digits.test_y, bound=replace(bound, steepness=steepness))
                for radius, value in zip(RADII, certified_curve(table, RADII)["value"], strict=True):
                    row[f"{how} at {radius:g}, %"] = round(100 * float(value), 1)
            rows.append(row)
    return pd.DataFrame(rows)
