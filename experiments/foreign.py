"""Networks compressed by other tools, for a board: `python -m experiments.foreign RUN OUT`.

Each function of `COMPRESSORS` takes the dense network of a run and returns it compressed: pruned by torch and by torch-pruning,
quantised by torch.ao and to shared weights by scikit-learn, factorised by tensorly and by a truncated SVD, distilled. What loses
much is tuned for an epoch as its network was trained, on perturbed inputs. Every network is written as an exported program, which
`rlr-eval attack --model` takes as it would anybody's. `pip install tensorly torch-pruning` for the tools that are not there.
"""

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from robust_lowrank import records, training
from robust_lowrank.exporting.programs import write_program
from robust_lowrank.models import build
from robust_lowrank.threat import threat
from robust_lowrank.training.adversarial import fgsm

Tune = Callable[[nn.Module], None]
Compressor = Callable[[nn.Module, Tune, Tensor], nn.Module]


def weighted(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return a network's convolutions and linear layers by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}


def pruned(share: float) -> Compressor:
    """Set the smallest weights of all layers together to zero, with torch.nn.utils.prune (Han et al. 2015)."""

    def compress(model: nn.Module, tune: Tune, x: Tensor) -> nn.Module:
        parts = [(layer, "weight") for layer in weighted(model).values()]
        prune.global_unstructured(parts, pruning_method=prune.L1Unstructured, amount=share)
        tune(model)
        for layer, name in parts:
            prune.remove(layer, name)
        return model

    return compress


def channels_pruned(share: float) -> Compressor:
    """Take whole channels out, those of the smallest norm, with torch-pruning (Fang et al. 2023)."""

    def compress(model: nn.Module, tune: Tune, x: Tensor) -> nn.Module:
        import torch_pruning  # pyright: ignore[reportMissingImports]

        last = list(weighted(model).values())[-1]
        importance = torch_pruning.importance.MagnitudeImportance(p=2)
        pruner = torch_pruning.pruner.BasePruner(model, x[:1], importance=importance, pruning_ratio=share, ignored_layers=[last])
        pruner.step()
        tune(model)
        return model

    return compress


def quantised(bits: int) -> Compressor:
    """Round weights to so many bits with a scale for each output, as torch.ao does (Jacob et al. 2018); activations stay."""

    def compress(model: nn.Module, tune: Tune, x: Tensor) -> nn.Module:
        from torch.ao.quantization import PerChannelMinMaxObserver

        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        with torch.no_grad():
            for layer in weighted(model).values():
                observer = PerChannelMinMaxObserver(0, torch.qint8, torch.per_channel_symmetric, quant_min=low, quant_max=high)
                observer(layer.weight)
                scale, zero = observer.calculate_qparams()
                layer.weight.copy_(torch.fake_quantize_per_channel_affine(layer.weight, scale, zero.int(), 0, low, high))
        return model

    return compress


def shared(count: int) -> Compressor:
    """Replace the weights of each layer by the nearest of a few values, with k-means of scikit-learn (Han et al. 2016)."""

    def compress(model: nn.Module, tune: Tune, x: Tensor) -> nn.Module:
        from sklearn.cluster import KMeans

        with torch.no_grad():
            for layer in weighted(model).values():
                values = layer.weight.detach().numpy().reshape(-1, 1)
                clusters = KMeans(count, n_init="auto", max_iter=50, random_state=0).fit(values)
                layer.weight.copy_(torch.from_numpy(clusters.cluster_centers_[clusters.labels_].reshape(layer.weight.shape)))
        return model

    return compress


def _factorised(layer: nn.Linear, rank: int) -> nn.Sequential:
    u, s, vt = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    first, second = nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, layer.out_features)
    with torch.no_grad():
        first.weight.copy_(s[:rank].sqrt()[:, None] * vt[:rank])
        second.weight.copy_(u[:, :rank] * s[:rank].sqrt())
        second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


def _replaced(model: nn.Module, make: Callable[[nn.Conv2d | nn.Linear], nn.Module]) -> nn.Module:
    layers = list(weighted(model).items())
    for name, layer in layers[:-1]:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, make(layer))
    return model


def truncated(share: float) -> Compressor:
    """Replace linear layers by two, a truncated SVD (Denil et al. 2013); convolutions stay."""

    def compress(model: nn.Module, tune: Tune, x: Tensor) -> nn.Module:
        def make(layer: nn.Conv2d | nn.Linear) -> nn.Module:
            return _factorised(layer, max(1, int(share * min(layer.weight.shape)))) if isinstance(layer, nn.Linear) else layer

        _replaced(model, make)
        tune(model)
        return model

    return compress


def tucker(share: float) -> Compressor:
    """Replace convolutions by three, a Tucker decomposition of channels by tensorly (Kim et al. 2016), linear layers by two."""

    def compress(model: nn.Module, tune: Tune, x: Tensor) -> nn.Module:
        import tensorly  # pyright: ignore[reportMissingImports]
        from tensorly.decomposition import partial_tucker  # pyright: ignore[reportMissingImports]

        tensorly.set_backend("numpy")

        def make(layer: nn.Conv2d | nn.Linear) -> nn.Module:
            if isinstance(layer, nn.Linear):
                return _factorised(layer, max(1, int(share * min(layer.weight.shape))))
            outs, ins = layer.weight.shape[:2]
            ranks = [max(1, int(share * outs)), max(1, int(share * ins))]
            (core, (left, right)), _ = partial_tucker(layer.weight.detach().numpy(), rank=ranks, modes=[0, 1])
            first = nn.Conv2d(ins, ranks[1], 1, bias=False)
            geometry: dict[str, Any] = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
            middle = nn.Conv2d(ranks[1], ranks[0], **geometry, bias=False)
            last = nn.Conv2d(ranks[0], outs, 1)
            with torch.no_grad():
                first.weight.copy_(_tensor(right.T)[:, :, None, None])
                middle.weight.copy_(_tensor(core))
                last.weight.copy_(_tensor(left)[:, :, None, None])
                last.bias.copy_(layer.bias)  # pyright: ignore[reportArgumentType, reportOptionalMemberAccess]
            return nn.Sequential(first, middle, last)

        _replaced(model, make)
        tune(model)
        return model

    return compress


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def distilled(teacher: nn.Module, tune: Tune, x: Tensor) -> nn.Module:
    """Train a perceptron to answer as the network does, on the given inputs and noise around them (Hinton et al. 2015)."""
    torch.manual_seed(0)
    student = build("mlp", input_shape=(x.shape[1], x.shape[2], x.shape[3]), num_classes=10)
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    for epoch in range(5):
        for batch in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(128):
            inputs = (x[batch] + 0.1 * torch.randn_like(x[batch])).clamp(0, 1)
            with torch.no_grad():
                due = teacher(inputs)
            optimizer.zero_grad()
            nn.functional.mse_loss(student(inputs), due).backward()
            optimizer.step()
    return student.eval()


COMPRESSORS: dict[str, Compressor] = {
    "torch.prune L1 50%": pruned(0.5),
    "torch.prune L1 80%": pruned(0.8),
    "torch.prune L1 95%": pruned(0.95),
    "torch-pruning channels 50%": channels_pruned(0.5),
    "torch.ao int8 weights": quantised(8),
    "torch.ao int4 weights": quantised(4),
    "k-means 16 weights": shared(16),
    "k-means 4 weights": shared(4),
    "SVD 20%": truncated(0.2),
    "tensorly Tucker 50%": tucker(0.5),
    "tensorly Tucker 25%": tucker(0.25),
    "distilled perceptron": distilled,
}


def tuner(x: Tensor, y: Tensor, eps: float, lr: float = 0.02) -> Tune:
    """Return what trains a network for an epoch on inputs perturbed by FGSM, as a dense one was trained."""

    def tune(model: nn.Module) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
        budget = threat("Linf", eps, features=x[0].numel())
        model.train()
        for batch in torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).split(128):
            inputs = fgsm(model, x[batch], y[batch], budget)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), y[batch]).backward()
            optimizer.step()
        model.eval()

    return tune


def main() -> None:
    """Compress the network of a run by every tool, and write the programs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="run directory of a dense network")
    parser.add_argument("out", type=Path, help="directory of the programs")
    arguments = parser.parse_args()
    model = training.load_network(arguments.run)
    config = training.config_of(records.read_run(arguments.run, results=False).record)
    if not isinstance(config, training.TrainConfig) or config.training.adversarial is None:
        parser.error(f"{arguments.run} was not trained here on perturbed inputs")
    data = config.data.load()
    tune = tuner(data.train_x, data.train_y, config.training.adversarial.eps)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, compress in COMPRESSORS.items():
        torch.manual_seed(0)
        compressed = compress(copy.deepcopy(model).eval(), tune, data.train_x[:2000] if compress is not distilled else data.train_x)
        with torch.no_grad():
            accuracy = float((compressed(data.test_x).argmax(dim=1) == data.test_y).float().mean())
        print(f"{name}: {accuracy:.1%} on all test images", file=sys.stderr)
        write_program(compressed.eval(), data.test_x[:2], arguments.out / f"{name.replace('%', '').replace(' ', '-')}.pt2")


if __name__ == "__main__":
    main()
