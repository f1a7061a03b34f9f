"""Our engines beside AutoAttack as its authors run it, on four trained networks: `python -m benchmarks.upstream --help`."""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyautoattack
import torch
from torch import Tensor, nn

from robust_lowrank import data, training
from robust_lowrank.evaluation import Evaluation, evaluate
from robust_lowrank.provenance import machine

EXAMPLES, BATCH, SEED = 500, 250, 0
PAGE, BEGIN, END = Path("docs/evaluation.md"), "<!-- upstream: begin -->", "<!-- upstream: end -->"


@dataclass(frozen=True)
class Case:
    """A network and the budget under which it is attacked: one that leaves some, not many, robust, as those cost the time."""

    data: str
    model: str
    method: dict[str, Any]
    eps: float
    adversarial: float | None = None  # eps of its adversarial training
    epochs: int = 5
    images: int = 20_000
    lr: float = 0.05

    def config(self, data_dir: Path) -> training.TrainConfig:
        adversarial = None
        if self.adversarial is not None:
            adversarial = training.AdversarialConfig(attack="pgd", eps=self.adversarial, steps=2)
        return training.TrainConfig(
            data=training.DataConfig(name=self.data, data_dir=str(data_dir), train_examples=self.images),
            model=training.ModelConfig(name=self.model),
            method=training.MethodConfig(**self.method),
            training=training.TrainingConfig(
                epochs=self.epochs, lr=self.lr, momentum=0.9, schedule="cosine", adversarial=adversarial
            ),
        )


CASES = {
    "mnist-dense": Case("mnist", "lenet5", {"name": "dense"}, eps=0.15),
    "mnist-condlr-adversarial": Case(
        "mnist", "lenet5", {"name": "condlr", "tau": 0.1, "rank": 0.5}, eps=0.3, adversarial=0.2, epochs=3
    ),
    "cifar10-dense": Case("cifar10", "cnn", {"name": "dense"}, eps=2 / 255, lr=0.01),
    "cifar10-condlr-adversarial": Case(
        "cifar10", "cnn", {"name": "condlr", "tau": 0.1, "rank": 0.5}, eps=8 / 255, adversarial=2 / 255, lr=0.02, images=10_000
    ),
}


def subject(name: str, data_dir: Path, out: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """Train the network of a case unless it is there, and return it with the test images that it is attacked on."""
    case = CASES[name]
    training.train(case.config(data_dir), out / name)
    part = data.load(case.data, data_dir=str(data_dir), download=False).first(test=EXAMPLES)
    return training.load_network(out / name), part.test_x, part.test_y


def by_hand(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Return which examples stay right when AutoAttack standard is run as its documentation says."""
    attack = pyautoattack.AutoAttack(model, norm="Linf", eps=eps, seed=SEED, version="standard", device=torch.device("cpu"))
    attack.verbose = False
    found, _ = attack.run_standard_evaluation(x, y, batch_size=BATCH)
    with torch.no_grad():
        return model(found).argmax(dim=1) == y


def compare(name: str, data_dir: Path, out: Path) -> dict[str, Any]:
    """Return one row of the comparison."""
    model, x, y = subject(name, data_dir, out)
    eps = CASES[name].eps
    seconds, held = {}, {}
    begun = time.perf_counter()
    hand = by_hand(model, x, y, eps)
    seconds["by hand"] = time.perf_counter() - begun
    results: dict[str, Evaluation] = {}
    for suite in ("standard", "aa-native"):
        begun = time.perf_counter()
        results[suite] = evaluate(model, x, y, suite=suite, eps=eps, norm="Linf", seed=SEED, batch_size=BATCH)
        seconds[suite] = time.perf_counter() - begun
        held[suite] = torch.tensor((results[suite].verdicts["verdict"] == "robust").to_numpy())
    passes = {suite: _passes(result) for suite, result in results.items()}
    return {
        "network": name,
        "eps": eps,
        "examples": len(y),
        "clean": results["standard"].clean_accuracy.value,
        "hand": float(hand.double().mean()),
        "engine": float(held["standard"].double().mean()),
        "differing": int((hand != held["standard"]).sum()),
        "native": float(held["aa-native"].double().mean()),
        "only_upstream": int((held["aa-native"] & ~held["standard"]).sum()),
        "only_native": int((held["standard"] & ~held["aa-native"]).sum()),
        "passes": passes,
        "seconds": seconds,
        "machine": machine(),
    }


def _passes(result: Evaluation) -> list[float]:
    robust = result.verdicts[result.verdicts["verdict"] == "robust"]
    return [float(robust["forwards"].mean()), float(robust["backwards"].mean())]


def tables(rows: list[dict[str, Any]]) -> str:
    """Return the comparison as two Markdown tables."""
    percent = "{:.1f}".format
    verdicts = pd.DataFrame(
        {
            "network": row["network"],
            "eps": f"{row['eps']:.4g}",
            "clean, %": percent(100 * row["clean"]),
            "AutoAttack by hand, %": percent(100 * row["hand"]),
            "our engine `pyautoattack`, %": percent(100 * row["engine"]),
            "differing verdicts": row["differing"],
            "aa-native, %": percent(100 * row["native"]),
            "broken by AutoAttack alone": row["only_upstream"],
            "by aa-native alone": row["only_native"],
        }
        for row in rows
    )
    costs = pd.DataFrame(
        {
            "network": row["network"],
            "forwards, AutoAttack": f"{row['passes']['standard'][0]:.0f}",
            "forwards, aa-native": f"{row['passes']['aa-native'][0]:.0f}",
            "ratio": f"{row['passes']['aa-native'][0] / row['passes']['standard'][0]:.3f}",
            "backwards, AutoAttack": f"{row['passes']['standard'][1]:.0f}",
            "backwards, aa-native": f"{row['passes']['aa-native'][1]:.0f}",
            "ratio ": f"{row['passes']['aa-native'][1] / row['passes']['standard'][1]:.3f}",
            "seconds, aa-native over by hand": f"{row['seconds']['aa-native'] / row['seconds']['by hand']:.2f}",
        }
        for row in rows
    )
    note = f"First {rows[0]['examples']} test images, Linf, seed {SEED}, batches of {BATCH}; {rows[0]['machine']}."
    return f"{note}\n\n{verdicts.to_markdown(index=False)}\n\nPasses of a robust example:\n\n{costs.to_markdown(index=False)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NETWORK", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--mnist", type=Path, required=True, help="directory of MNIST")
    parser.add_argument("--cifar10", type=Path, required=True, help="directory of CIFAR-10")
    parser.add_argument("--out", type=Path, default=Path("runs/upstream"), help="where runs and rows are kept")
    options = parser.parse_args()
    for name in options.names or CASES:
        if name not in CASES:
            parser.error(f"unknown network {name!r}; there are {', '.join(CASES)}")
        file = options.out / f"{name}.json"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(compare(name, getattr(options, CASES[name].data), options.out), indent=2))
    rows = [json.loads(file.read_text()) for name in CASES if (file := options.out / f"{name}.json").is_file()]
    text = PAGE.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(rows)}\n{END}{after}")
    print(tables(rows))


if __name__ == "__main__":
    main()
