"""Pretrained networks with data to adapt them to: MiniLM and SST-2, a ViT-S/14 and CIFAR-10."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.nn.utils.rnn import pad_sequence

from robust_lowrank import UserError, data

TOKENS, SIDE = 64, 42


class Part(NamedTuple):
    """Inputs, labels, and lengths by which examples are put into one batch."""

    x: Tensor
    y: Tensor
    lengths: Tensor


class Classifier(nn.Module):
    """Features and a linear head; the loss is among the outputs, because peft's AdaLoRA adds its penalty to it there."""

    def __init__(self, features: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor, y: Tensor) -> SimpleNamespace:
        """Return the loss and the logits (B, classes) for inputs and labels of B examples."""
        logits = self.head(self.features(x))
        return SimpleNamespace(loss=cross_entropy(logits, y), logits=logits)


@dataclass(frozen=True)
class Task:
    """A pretrained network with a head, the layers that get updates, and data; `prepare` makes a batch of inputs ready."""

    network: Classifier
    layers: tuple[str, ...]
    batch: int
    prepare: Callable[[Tensor], Tensor]
    train: Part
    validation: Part
    test: Part


class Sentences(nn.Module):
    """The mean of a BERT's last states over the tokens of a sentence, where 0 is no token."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, tokens: Tensor) -> Tensor:
        """Return features (B, width) of tokens (B, length)."""
        mask = tokens.ne(0)
        states = self.bert(input_ids=tokens, attention_mask=mask).last_hidden_state
        return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def trim(tokens: Tensor) -> Tensor:
    """Return tokens without the columns that no sentence reaches."""
    return tokens[:, : int(tokens.ne(0).sum(1).max())]


def enlarge(images: Tensor) -> Tensor:
    """Return images of bytes as a network of ImageNet wants them, SIDE pixels wide."""
    mean, deviation = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    large = interpolate(data.unit_range(images), (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
    return (large - mean) / deviation


def linear_layers(network: nn.Module, inside: str) -> tuple[str, ...]:
    """Return the names of the linear layers in a part of a network."""
    return tuple(name for name, each in network.named_modules() if name.startswith(inside) and isinstance(each, nn.Linear))


def sst2(folder: Path, weights: Path) -> Task:
    """Return MiniLM and the sentences of SST-2; the last 1,000 of its training part are for validation."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(weights, local_files_only=True)

    def read(name: str) -> Part:
        try:
            table = pd.read_csv(folder / name, sep="\t", quoting=csv.QUOTE_NONE)
            sentences, labels = table["sentence"].tolist(), table["label"].to_numpy(dtype="int64")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder / name} is no part of SST-2: tab-separated, with columns sentence and label") from error
        ids = tokenizer(sentences, truncation=True, max_length=TOKENS)["input_ids"]
        x = pad_sequence([torch.tensor(each) for each in ids], batch_first=True)
        return Part(x, torch.tensor(labels), x.ne(0).sum(1))

    whole, test = read("train.tsv"), read("dev.tsv")
    train, validation = (Part(*(each[some] for each in whole)) for some in (slice(-1000), slice(-1000, None)))
    bert = AutoModel.from_pretrained(weights, local_files_only=True, add_pooling_layer=False)
    network = Classifier(Sentences(bert), bert.config.hidden_size, 2)
    return Task(network, linear_layers(network, "features.bert.encoder"), 32, trim, train, validation, test)


def cifar10(folder: Path, weights: Path) -> Task:
    """Return a ViT-S/14 and CIFAR-10: images 0 to 44,999, the next 1,000 for validation, and the first 1,000 test images."""
    import timm

    images = data.load("cifar10", data_dir=folder)

    def part(x: Tensor, y: Tensor, some: slice) -> Part:
        return Part(x[some], y[some], torch.zeros_like(y[some]))

    train = part(images.train_images, images.train_y, slice(45000))
    validation = part(images.train_images, images.train_y, slice(45000, 46000))
    test = part(images.test_images, images.test_y, slice(1000))
    overlay = {"file": str(weights)}
    name = "vit_small_patch14_dinov2"
    vit = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=SIDE)
    network = Classifier(vit, vit.num_features, 10)
    return Task(network, linear_layers(network, "features.blocks"), 16, enlarge, train, validation, test)


TASKS = {"sst2": sst2, "cifar10": cifar10}
