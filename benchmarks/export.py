"""a pass of exports of a compressed network on one thread, relative to the dense one, beside the FLOPs (median CPU seconds)"""

import time

import pandas as pd
import torch

from benchmarks.steps import SHAPES, network_of
from benchmarks.timing import medians, one_thread
from robust_lowrank import compress, export
from robust_lowrank.training.costs import count_flops

RANK = 0.2
NETWORKS = ("lenet5", "resnet20", "vgg11", "vgg16", "resnet18")
BATCHES = (1, 128)
ROUNDS = {1: 101, 128: 7}
KEY, RATIOS = ("network", "batch"), ("factors", "auto", "auto of dense")


@torch.no_grad()
def run() -> pd.DataFrame:
    with one_thread():
        return pd.DataFrame(row(network, batch) for network in NETWORKS for batch in BATCHES)


def row(network: str, batch: int) -> dict[str, str]:
    """Return the ratios of one network at one batch size."""
    (dense, last), (compressed, _) = network_of(network), network_of(network)
    x = torch.rand(batch, *SHAPES.get(network, (3, 32, 32)))
    compress(compressed, method="condlr", rank=RANK, exclude=[last])
    for net in (dense, compressed):
        net.eval()
    forms = {
        "dense": dense,
        "factors": export(compressed, to="factors"),
        "auto": export(compressed, to="auto", example_input=x),
        "auto of dense": export(dense, to="auto", example_input=x),
    }
    flops = {form: count_flops(net, x) for form, net in forms.items()}
    turns = {form: lambda net=net: net(x) for form, net in forms.items()}
    times = medians(turns, rounds=ROUNDS[batch], clock=time.process_time)
    ratios = {form: f"{times[form] / times['dense']:.2f}" for form in RATIOS}
    share = {"FLOPs of auto": f"{flops['auto'] / flops['dense']:.2f}"}
    return {"network": network, "batch": str(batch), "dense ms": f"{1000 * times['dense']:.2f}", **ratios, **share}
