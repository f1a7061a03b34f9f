"""Adapters of one size, ours and peft's."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from experiments.adapter_tasks import Classifier, Task
from robust_lowrank import AdaLoRA, CondLR, GeoLoRA, LowRankOptimizer, adapt
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.methods import Method

HEAD_RATE = 1e-3  # of the classifier, whatever the updates have
RANK, FIRST_RANK, ALPHA = 4, 8, 16.0  # of a layer on average; that AdaLoRA starts from; of LoRA and AdaLoRA
SHARED_RANK = 3.5  # that GeoLoRA shares out, a layer on average: large layers ask for more of it, and have more parameters a rank


class Adapted(NamedTuple):
    """A network with updates, its optimizer, what follows a step, and how many numbers its updates consist of."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    after: Callable[[int], object]
    size: Callable[[], int]


class Row(NamedTuple):
    """A method: how a network gets its updates, and the learning rate to try first, or the row whose rate it takes.

    `None`: there are no updates, and no rate to choose.
    """

    wrap: Callable[[Task, Classifier, float, int], Adapted]
    rate: float | str | None


def triplets(p: Tensor, values: Tensor, q: Tensor) -> int:
    """Return how many numbers the triplets p_i values_i q_i take, p (n, r) and q (m, r), of which none is zero."""
    return int(values.count_nonzero()) * (len(p) + len(q) + 1)


def ours(method: Callable[[int, int], Method | str], rank: int, alpha: float = 1.0) -> Callable[..., Adapted]:
    """Return how `adapt` wraps a network; `method` is given the number of layers and of steps."""

    def wrap(task: Task, network: Classifier, rate: float, steps: int) -> Adapted:
        head = list(network.head.parameters())
        chosen = method(len(task.layers), steps)
        adapt(network, method=chosen, rank=rank, alpha=alpha, include=list(task.layers), trainable=[r"head\..*"])
        groups = [{"params": head, "lr": HEAD_RATE}]
        optimizer = LowRankOptimizer(network, torch.optim.AdamW, lr=rate, weight_decay=0.0, groups=groups)

        def size() -> int:
            factors = [layer.all_factors() for _, layer in named_factored_layers(network)]
            if isinstance(chosen, AdaLoRA):
                return sum(triplets(*each) for each in factors)
            return sum(factor.numel() for each in factors for factor in each)

        return Adapted(network, optimizer, lambda step: None, size)

    return wrap


def peft(adaptive: bool) -> Callable[..., Adapted]:
    """Return how peft wraps a network by LoRA or AdaLoRA."""

    def wrap(task: Task, network: Classifier, rate: float, steps: int) -> Adapted:
        from peft import AdaLoraConfig, LoraConfig, get_peft_model

        head = list(network.head.parameters())
        common = {"target_modules": list(task.layers), "lora_alpha": ALPHA, "lora_dropout": 0.0}
        falling = {"total_step": steps, "tinit": steps // 6, "tfinal": steps // 3, "deltaT": 10}
        config = AdaLoraConfig(init_r=FIRST_RANK, target_r=RANK, **falling, **common) if adaptive else LoraConfig(r=RANK, **common)
        tuner = get_peft_model(network, config).base_model  # the tuner's own forward adds the penalty of AdaLoRA
        for parameter in head:
            parameter.requires_grad_(True)
        kept = {id(parameter) for parameter in head}
        factors = {name: each for name, each in tuner.named_parameters() if each.requires_grad and id(each) not in kept}
        groups = [{"params": list(factors.values())}, {"params": head, "lr": HEAD_RATE}]
        optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)

        def size() -> int:
            if not adaptive:
                return sum(each.numel() for each in factors.values())
            values = [name for name in factors if "lora_E" in name]
            sides = [[factors[name.replace("lora_E", side)] for side in ("lora_A", "lora_B")] for name in values]
            return sum(triplets(a.T, factors[name], b) for name, (a, b) in zip(values, sides, strict=True))

        return Adapted(tuner, optimizer, tuner.update_and_allocate if adaptive else lambda step: None, size)

    return wrap


def head_alone(task: Task, network: Classifier, rate: float, steps: int) -> Adapted:
    """Return the network with a head to train and nothing else."""
    network.features.requires_grad_(False)
    return Adapted(
        network, torch.optim.AdamW(network.head.parameters(), lr=HEAD_RATE, weight_decay=0.0), lambda step: None, lambda: 0
    )


def falling_budget(layers: int, steps: int) -> AdaLoRA:
    """Return AdaLoRA that ends with RANK triplets a layer, on average."""
    return AdaLoRA(budget=RANK * layers, steps=steps, warmup=steps // 6, settle=steps // 3, interval=10)


METHODS = {
    "LoRA": Row(ours(lambda layers, steps: "lora", RANK, ALPHA), 1e-3),
    "AdaLoRA": Row(ours(falling_budget, FIRST_RANK, ALPHA), 3e-3),
    "GeoLoRA": Row(ours(lambda layers, steps: GeoLoRA(budget=round(SHARED_RANK * layers)), RANK), 1e-4),
    "CondLR": Row(ours(lambda layers, steps: CondLR(), RANK), 1e-4),
    "peft's LoRA": Row(peft(adaptive=False), "LoRA"),
    "peft's AdaLoRA": Row(peft(adaptive=True), "AdaLoRA"),
    "head alone": Row(head_alone, None),
}
