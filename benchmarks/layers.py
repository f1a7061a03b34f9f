"""forward and backward of one layer, relative to the dense one (median of 15 rounds)"""

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import medians
from robust_lowrank import compress
from robust_lowrank.layers import LowRankConv, LowRankLinear

CASES = {
    "linear 1024x1024, batch 256": (nn.Linear(1024, 1024), (256, 1024)),
    "conv 64->64 3x3, 32x16x16": (nn.Conv2d(64, 64, 3, padding=1), (32, 64, 16, 16)),
    "conv 128->128 3x3, 32x8x8": (nn.Conv2d(128, 128, 3, padding=1), (32, 128, 8, 8)),
}
KEY, RATIOS = ("layer", "rank"), ("U S V^T", "A B^T", "Tucker")


def autograd(layer: LowRankLinear | LowRankConv, x: Tensor) -> Tensor:
    """The same map through ordinary autograd, which gives the gradients of U, S and V instead of the projected ones."""
    if isinstance(layer, LowRankLinear):
        return F.linear(x @ layer.V @ layer.S.T, layer.U, layer.bias)
    filters = layer.V.T.reshape(-1, layer.shape.channels, *layer.shape.kernel)
    a = F.conv2d(x, filters, None, *layer.shape.geometry)
    return F.conv2d(F.conv2d(a, layer.S[:, :, None, None]), layer.U[:, :, None, None], layer.bias)


def unfolded(layer: LowRankConv, x: Tensor) -> Tensor:
    """The same convolution on unfolded patches, as the released codes of CondLR and DLRT compute it."""
    stride, padding, dilation = layer.shape.geometry
    patches = F.unfold(x, layer.shape.kernel, dilation, padding, stride).mT
    y = F.linear(patches @ layer.V @ layer.S.T, layer.U, layer.bias)
    return y.mT.reshape(x.shape[0], -1, *x.shape[2:])


def run() -> pd.DataFrame:
    rows = []
    for case, (dense, shape) in CASES.items():
        x = torch.randn(shape, requires_grad=True)
        for rank in (0.1, 0.25, 0.5):
            alternatives = {"dense": lambda dense=dense, x=x: dense(x).sum().backward()}
            for method in ("dlrt", "vanilla", "tdlrt"):
                if method == "tdlrt" and isinstance(dense, nn.Linear):
                    continue
                net = nn.Sequential(dense)
                compress(net, method=method, rank=rank)
                alternatives[method] = lambda net=net, x=x: net(x).sum().backward()
                if method == "dlrt":
                    layer = net[0]
                    alternatives["autograd"] = lambda layer=layer, x=x: autograd(layer, x).sum().backward()
                    if isinstance(layer, LowRankConv):
                        alternatives["unfold"] = lambda layer=layer, x=x: unfolded(layer, x).sum().backward()
            times = medians(alternatives)
            names = {"dlrt": "U S V^T", "vanilla": "A B^T", "tdlrt": "Tucker"}
            ratios = {names.get(name, name): f"{time / times['dense']:.2f}" for name, time in times.items() if name != "dense"}
            rows.append({"layer": case, "rank": rank, "dense ms": f"{1000 * times['dense']:.2f}", **ratios})
    return pd.DataFrame(rows).fillna("")
