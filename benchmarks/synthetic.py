"""Run directories of any size, written as the stages write them, with drawn numbers that fit together."""

from pathlib import Path

import numpy as np
import pandas as pd

from robust_lowrank import records
from robust_lowrank.records import AccuracyRecord, Parameters, ResultRecord, RunFiles, RunRecord
from robust_lowrank.statistics import bounded

ATTACKS = ("fgsm", "pgd-10", "pgd-20", "apgd-ce", "fab", "square")
EPS = (0.02, 0.04, 0.06, 0.08, 0.1)
CLASSES = 10
HASHES = {"data": "d1", "attack": "a1"}
CREATED = "2026-11-24T00:00:00+00:00"


def write_run(path: Path, seed: int, *, examples: int = 0, layers: int = 4, epochs: int = 3, values: int = 16) -> Path:
    """Write a run whose network was trained for `epochs`, with a result on so many `examples`, if any, and return its path."""
    generator, files = np.random.default_rng(seed), RunFiles(path)
    history = spectra(generator, layers=layers, epochs=epochs, values=values)
    records.write_frame(files.spectra, history)
    records.write_frame(files.metrics, _metrics(generator, epochs))
    if examples:
        _write_result(records.ResultFiles(files.results / "curve"), generator, examples, seed)
    records.write_sealed(files.record, _record(seed, epochs), files.beside)
    return path


def spectra(generator: np.random.Generator, *, layers: int, epochs: int, values: int) -> pd.DataFrame:
    """Return SPECTRA of layers whose condition numbers wander."""
    steps, size = epochs + 1, (epochs + 1) * layers
    frame = _layers(generator, steps, layers, values)
    frame = frame.assign(epoch=np.repeat(np.arange(steps), layers), rows=64, columns=64)
    frame = frame.assign(params=values * (128 + values), params_dense=64 * 64, orthonormality=1e-7 * generator.random(size))
    return frame[list(records.SPECTRA)]


def monitor(generator: np.random.Generator, *, layers: int, steps: int, values: int) -> pd.DataFrame:
    """Return MONITOR of so many recorded steps."""
    size = steps * layers
    frame = _layers(generator, steps, layers, values)
    angles = {name: generator.random(size) for name in ("distance", "rotation_u", "rotation_v")}
    frame = frame.assign(step=np.repeat(np.arange(1, steps + 1), layers), orthonormality=1e-7 * generator.random(size), **angles)
    products = np.exp(np.log(frame["cond"].to_numpy()).reshape(steps, layers).sum(axis=1))
    return frame.assign(cond_product=np.repeat(products, layers))[list(records.MONITOR)]


def _layers(generator: np.random.Generator, steps: int, layers: int, values: int) -> pd.DataFrame:
    smallest = np.exp(-np.abs(generator.normal(0, 0.05, (steps, layers)).cumsum(axis=0)) - 0.1).ravel()
    sigma = 1 - np.linspace(0, 1, values) * (1 - smallest[:, None])
    names = [f"layers.{number}" for number in range(layers)]
    return pd.DataFrame(
        {
            "layer": names * steps,
            "kind": "linear",
            "factored": True,
            "rank": values,
            "sigma_max": sigma[:, 0],
            "sigma_min": sigma[:, -1],
            "cond": sigma[:, 0] / sigma[:, -1],
            "stable_rank": (sigma**2).sum(axis=1) / sigma[:, 0] ** 2,
            "singular_values": list(sigma),
        }
    )


def _metrics(generator: np.random.Generator, epochs: int) -> pd.DataFrame:
    falling = np.exp(-np.linspace(0, 2, epochs)) + 0.01 * generator.random(epochs)
    columns = {"epoch": np.arange(1, epochs + 1), "step": 100 * np.arange(1, epochs + 1), "lr": 0.1, "train_loss": falling}
    rest = {"train_accuracy": 1 - falling / 2, "validation_accuracy": 1 - falling / 2, "seconds": 1.0}
    return pd.DataFrame(columns | rest)


def _record(seed: int, epochs: int) -> RunRecord:
    return RunRecord(
        label=f"Network {seed:02d}",
        method="dense" if seed == 0 else "condlr",
        model="mlp",
        data="drawn",
        seed=0,
        status="complete",
        epochs_done=epochs,
        test_accuracy=0.9,
        created=CREATED,
        command="",
        config={"number": seed},
        versions={},
        machine="none",
        hashes={"weights": f"{seed:02x}", "train": "1", "test": "2"},
        parameters=Parameters(total=1000, dense=5000, inference=900, removed=0.8, rank_fraction=0.25),
    )


def _write_result(files: records.ResultFiles, generator: np.random.Generator, examples: int, seed: int) -> None:
    verdicts = _verdicts(generator, examples)
    records.write_frame(files.verdicts, verdicts)
    record = ResultRecord(
        suite="curve",
        norm="Linf",
        eps=list(EPS),
        seed=0,
        created=CREATED,
        versions={},
        machine="none",
        hashes=HASHES | {"weights": f"{seed:02x}"},
        interval="Wilson 95 %",
        accuracies=_accuracies(verdicts),
        audit=[],
        definition={"attacks": [{"name": name, "eps": list(EPS)} for name in ATTACKS]},
        seconds=1.0,
    )
    records.write_sealed(files.record, record, files.beside)


def _verdicts(generator: np.random.Generator, examples: int) -> pd.DataFrame:
    """Return VERDICTS in the order of attacks and eps: an example is broken where eps is beyond its own radius for the attack."""
    labels = np.arange(examples) % CLASSES
    clean = np.where(generator.random(examples) < 0.95, labels, (labels + 1) % CLASSES)
    radius = generator.gamma(2.0, 0.04, examples)
    parts = []
    for attack in ATTACKS:
        reach = radius * generator.uniform(1, 1.2, examples)
        for eps in EPS:
            broken = (reach < eps) & (clean == labels)
            verdict = np.where(clean != labels, "misclassified", np.where(broken, "broken", "robust"))
            answer = np.where(broken, (labels + 1) % CLASSES, clean)
            columns = {"example": np.arange(examples), "label": labels, "clean_prediction": clean, "attack": attack}
            columns |= {"norm": "Linf", "eps": eps, "verdict": verdict, "adversarial_prediction": answer, "margin": reach - eps}
            columns |= {"distance": np.where(broken, reach, np.nan), "forwards": 20, "backwards": 20, "seconds": 0.01}
            parts.append(pd.DataFrame(columns | {"engine": "native", "seed": 0, "flags": ""}))
    return pd.concat(parts, ignore_index=True)[list(records.VERDICTS)]


def _accuracies(verdicts: pd.DataFrame) -> list[AccuracyRecord]:
    first = verdicts[(verdicts["attack"] == ATTACKS[0]) & (verdicts["eps"] == EPS[0])]
    counted = [("clean", 0.0, first["clean_prediction"] == first["label"])]
    robust = verdicts["verdict"] == "robust"
    counted += [
        (attack, eps, robust[(verdicts["attack"] == attack) & (verdicts["eps"] == eps)]) for attack in ATTACKS for eps in EPS
    ]
    counted += [("worst", eps, robust[here].groupby(verdicts["example"]).all()) for eps in EPS for here in [verdicts["eps"] == eps]]
    return [
        AccuracyRecord(
            attack=attack, eps=eps, correct=int(held.sum()), total=len(held), **bounded(int(held.sum()), 0, len(held))._asdict()
        )
        for attack, eps, held in counted
    ]
