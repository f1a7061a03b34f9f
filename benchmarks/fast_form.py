"""32 rows through the fast form on which attacks search, relative to the network as it is (one thread, median CPU seconds)"""

import time
from collections.abc import Callable

import pandas as pd
import torch

from benchmarks.steps import SHAPES, network_of
from benchmarks.timing import medians, one_thread
from robust_lowrank import CondLR, compress
from robust_lowrank.evaluation.attacks.gradients import input_gradient
from robust_lowrank.evaluation.network.fixed_batch import PIECE, FixedBatch
from robust_lowrank.evaluation.network.searching import network_to_search
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.threat import frozen_eval

NETWORKS = ("lenet5", "resnet20", "vgg11", "resnet18", "vit-s")
RANKS = (None, 0.2, 0.5)  # None: dense
ROUNDS = {"lenet5": 31, "resnet20": 9}  # 5 elsewhere
KEY, RATIOS = ("network", "rank"), ("gradient", "forward")


def run() -> pd.DataFrame:
    with one_thread():
        return pd.DataFrame(row(network, rank) for network in NETWORKS for rank in RANKS)


def row(name: str, rank: float | None) -> dict[str, str]:
    """Return the ratios of one network."""
    net, last = network_of(name)
    x, y = torch.rand(PIECE["cpu"], *SHAPES.get(name, (3, 32, 32))), torch.zeros(PIECE["cpu"], dtype=torch.int64)
    if rank is not None:
        compress(net, method=CondLR(), rank=rank, exclude=[last])
    with frozen_eval(net):
        network = FixedBatch(Target(net, x))
        forms = {"network": network, "form": network_to_search(network, x)}
        gradient = _seconds({name: lambda form=form: input_gradient(form, x, y) for name, form in forms.items()}, name)
        with torch.no_grad():
            forward = _seconds({name: lambda form=form: form(x) for name, form in forms.items()}, name)
    ratios = {kind: f"{times['form'] / times['network']:.2f}" for kind, times in (("gradient", gradient), ("forward", forward))}
    about = {"network": name, "rank": "dense" if rank is None else str(rank), "gradient ms": f"{1000 * gradient['network']:.0f}"}
    return about | ratios


def _seconds(turns: dict[str, Callable[[], object]], network: str) -> dict[str, float]:
    return medians(turns, rounds=ROUNDS.get(network, 5), clock=time.process_time)
