"""Small networks with random weights, and what adapts and trains them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robust_lowrank as rlr

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
IDS = torch.arange(18).reshape(2, 9) % 40
METHODS: dict[str, Any] = {
    **{name: name for name in ("geolora", "condlr", "lora", "stella", "rgd", "scaled-lora", "usv", "vanilla")},
    "adalora": rlr.AdaLoRA(budget=10, steps=5),
    "geolora cond": rlr.GeoLoRA(cond=3.0),
}


def bert() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 40, "max_position_embeddings": 16}
    config = transformers.BertConfig(num_attention_heads=2, num_labels=3, **sizes)
    return transformers.BertForSequenceClassification(config).eval()


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=50, n_embd=24, n_layer=2, n_head=2, n_positions=16)
    ).eval()


def vision() -> nn.Module:
    """Convolutions as PEFT knows them, a normalisation whose statistics move, and layers whose names end others'."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 6, (1, 3), stride=(1, 2), padding=(0, 1)), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 1)),
        *(nn.ReLU(), nn.Conv2d(8, 8, 3, padding="same"), nn.ReLU(), nn.Flatten(1, 2), nn.Conv1d(64, 10, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(20, 12), nn.ReLU(), nn.Sequential(nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 4))),
    ).eval()


def logits(model: nn.Module, x: Tensor) -> Tensor:
    found = model(x)
    return (found if isinstance(found, Tensor) else found.logits).detach()


def trained(model: nn.Module, x: Tensor, steps: int = 4) -> nn.Module:
    optimizer = rlr.LowRankOptimizer(model, torch.optim.AdamW, lr=0.02)

    def closure() -> Tensor:
        optimizer.zero_grad()
        found = model(x)
        loss = (found if isinstance(found, Tensor) else found.logits).square().mean()
        loss.backward()
        return loss.detach()

    for _ in range(steps):
        optimizer.step(closure)
    optimizer.finish()
    return model


def under_peft(base: nn.Module, path: Path) -> nn.Module:
    return peft.PeftModel.from_pretrained(copy.deepcopy(base), path).eval()
