"""one training step of adapters on one thread, relative to LoRA of peft (median CPU seconds)"""

import time
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.steps import network_of
from benchmarks.timing import medians, one_thread
from robust_lowrank import AdaLoRA, CondLR, GeoLoRA, LowRankOptimizer, UserError, adapt
from robust_lowrank.methods import Method

RANK, BATCH, TOKENS, CLASSES, LR = 8, 16, 32, 10, 1e-4
TARGETS = ("query", "key", "value", "out", "fc1", "fc2", "dense")  # by the ends of their names, in both networks
METHODS: dict[str, str | Method] = {
    "lora": "lora",
    "adalora": "adalora",
    "geolora": GeoLoRA(tol=None),
    "geolora tol": GeoLoRA(),
    "condlr": CondLR(),
}
KEY, RATIOS = ("network",), tuple(METHODS)
Network = tuple[nn.Module, Callable[[], Tensor]]


def vit_s() -> Network:
    """Return a transformer of images, and its loss on a batch of 32 x 32."""
    net, _ = network_of("vit-s")
    x, y = torch.rand(BATCH, 3, 32, 32), torch.randint(0, CLASSES, (BATCH,))
    return net, lambda: cross_entropy(net(x), y)


def minilm() -> Network:
    """Return a transformer of texts of MiniLM's size with drawn weights, and its loss on a batch of 32 tokens."""
    try:
        from transformers import BertConfig, BertForSequenceClassification
    except ImportError as error:
        raise UserError("the network of this benchmark comes from transformers: pip install transformers") from error
    torch.manual_seed(0)
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    net = BertForSequenceClassification(BertConfig(num_labels=CLASSES, **sizes))
    x, y = torch.randint(0, 30000, (BATCH, TOKENS)), torch.randint(0, CLASSES, (BATCH,))
    return net, lambda: net(input_ids=x, labels=y).loss


NETWORKS: dict[str, Callable[[], Network]] = {"vit-s": vit_s, "minilm": minilm}


def _targets(net: nn.Module) -> list[str]:
    return [name for name, each in net.named_modules() if isinstance(each, nn.Linear) and name.split(".")[-1] in TARGETS]


def ours(name: str, method: str | Method) -> Callable[[], Any]:
    """Return a function that takes a step of this package's adapters."""
    net, loss = NETWORKS[name]()
    targets = _targets(net)
    if method == "adalora":
        method = AdaLoRA(budget=len(targets) * RANK // 2, steps=1000, warmup=0, settle=10, interval=1)
    adapt(net, method=method, rank=RANK, include=targets)
    opt = LowRankOptimizer(net, torch.optim.AdamW, lr=LR)

    def step() -> None:
        opt.zero_grad()
        loss().backward()
        opt.step()

    return step


def theirs(name: str, kind: str) -> Callable[[], Any]:
    """Return a function that takes a step of peft's LoRA or AdaLoRA."""
    try:
        import peft
    except ImportError as error:
        raise UserError("this benchmark compares with peft: pip install peft") from error
    net, loss = NETWORKS[name]()
    options = {"lora_alpha": RANK, "target_modules": _targets(net), "lora_dropout": 0.0}
    config = (
        peft.LoraConfig(r=RANK, **options)
        if kind == "lora"
        else peft.AdaLoraConfig(init_r=RANK, target_r=RANK // 2, tinit=0, tfinal=10, total_step=1000, **options)
    )
    model: Any = peft.get_peft_model(net, config)  # pyright: ignore[reportArgumentType]
    opt = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=LR)
    taken = 0

    def step() -> None:
        nonlocal taken
        opt.zero_grad()
        loss().backward()
        opt.step()
        taken += 1
        if kind == "adalora":
            model.base_model.update_and_allocate(taken)

    return step


def run() -> pd.DataFrame:
    with one_thread():
        return pd.DataFrame(row(name) for name in NETWORKS)


def row(name: str) -> dict[str, str]:
    """Return the ratios on one network."""
    steps = {f"peft {kind}": theirs(name, kind) for kind in ("lora", "adalora")}
    steps |= {label: ours(name, method) for label, method in METHODS.items()}
    times = medians(steps, rounds=9, warmup=2, clock=time.process_time)
    ratios = {way: f"{times[way] / times['peft lora']:.2f}" for way in steps if way != "peft lora"}
    return {"network": name, "peft lora ms": f"{1000 * times['peft lora']:.0f}", **ratios}
