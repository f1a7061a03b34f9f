"""Copies of one network are trained on shares of the same batches."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

import robust_lowrank as rlr
from robust_lowrank.errors import TrainingError, UserError
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.linalg import FactorisationError
from robust_lowrank.optim.processes import whole

STEPS = 20
METHODS: dict[str, Any] = {
    "condlr": "condlr",
    "stella": "stella",
    "dlrt": rlr.DLRT(tol=0.3),
    "dlrt of fixed rank": rlr.DLRT(tol=None),
    "dlrt with a bound": rlr.DLRT(tol=0.1, cond=5.0),
    "dlrt by the network": rlr.DLRT(tol=0.1, threshold="network"),
    "tdlrt": rlr.TDLRT(tol=0.3),
    "robust-dlrt": "robust-dlrt",
    "geolora": rlr.GeoLoRA(tol=0.3),
    "vanilla": "vanilla",
    "adalora": rlr.AdaLoRA(budget=2, steps=STEPS),
}
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, float]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.01}),
}


@dataclass(frozen=True)
class Case:
    """A training: which method, by which optimizer, and what is unusual about it."""

    method: str
    optimizer: str = "SGD"
    step: str = "exact"
    moments: str = "tangent"
    unusual: str = ""  # `wrapped`, `clipped`, `accumulated`, `scaled`, `short`


def network() -> nn.Sequential:
    """Return a small network with a convolution, running statistics and layers that can be factored."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 9, 48),
        nn.ReLU(),
        nn.Linear(48, 4),
    ).double()


def batches(first: int, last: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of some steps."""
    for step in range(first, last):
        draw = torch.Generator().manual_seed(step)
        x = torch.rand(24, 1, 8, 8, generator=draw).double()
        yield x, (x[:, 0, :4, :4].mean((1, 2)) * 400).long() % 4


class Training:
    """A copy of the network with its optimizer, on one of several processes or alone."""

    def __init__(self, case: Case, rank: int = 0, size: int = 1) -> None:
        self.case, self.rank, self.size = case, rank, size
        self.model = network()
        if case.method in ("adalora", "stella"):
            rlr.adapt(self.model, method=METHODS[case.method], rank=4, include=["6"])
        else:
            rlr.compress(self.model, method=METHODS[case.method], rank=0.5, exclude=["8"])
        self.model[1].eval()  # or the statistics of one process are not those of the whole batch
        several = size > 1 and case.unusual == "wrapped"
        self.network: nn.Module = nn.parallel.DistributedDataParallel(self.model) if several else self.model
        kind, options = OPTIMIZERS[case.optimizer]
        self.optimizer = rlr.LowRankOptimizer(self.network, kind, step=case.step, moments=case.moments, **options)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=5)
        self.ranks: list[tuple[int, ...]] = []

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.case.unusual == "short"):
            return cross_entropy(self.network(x), y)

    def run(self, first: int, last: int) -> None:
        """Take steps."""
        for x, y in batches(first, last):
            x, y = x.chunk(self.size)[self.rank], y.chunk(self.size)[self.rank]
            if self.case.unusual == "accumulated":
                self.optimizer.zero_grad()
                for part, labels in zip(x.chunk(2), y.chunk(2), strict=True):
                    (self.loss(part, labels) / 2).backward()
                self.optimizer.step()
            elif self.case.unusual == "scaled":
                self.optimizer.zero_grad()
                self.scaler.scale(self.loss(x, y)).backward()
                rlr.average_gradients(self.network)
                self.scaler.unscale_(self.optimizer)
                self.scaler.step(self.optimizer)
                self.scaler.update()
            else:
                self.optimizer.step(lambda x=x, y=y: self.evaluate(x, y))
            self.ranks.append(tuple(layer.rank for _, layer in named_factored_layers(self.model)))

    def evaluate(self, x: Tensor, y: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.loss(x, y)
        loss.backward()
        if self.case.unusual == "clipped":
            rlr.clip_grad_norm_(self.network, 0.1)
        return loss

    def found(self) -> dict[str, Any]:
        """Return all that training has made of the network."""
        weights = {name: layer.dense_weight().detach() for name, layer in named_factored_layers(self.model)}
        return {
            "state": copy.deepcopy(self.model.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "weights": weights | {name: value.detach().clone() for name, value in self.model[8].named_parameters(prefix="8")},
            "ranks": self.ranks,
        }


def trained(case: Case, rank: int = 0, size: int = 1, *, steps: int = STEPS) -> dict[str, Any]:
    """Return what a training comes to."""
    training = Training(case, rank, size)
    training.run(0, steps)
    training.optimizer.truncate()
    return training.found()


def trained_all(rank: int, size: int, cases: list[Case], steps: int) -> list[dict[str, Any]]:
    """Return what several trainings come to, on one of several processes."""
    return [trained(case, rank, size, steps=steps) for case in cases]


def same(one: Any, other: Any) -> bool:
    """Return whether two trees of tensors and numbers are the same, bit for bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the largest difference between the entries of two dicts of tensors."""
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def resumed(rank: int, size: int, case: Case, first: int, last: int, before: dict[str, Any] | None) -> dict[str, Any]:
    """Return what a training comes to that goes on from another's end, by so many processes."""
    training = Training(case, rank, size)
    if before is not None:
        before = copy.deepcopy(before)  # processes that a test starts share the memory of what it gives them
        training.model.load_state_dict(before["state"])
        training.optimizer.load_state_dict(before["optimizer"])
    training.run(first, last)
    return training.found()


class Counted:
    """Counts the numbers that collectives of tensors of real numbers send."""

    def __init__(self) -> None:
        self.reduced = self.broadcast = 0
        self._all_reduce, self._broadcast = dist.all_reduce, dist.broadcast

    def __enter__(self) -> "Counted":
        def all_reduce(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            self.reduced += tensor.numel() if tensor.is_floating_point() else 0
            return self._all_reduce(tensor, *arguments, **options)

        def broadcast(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            self.broadcast += tensor.numel() if tensor.is_floating_point() else 0
            return self._broadcast(tensor, *arguments, **options)

        dist.all_reduce, dist.broadcast = all_reduce, broadcast
        return self

    def __exit__(self, *_: object) -> None:
        dist.all_reduce, dist.broadcast = self._all_reduce, self._broadcast


def counted(rank: int, size: int, method: str, optimizer: str) -> dict[str, int]:
    """Return how many numbers one step sends, and how many there are of each kind of parameter."""
    training = Training(Case(method, optimizer), rank, size)
    training.run(0, 2)  # moments are there
    layers = [layer for _, layer in named_factored_layers(training.model)]
    parameters = sum(p.numel() for p in training.model.parameters())
    bases = sum(basis.numel() for layer in layers for basis in layer.bases())
    squares = sum(rank * (rank + 1) // 2 for layer in layers for rank in layer.ranks())
    factors = bases + sum(layer.core.numel() for layer in layers)
    with Counted() as sent:
        training.run(2, 3)
    return {
        "averaged": sent.reduced,
        "exchanged": sent.broadcast,
        "factors": factors,
        "bases": bases,
        "squares": squares,
        "layers": len(layers),
        "rest": parameters - factors,
    }


def mishaps(rank: int, size: int) -> dict[str, Any]:
    """Return what becomes of trainings in which something goes wrong on the last process alone, or differs between them."""
    last = rank == size - 1
    found: dict[str, Any] = {}

    training = Training(Case("condlr"), rank, size)
    training.run(0, 1)
    before = training.found()
    x, y = next(batches(1, 2))
    found["a gradient of nan"] = _error(lambda: training.optimizer.step(lambda: training.evaluate(x * math.nan if last else x, y)))

    training = Training(Case("dlrt of fixed rank"), rank, size)
    training.run(0, 1)
    before = training.found()
    driver = training.optimizer._driver
    turn = driver.turn

    def failing(layers: Any) -> None:
        turn(layers)
        if last:
            raise FactorisationError("the SVD of layer '6' did not converge")

    driver.turn = failing
    x, y = next(batches(1, 2))
    found["a decomposition"] = _error(lambda: training.optimizer.step(lambda: training.evaluate(x, y)))
    after = training.found()
    found["factors are those before"] = same(before["weights"], after["weights"])
    driver.turn = turn
    training.run(1, 3)
    found["after it"] = training.found()["ranks"]

    torch.manual_seed(0)
    other = nn.Sequential(nn.Linear(8, 8 if last else 6))
    found["networks that differ"] = _error(lambda: rlr.LowRankOptimizer(other, torch.optim.SGD, lr=0.1))

    table = nn.Embedding(4, 2, sparse=True)
    sparse = rlr.LowRankOptimizer(table, torch.optim.SGD, lr=0.1)
    table(torch.tensor([rank])).sum().backward()
    found["a sparse gradient"] = _error(sparse.step)

    branches = nn.ModuleList([nn.Linear(2, 1, bias=False).double() for _ in range(3)])
    optimizer = rlr.LowRankOptimizer(branches, torch.optim.SGD, lr=1.0, weight_decay=0.5)
    for branch in branches:
        branch.weight.data.fill_(1.0)
    (branches[0](torch.ones(1, 2).double()) + (branches[1](torch.ones(1, 2).double()) if last else 0)).sum().backward()
    optimizer.step()
    found["branches"] = [branch.weight.detach().clone() for branch in branches]

    torch.manual_seed(rank)
    statistics = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = rlr.LowRankOptimizer(statistics, torch.optim.SGD, lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        statistics(torch.randn(8, 2)).square().sum().backward()
        optimizer.step()
    found["statistics"] = statistics.state_dict()
    return found


def _error(action: Any) -> str:
    try:
        action()
    except (TrainingError, UserError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def sharded(rank: int, size: int) -> dict[str, Tensor]:
    """Return the trained parameters of adapters on a base that `fully_shard` spreads over processes, with a head that it trains."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).double()
    rlr.adapt(model, method=rlr.GeoLoRA(tol=0.3), rank=4, include=["0", "2"])
    model[4].requires_grad_(True)
    if size > 1:
        factors = {factor for _, layer in named_factored_layers(model) for factor in layer.all_factors()}
        fully_shard(model, mesh=init_device_mesh("cpu", (size,)), ignored_params=factors)
    optimizer = rlr.LowRankOptimizer(model, torch.optim.AdamW, lr=0.01)
    for step in range(10):
        x = torch.rand(8, 16, generator=torch.Generator().manual_seed(step)).double()
        part, labels = x.chunk(size)[rank], ((x.sum(1) * 7).long() % 4).chunk(size)[rank]
        optimizer.zero_grad()
        cross_entropy(model(part), labels).backward()
        rlr.clip_grad_norm_(model, 0.1)
        optimizer.step()
    return {name: whole(p).detach().clone() for name, p in model.named_parameters() if p.requires_grad}
