"""one training step of ResNet-20 (batch 64, rank 0.25), relative to dense SGD (median of 5 rounds)"""

import pandas as pd
import torch
from torch import nn

from benchmarks.timing import medians
from robust_lowrank import DLRT, TDLRT, CondLR, GeoLoRA, LowRankOptimizer, Vanilla, compress
from robust_lowrank.models import build, classifier

METHODS = {
    "vanilla": Vanilla(),
    "condlr": CondLR(),
    "condlr polar": CondLR(retraction="polar"),
    "dlrt fixed": DLRT(),
    "dlrt tol=0.1": DLRT(tol=0.1),
    "tdlrt tol=0.1": TDLRT(tol=0.1),
    "geolora tol=0.1": GeoLoRA(tol=0.1),
}


def run() -> pd.DataFrame:
    x, y = torch.rand(64, 3, 32, 32), torch.randint(0, 10, (64,))

    def stepper(method: object):
        torch.manual_seed(0)
        net = build("resnet20", input_shape=(3, 32, 32), num_classes=10)
        if method is not None:
            compress(net, method=method, rank=0.25, exclude=[classifier(net)], init="kaiming")
        opt = LowRankOptimizer(net, torch.optim.SGD, lr=0.01, momentum=0.9)

        def closure():
            opt.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            return loss

        return lambda: opt.step(closure), lambda: closure(), opt.evaluations_per_step

    built = {name: stepper(method) for name, method in {"dense": None, **METHODS}.items()}
    times = medians({name: step for name, (step, _, _) in built.items()}, rounds=5, warmup=1)
    passes = medians({name: closure for name, (_, closure, _) in built.items()}, rounds=5, warmup=1)
    return pd.DataFrame(
        {
            "method": name,
            "evaluations": built[name][2],
            "step / dense step": f"{time / times['dense']:.2f}",
            "one pass / dense pass": f"{passes[name] / passes['dense']:.2f}",
            "step ms": f"{1000 * time:.0f}",
        }
        for name, time in times.items()
    )
