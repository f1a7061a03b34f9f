"""Learning rates of an experiment's methods, chosen on its validation images: `python -m experiments.rates --help`.

Each method, at the first of its ranks and with the first of the seeds, is trained at every rate of one grid. The rate with the
best accuracy on the validation images goes into the experiment's file as `lr` of the method; test images take no part. What is
trained is kept, so that a choice which was stopped goes on.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from robust_lowrank.errors import TrainingError, UserError, first_line
from robust_lowrank.jobs import load_experiment
from robust_lowrank.jobs.experiment import Experiment
from robust_lowrank.training import train
from robust_lowrank.training.naming import describe


def choose(experiment: Experiment, rates: Sequence[float], out: Path, *, epochs: int, examples: int | None) -> pd.DataFrame:
    """Return validation accuracies, a row a method and a column a rate; NaN where a training diverged.

    Example:
        >>> choose(load_experiment("mnist.toml"), [0.05, 0.1], Path("rates"), epochs=2, examples=20_000)  # doctest: +SKIP

    Raises:
        UserError: the experiment sets no validation images aside.
    """
    if not experiment.data.validation_examples:
        raise UserError(f"{experiment.name} sets no images aside to choose on: give validation_examples in [data]")
    firsts: dict[str, tuple[str, float | None]] = {}
    table: dict[str, dict[float, float]] = {}
    for entry in experiment.methods:
        method = entry.at_each_rank()[0]
        plain = experiment.model_copy(update={"methods": (entry.model_copy(update={"lr": None}),), "seeds": experiment.seeds[:1]})
        name, config = plain.runs()[0]
        label = describe(method)
        firsts[label] = name, entry.lr
        for rate in rates:
            data = config.data if examples is None else config.data.model_copy(update={"train_examples": examples})
            training = config.training.model_copy(update={"lr": rate, "epochs": epochs})
            try:
                run = train(config.model_copy(update={"data": data, "training": training}), out / f"{name}-lr{rate:g}")
                accuracy = float(run.metrics["validation_accuracy"].iloc[-1])
            except TrainingError as error:
                print(f"{label} at {rate:g}: {first_line(error)}", file=sys.stderr)
                accuracy = math.nan
            table.setdefault(label, {})[rate] = accuracy
            print(f"{label} at {rate:g}: {accuracy:.1%}", file=sys.stderr)
    frame = pd.DataFrame(table).T
    frame["best"] = frame.dropna(how="all").idxmax(axis=1)
    frame["in the file"] = [experiment.training.lr if lr is None else lr for _, lr in firsts.values()]
    return frame


def main() -> None:
    """Choose the rates of an experiment, and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", help="a TOML file, or the name of an experiment")
    parser.add_argument("--lr", type=float, nargs="+", default=[0.02, 0.05, 0.1, 0.2], help="the grid (%(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="of each training (%(default)s)")
    parser.add_argument("--examples", type=int, help="images to train on; as many as the experiment has without it")
    parser.add_argument("--out", type=Path, help="where trainings are kept (runs/rates/NAME)")
    given = parser.parse_args()
    try:
        experiment = load_experiment(given.experiment)
        out = given.out or Path("runs/rates") / experiment.name
        frame = choose(experiment, given.lr, out, epochs=given.epochs, examples=given.examples)
    except UserError as error:
        sys.exit(f"Error: {error}")
    shown = frame.map(lambda value: f"{value:.4g}" if isinstance(value, float) else str(value))
    print(
        "\n".join(f"| {' | '.join(row)} |" for row in [["method", *map(str, shown.columns)], *shown.reset_index().values.tolist()])
    )


if __name__ == "__main__":
    main()
