"""Runs to report on: small networks that are really trained and attacked, and bare records for the corner cases."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

from robust_lowrank.records import (
    METRICS,
    SPECTRA,
    VERDICTS,
    AccuracyRecord,
    AuditFinding,
    Parameters,
    Result,
    ResultRecord,
    Run,
    RunRecord,
)
from robust_lowrank.statistics import bounded

EPS = [0.05, 0.1, 0.15]
RANK = 10
EPOCHS = 10
EXAMPLES = 150
SIZES = (64, 48, 32, 10)


def accuracy(attack: str, eps: float, held: np.ndarray, most: np.ndarray | None = None) -> AccuracyRecord:
    correct, unresolved = int(held.sum()), 0 if most is None else int((most & ~held).sum())
    interval = bounded(correct, unresolved, len(held))._asdict()
    return AccuracyRecord(attack=attack, eps=eps, correct=correct, total=len(held), unresolved=unresolved, **interval)


def result(
    clean: np.ndarray,
    held: dict[tuple[str, float], np.ndarray],
    *,
    data: str = "d1",
    attack: str = "a1",
    suite: str = "quick",
    audit=(),
    unresolved: np.ndarray | None = None,
) -> Result:
    """A result from who was right: on the clean inputs, and by (attack, eps); nothing is known of `unresolved` examples."""
    open_ = np.zeros_like(clean) if unresolved is None else unresolved & clean
    held = {key: right & ~open_ for key, right in held.items()}
    rows = []
    for (name, eps), right in held.items():
        for example in range(len(clean)):
            decided = "robust" if right[example] else "unresolved" if open_[example] else "broken"
            verdict = decided if clean[example] else "misclassified"
            rows.append(
                {
                    "example": example,
                    "label": 1,
                    "clean_prediction": 1 if clean[example] else 0,
                    "attack": name,
                    "norm": "Linf",
                    "eps": eps,
                    "verdict": verdict,
                    "adversarial_prediction": 1 if verdict == "robust" else 0,
                    "margin": 1.0 if verdict == "robust" else -1.0,
                    "distance": eps if verdict == "broken" else np.nan,
                    "forwards": 1,
                    "backwards": 1,
                    "seconds": 0.0,
                    "engine": "test",
                    "seed": 0,
                    "flags": "",
                }
            )
    budgets = sorted({eps for _, eps in held})
    worst = {eps: np.logical_and.reduce([r & clean for (_, e), r in held.items() if e == eps]) for eps in budgets}
    record = ResultRecord(
        suite=suite,
        norm="Linf",
        eps=budgets,
        seed=0,
        created="2026-11-24T00:00:00+00:00",
        versions={"torch": torch.__version__},
        machine="a test machine",
        hashes={"weights": "aa", "data": data, "attack": attack},
        interval="Wilson 95 %",
        accuracies=[
            accuracy("clean", 0.0, clean),
            *(accuracy(name, eps, right & clean, (right | open_) & clean) for (name, eps), right in held.items()),
            *(accuracy("worst", eps, right, right | open_) for eps, right in worst.items()),
        ],
        audit=list(audit),
        definition={"attacks": [{"name": name} for name in sorted({name for name, _ in held})]},
        seconds=1.0,
    )
    return Result(record=record, verdicts=pd.DataFrame(rows, columns=list(VERDICTS)))


def spectra_rows(epoch: int, weights: dict[str, np.ndarray], ranks: dict[str, int]) -> list[dict]:
    rows = []
    for layer, weight in weights.items():
        n, m = weight.shape
        rank = ranks.get(layer, min(n, m))
        sigma = np.linalg.svd(weight, compute_uv=False)[:rank].astype(np.float64)
        rows.append(
            {
                "epoch": epoch,
                "layer": layer,
                "kind": "linear",
                "factored": layer in ranks,
                "rows": n,
                "columns": m,
                "rank": rank,
                "sigma_max": sigma[0],
                "sigma_min": sigma[-1],
                "cond": sigma[0] / sigma[-1] if sigma[-1] else np.inf,
                "stable_rank": float((sigma**2).sum() / sigma[0] ** 2),
                "orthonormality": 1e-7 if layer in ranks else np.nan,
                "params": rank * (n + m + rank) if layer in ranks else n * m,
                "params_dense": n * m,
                "singular_values": sigma.tolist(),
            }
        )
    return rows


@pytest.fixture(scope="session")
def make_result() -> Callable[..., Result]:
    return result


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    """A run from its label, its results and its layers' weights; by default without either."""

    def make(label: str, *, method="dense", seed=0, results=(), weights=None, ranks=None, config=None, path=None, **record) -> Run:
        rows = spectra_rows(0, weights, ranks or {}) if weights else []
        return Run(
            path=Path(path or f"runs/{label}-{seed}"),
            record=RunRecord(
                **{
                    "label": label,
                    "method": method,
                    "model": "mlp",
                    "data": "digits",
                    "seed": seed,
                    "status": "complete",
                    "epochs_done": 3,
                    "test_accuracy": 0.9,
                    "created": "2026-11-24T00:00:00+00:00",
                    "command": "rlr-eval train",
                    "config": config or {"seed": seed, "epochs": 3},
                    "versions": {"torch": torch.__version__},
                    "machine": "a test machine",
                    "hashes": {"weights": "aa", "train": "bb", "test": "cc"},
                    "parameters": Parameters(total=1000, dense=5000, inference=900, removed=0.8, rank_fraction=0.2),
                    **record,
                }
            ),
            metrics=pd.DataFrame(columns=list(METRICS)),
            spectra=pd.DataFrame(rows, columns=list(SPECTRA)),
            results={r.record.suite: r for r in results},
        )

    return make


class _Network(torch.nn.Module):
    """An MLP; "vanilla" has its hidden layers as products of two factors, "condlr" has their spectra clamped after every step."""

    def __init__(self, method: str, tau: float) -> None:
        super().__init__()
        self.method, self.tau = method, tau
        self.layers = torch.nn.ModuleList()
        for n_in, n_out in pairwise(SIZES):
            linear = torch.nn.Linear(n_in, n_out)
            if method == "vanilla" and n_out != SIZES[-1]:
                self.layers.append(torch.nn.Sequential(torch.nn.Linear(n_in, RANK, bias=False), torch.nn.Linear(RANK, n_out)))
            else:
                self.layers.append(linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)

    @torch.no_grad()
    def clamp(self) -> None:
        if self.method != "condlr":
            return
        for layer in self.layers[:-1]:
            u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
            s = s[:RANK]
            mean = s.square().mean().sqrt()
            width = self.tau / (2 + self.tau)
            layer.weight.copy_((u[:, :RANK] * s.clamp(mean * (1 - width), mean * (1 + width))) @ v[:RANK])

    @torch.no_grad()
    def weights(self) -> dict[str, np.ndarray]:
        found = {}
        for index, layer in enumerate(self.layers):
            weight = layer[1].weight @ layer[0].weight if isinstance(layer, torch.nn.Sequential) else layer.weight
            found[f"layers.{index}"] = weight.double().numpy()
        return found


def _attack(net: _Network, x: torch.Tensor, y: torch.Tensor, eps: float, steps: int) -> np.ndarray:
    start = x.clone()
    right = torch.ones(len(x), dtype=torch.bool)
    for _ in range(steps):
        start.requires_grad_(True)
        (grad,) = torch.autograd.grad(torch.nn.functional.cross_entropy(net(start), y, reduction="sum"), start)
        moved = start.detach() + (eps if steps == 1 else 2.5 * eps / steps) * grad.sign()
        start = torch.clamp(torch.minimum(torch.maximum(moved, x - eps), x + eps), 0, 1)
        right &= net(start).argmax(1) == y
    return right.numpy()


def _train(make_run, label: str, method: str, seed: int, tau: float = 0.1) -> Run:
    torch.manual_seed(seed)
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    train_x, train_y, test_x, test_y = x[:1200], y[:1200], x[1200 : 1200 + EXAMPLES], y[1200 : 1200 + EXAMPLES]
    net = _Network(method, tau)
    net.clamp()
    ranks = {} if method == "dense" else {"layers.0": RANK, "layers.1": RANK}
    rows = spectra_rows(0, net.weights(), ranks)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.5)
    for epoch in range(1, EPOCHS + 1):
        for batch in torch.randperm(len(train_x)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(train_x[batch]), train_y[batch]).backward()
            optimizer.step()
            net.clamp()
        rows += spectra_rows(epoch, net.weights(), ranks)
    clean = (net(test_x).argmax(1) == test_y).numpy()
    held = {(name, eps): _attack(net, test_x, test_y, eps, steps) for name, steps in (("fgsm", 1), ("pgd-20", 20)) for eps in EPS}
    audit = [
        AuditFinding(check="budget", status="pass", message="every stored input lies within eps and [0, 1]"),
        AuditFinding(check="gradients", status="pass", message="all gradients are finite"),
        AuditFinding(
            check="attack strength",
            status="warn",
            message="the suite has no AutoAttack: robust accuracy may be overestimated",
            remedy="attack again with --suite standard",
        ),
    ]
    dense = sum(n * m + m for n, m in pairwise(SIZES))
    factored = list(pairwise(SIZES))[:-1] if ranks else []
    kept = sum(RANK * (n + m) for n, m in factored)
    full = sum(n * m for n, m in factored)
    run = make_run(
        label,
        method=method,
        seed=seed,
        results=[result(clean, held, audit=audit)],
        config={"seed": seed, "epochs": EPOCHS, "lr": 0.2, "method": {"name": method, "tau": tau}},
        epochs_done=EPOCHS,
        test_accuracy=float(clean.mean()),
        parameters=Parameters(
            total=dense - full + kept,
            dense=dense,
            inference=dense - full + kept,
            removed=1 - kept / full if full else 0.0,
            rank_fraction=RANK / 40 if full else 1.0,
        ),
        kept_dense={"layers.2": "excluded by name"} if ranks else {},
        seconds=1.5,
    )
    return Run(run.path, run.record, run.metrics, pd.DataFrame(rows, columns=list(SPECTRA)), run.results)


@pytest.fixture(scope="session")
def trained(make_run) -> list[Run]:
    """A dense, a plain low-rank and two clamped networks on digits, the last with two seeds, attacked with FGSM and PGD."""
    return [
        _train(make_run, "Vanilla low-rank", "vanilla", 0),
        _train(make_run, "CondLR τ=0.1", "condlr", 0),
        _train(make_run, "CondLR τ=0.1", "condlr", 1),
        _train(make_run, "CondLR τ=0.5", "condlr", 0, tau=0.5),
        _train(make_run, "Dense", "dense", 0),
    ]
