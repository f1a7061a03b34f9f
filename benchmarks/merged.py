"""forward and backward of merged weights, relative to the dense layer (median of 15 rounds)"""

import copy
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.timing import medians
from robust_lowrank import compress
from robust_lowrank.layers import named_factored_layers


class Attention(nn.Module):
    """Self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(256, 4, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        return self.attention(x, x, x, need_weights=False)


CASES = {
    "LSTM 256, 32 x 32": (lambda: nn.LSTM(256, 256, batch_first=True), (32, 32, 256)),
    "GRU 128, two layers, 32 x 16": (lambda: nn.GRU(128, 128, 2, batch_first=True), (32, 16, 128)),
    "attention 256, 16 x 64": (Attention, (16, 64, 256)),
    "transposed 64->64 3x3, 16x16x16": (lambda: nn.ConvTranspose2d(64, 64, 3, stride=2), (16, 64, 16, 16)),
    "4 groups 64->64 3x3, 32x32x32": (lambda: nn.Conv2d(64, 64, 3, groups=4, padding=1), (32, 64, 32, 32)),
    "depthwise 256 7x7, 8x14x14": (lambda: nn.Conv2d(256, 256, 7, groups=256, padding=3), (8, 256, 14, 14)),
}
RANKS = (0.1, 0.25, 0.5)
KEY, RATIOS = ("layer",), tuple(f"rank {rank}" for rank in RANKS)


def work(layer: nn.Module, x: Tensor) -> None:
    """Run forward and backward."""
    y = layer(x)
    (y[0] if isinstance(y, tuple) else y).sum().backward()


def run() -> pd.DataFrame:
    rows = []
    for case, (build, shape) in CASES.items():
        dense, x = build(), torch.randn(shape)
        alternatives = {"dense": lambda dense=dense, x=x: work(dense, x)}
        for rank in RANKS:
            merged = copy.deepcopy(dense)
            compress(merged, method="dlrt", rank=rank)
            alternatives[f"rank {rank}"] = lambda merged=merged, x=x: work(merged, x)
        times = medians(alternatives)
        ratios = {name: f"{time / times['dense']:.2f}" for name, time in times.items() if name != "dense"}
        blocks = len(list(named_factored_layers(merged)))
        rows.append({"layer": case, "blocks": blocks, "dense ms": f"{1000 * times['dense']:.2f}", **ratios})
    return pd.DataFrame(rows)
