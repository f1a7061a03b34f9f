"""how often the audit fails networks whose gradients are masked, and honest ones (95 % Wilson intervals)"""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from robust_lowrank import adapt, compress, data, models
from robust_lowrank.evaluation import APGD, PGD, Adversarial, Expected, Suite, check, evaluate, threat
from robust_lowrank.statistics import wilson

EXAMPLES = 128
EPS = {"Linf": 0.1, "L2": 0.5, "L1": 4.0}
GAINED = 0.1  # what an attack on the network without its mask must break beyond the suite's, for the mask to hide anything
Network = Callable[[], nn.Module]


class Task(NamedTuple):
    """Examples, to train on and to attack."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @property
    def classes(self) -> int:
        return int(self.y.max()) + 1


@cache
def digits() -> Task:
    found = data.load("digits")
    return Task(found.train_x, found.train_y, found.test_x[:EXAMPLES], found.test_y[:EXAMPLES])


@cache
def prototypes(classes: int) -> Task:
    """Return noisy images around one random image a class, (1, 8, 8)."""
    generator = torch.Generator().manual_seed(classes)
    centres = torch.rand(classes, 1, 8, 8, generator=generator)
    y = torch.randint(classes, (max(1000, 15 * classes),), generator=generator)
    x = (centres[y] + 0.15 * torch.randn(len(y), 1, 8, 8, generator=generator)).clamp(0, 1)
    return Task(x[EXAMPLES:], y[EXAMPLES:], x[:EXAMPLES], y[:EXAMPLES])


def fit(model: nn.Module, task: Task, *, adversarial: float = 0.0, epochs: int = 8, lr: float = 0.003) -> nn.Module:
    """Train with AdamW, on PGD's inputs where `adversarial` is their Linf radius."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=lr)
    for _ in range(epochs):
        for rows in torch.randperm(len(task.x)).split(64):
            x, y = task.x[rows], task.y[rows]
            moved = x.clone()
            for _ in range(5 if adversarial else 0):
                leaf = moved.requires_grad_()
                (gradient,) = torch.autograd.grad(functional.cross_entropy(model(leaf), y), leaf)
                moved = torch.clamp(leaf.detach() + adversarial / 3 * gradient.sign(), x - adversarial, x + adversarial).clamp(0, 1)
            optimizer.zero_grad()
            functional.cross_entropy(model(moved), y).backward()
            optimizer.step()
    return model.eval()


def cnn(classes: int = 10, activation: type[nn.Module] = nn.ReLU, pool: type[nn.Module] = nn.MaxPool2d) -> nn.Module:
    torch.manual_seed(0)
    features = (nn.Conv2d(1, 16, 3, padding=1), activation(), pool(2), nn.Conv2d(16, 32, 3, padding=1), activation())
    return nn.Sequential(*features, nn.Flatten(), nn.Linear(512, 64), activation(), nn.Linear(64, classes))


def mlp(classes: int = 10, depth: int = 1, width: int = 64) -> nn.Module:
    torch.manual_seed(0)
    hidden = [layer for _ in range(depth - 1) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), *hidden, nn.Linear(width, classes))


def normalised() -> nn.Module:
    torch.manual_seed(0)
    features = (nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten())
    return nn.Sequential(*features, nn.Dropout(0.3), nn.Linear(256, 10))


def named(name: str) -> nn.Module:
    torch.manual_seed(0)
    return models.build(name, input_shape=(1, 8, 8), num_classes=10)


def low_rank(method: str) -> nn.Module:
    model = cnn()
    compress(model, method=method, rank=0.4)
    return model


def adapted() -> nn.Module:
    model = fit(cnn(), digits())
    adapt(model, method="lora", rank=2)
    return model


HONEST: dict[str, tuple[Callable[[], nn.Module], Callable[[], Task], dict[str, float], torch.dtype]] = {
    "cnn": (cnn, digits, {}, torch.float32),
    "tanh": (lambda: cnn(activation=nn.Tanh, pool=nn.AvgPool2d), digits, {}, torch.float32),
    "gelu": (lambda: cnn(activation=nn.GELU), digits, {}, torch.float32),
    "mlp": (mlp, digits, {}, torch.float32),
    "deep mlp": (lambda: mlp(depth=6), digits, {"epochs": 20}, torch.float32),
    "small mlp": (lambda: mlp(width=8), digits, {"epochs": 20}, torch.float32),
    "batch normalisation": (normalised, digits, {}, torch.float32),
    "residual": (lambda: named("resnet20"), digits, {"epochs": 3}, torch.float32),
    "transformer": (lambda: named("vit"), digits, {"epochs": 6}, torch.float32),
    "condlr": (lambda: low_rank("condlr"), digits, {}, torch.float32),
    "tdlrt": (lambda: low_rank("tdlrt"), digits, {}, torch.float32),
    "vanilla low rank": (lambda: low_rank("vanilla"), digits, {}, torch.float32),
    "adapter": (adapted, digits, {}, torch.float32),
    "adversarial cnn": (cnn, digits, {"adversarial": 0.1, "epochs": 12}, torch.float32),
    "adversarial mlp": (lambda: mlp(width=256), digits, {"adversarial": 0.1, "epochs": 12}, torch.float32),
    "bf16 cnn": (cnn, digits, {}, torch.bfloat16),
    "bf16 mlp": (mlp, digits, {}, torch.bfloat16),
    "double": (cnn, digits, {}, torch.float64),
    "overtrained": (cnn, digits, {"epochs": 60, "lr": 0.01}, torch.float32),
    "2 classes": (lambda: mlp(2), lambda: prototypes(2), {}, torch.float32),
    "3 classes": (lambda: cnn(3), lambda: prototypes(3), {}, torch.float32),
    "20 classes": (lambda: cnn(20), lambda: prototypes(20), {}, torch.float32),
    "200 classes": (lambda: mlp(200, width=256), lambda: prototypes(200), {"epochs": 15}, torch.float32),
}


class Behind(nn.Module):
    """A network behind something that is done to its inputs or outputs."""

    def __init__(self, network: nn.Module, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.network, x)


def levels(x: Tensor, count: int) -> Tensor:
    return (x * count).round() / count


def thermometer(x: Tensor) -> Tensor:
    return torch.stack([(x > step / 16).to(x.dtype) for step in range(16)]).mean(dim=0)


def smooth(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, 1, 1)


def frequencies(x: Tensor) -> Tensor:
    """Return an image whose frequencies are rounded, as JPEG does."""
    k = torch.arange(8, dtype=x.dtype)
    basis = torch.cos(torch.pi * (2 * k[None] + 1) * k[:, None] / 16) * torch.where(k > 0, 0.5, 8**-0.5)[:, None]
    return basis.T @ levels(basis @ x @ basis.T, 5) @ basis


def winners(x: Tensor) -> Tensor:
    """Return an image of which only the brighter half is left, at fixed values."""
    return torch.where(x >= x.flatten(1).median(dim=1).values[:, None, None, None], levels(x, 4), 0 * x)


MASKS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "large logits": lambda m, x: 1e4 * m(x),
    "small temperature": lambda m, x: m(x) / 2e-3,
    "rounded inputs": lambda m, x: m(levels(x, 8)),
    "rounded logits": lambda m, x: levels(m(x), 2) + 1e-9 * m(x).detach(),
    "thermometer code": lambda m, x: m(thermometer(x)),
    "rounded frequencies": lambda m, x: m(frequencies(x)),
    "winners": lambda m, x: m(winners(x)),
    "detached": lambda m, x: m(x.detach()) + 0 * x.sum(),
    "detached in most": lambda m, x: m(0.95 * x.detach() + 0.05 * x.flip(3)) if x.requires_grad else m(0.95 * x + 0.05 * x.flip(3)),
    "smooth part detached": lambda m, x: m(smooth(x).detach() + 0.05 * (x - smooth(x))),
    "half detached": lambda m, x: m(torch.cat([x[:, :, :6].detach(), x[:, :, 6:]], dim=2)),
    "wrong sign": lambda m, x: m(2 * x.detach() - x),
    "shattered": lambda m, x: m(x + 0.05 * torch.sin(1000 * x)),
    "rugged": lambda m, x: m(x + 0.04 * torch.sin(200 * x)),
    "random inputs": lambda m, x: m(x + 0.15 * torch.randn_like(x)),
    "random scale": lambda m, x: m(x * (0.6 + 0.4 * torch.rand_like(x))),
    "saturating": lambda m, x: m(torch.sigmoid(60 * (x - 0.5))),
    "probabilities": lambda m, x: (5 * m(x)).softmax(dim=1),
    "rounded in a hidden layer": lambda m, x: m[-1](levels(m[:-1](x), 1)),
}


class Found(NamedTuple):
    """One network's verdict by the audit."""

    kind: str
    network: str
    norm: str
    reported: float
    hidden: float  # of that, what an attack on the network without its mask breaks
    fails: tuple[str, ...]


def honest() -> Iterator[Found]:
    for number, (name, (make, task, options, dtype)) in enumerate(HONEST.items()):
        model = fit(make(), task(), **options).to(dtype)
        for norm in (list(EPS)[number % 3], list(EPS)[(number + 1) % 3]):
            result = evaluate(model, task().test_x, task().test_y, suite="quick", norm=norm, eps=EPS[norm])
            print(f"honest: {name}, {norm}", file=sys.stderr)
            yield Found("honest", name, norm, float(result.robust_accuracy), 0.0, _fails(result.audit))


def masked() -> Iterator[Found]:
    bases = {"cnn": fit(cnn(), digits()), "mlp": fit(mlp(), digits())}
    known = {(name, norm): _known(base, norm) for name, base in bases.items() for norm in EPS}
    for number, (mask, change) in enumerate(MASKS.items()):
        for place, (name, base) in enumerate(bases.items()):
            for norm in (list(EPS)[number % 3], list(EPS)[(number + place + 1) % 3]):
                model = Behind(copy.deepcopy(base), change).eval()
                reached = _adaptive(model, known[name, norm], norm)
                result = evaluate(model, digits().test_x, digits().test_y, suite="quick", norm=norm, eps=EPS[norm])
                robust = result.verdicts.assign(held=result.verdicts["verdict"] == "robust").groupby("example")["held"].all()
                held = torch.tensor(robust.to_numpy())
                hidden = float((held & reached).double().mean())
                print(f"{mask}: {name}, {norm}", file=sys.stderr)
                yield Found(mask, name, norm, float(result.robust_accuracy), hidden, _fails(result.audit))


def _adaptive(model: nn.Module, known: Mapping[float, Mapping[str, Adversarial]], norm: str) -> Tensor:
    """Return which examples break on what was found against the network without its mask."""
    x, y = digits().test_x, digits().test_y
    budget = threat(norm, EPS[norm], features=64)
    judged = Expected(model, draws=9)
    broken = torch.zeros(len(y), dtype=torch.bool)
    for found in known.values():
        for part in found.values():
            rows = part.examples
            broken[rows] |= check(judged, x[rows], y[rows], part.inputs, budget).broken
    return broken


def _known(base: nn.Module, norm: str) -> dict[float, dict[str, Adversarial]]:
    """Return what attacks find against a network without a mask, within the radius and a little less."""
    suite = Suite(name="known", norm=norm, eps=(EPS[norm],), attacks=(PGD(steps=40), APGD(steps=50), APGD(steps=50, loss="dlr")))
    x, y = digits().test_x, digits().test_y
    return {scale: evaluate(base, x, y, suite=suite, eps=scale * EPS[norm], audit=False).adversarial for scale in (0.8, 0.9, 1.0)}


def _fails(audit: list) -> tuple[str, ...]:
    return tuple(finding.check for finding in audit if finding.status == "fail")


def run() -> pd.DataFrame:
    """Return a row a kind of mask, and one of honest networks."""
    found = [*honest(), *masked()]
    rows = []
    for kind in dict.fromkeys(entry.kind for entry in found):
        of_kind = [entry for entry in found if entry.kind == kind]
        counted = [entry for entry in of_kind if kind == "honest" or entry.hidden >= GAINED]
        rows.append(_row(kind, len(of_kind), counted))
    hiding = [entry for entry in found if entry.kind != "honest" and entry.hidden >= GAINED]
    rows.append(_row("all masks", sum(entry.kind != "honest" for entry in found), hiding))
    for entry in found:
        if bool(entry.fails) == (entry.kind == "honest"):
            print(f"{entry.kind}: {entry.network}, {entry.norm}: {', '.join(entry.fails) or 'no failure'}")
    return pd.DataFrame(rows)


def _row(kind: str, planted: int, counted: list[Found]) -> dict[str, object]:
    failed = sum(bool(entry.fails) for entry in counted)
    interval = wilson(failed, len(counted)) if counted else None
    share = "–" if interval is None else f"{failed / len(counted):.0%} [{interval.low:.0%}, {interval.high:.0%}]"
    hidden = [entry.hidden for entry in counted]
    return {
        "networks": kind,
        "evaluated": planted,
        "of them hiding something": "–" if kind == "honest" else len(counted),
        "hidden, points": "–" if kind == "honest" or not hidden else f"{100 * sum(hidden) / len(hidden):.0f}",
        "failed": f"{failed} of {len(counted)}",
        "share": share,
    }
