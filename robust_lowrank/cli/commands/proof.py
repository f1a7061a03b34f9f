"""`rlr-eval verify` and `rlr-eval forecast`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.attack import BatchSize, Data, DataDir, Eps, First, Json, NormName, SuiteName
from robust_lowrank.cli.commands.elsewhere import (
    ForeignClasses,
    ForeignMean,
    ForeignModel,
    ForeignStd,
    ForeignWeights,
    TrustCode,
    foreign_network,
    images_of,
)
from robust_lowrank.cli.commands.images import Channels, ImageSize, SkipBroken, reading_keys
from robust_lowrank.errors import UserError
from robust_lowrank.numbers import budget as shown_budget

if TYPE_CHECKING:
    from robust_lowrank.jobs.examination import Examination
    from robust_lowrank.training import DataConfig


def verify(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, or a bundle that 'rlr-eval submit' has made.")],
    suite: Annotated[str | None, typer.Option(help="Only this result, by its directory's name; all without it.")] = None,
    again: Annotated[
        float | None, typer.Option(help="Attack this share of the examples anew, drawn at random, such as 0.05.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the draw, to repeat one; without it nobody can foresee it.")] = None,
    data: Data = None,
    data_dir: DataDir = None,
    model: ForeignModel = None,
    weights: ForeignWeights = None,
    classes: ForeignClasses = None,
    mean: ForeignMean = None,
    std: ForeignStd = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    skip_broken: SkipBroken = False,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Prove results again from what is stored: every figure from the verdicts, these from inputs, network and examples.

    Every file must be as it was written, and every input that broke an example must do so again. That an example is robust
    nothing proves: --again attacks a share anew. Exit 1 if something is not proved, 2 if a result is stale. A bundle needs nothing
    beside it; that its examples are those of a data set only that can tell: --data NAME holds them against it.
    """
    import secrets

    from robust_lowrank.jobs.chain import Location
    from robust_lowrank.jobs.examination import examine
    from robust_lowrank.ranges import SEEDS
    from robust_lowrank.records import is_bundle

    if seed is not None and again is None:
        raise UserError("--seed draws the examples that are attacked anew: give --again as well")
    SEEDS.require("--seed", seed)
    drawn = secrets.randbelow(2**31) if seed is None else seed
    if is_bundle(run):
        if model is not None:
            raise UserError(f"{run} holds its own network: leave out --model")
        place = images_of(data, data_dir, reading_keys(image_size, channels, skip_broken))
        examination = _of_bundle(run, suite, place, again=again, seed=drawn, trust_code=trust_code)
        _tell(examination, again, drawn, json=json)
        if place is None and not json:
            console.say("Its examples are those that it holds: --data NAME holds them against a data set.")
        return
    foreign = foreign_network(
        model,
        weights,
        data,
        data_dir,
        classes=classes,
        mean=mean,
        std=std,
        image_size=image_size,
        channels=channels,
        skip_broken=skip_broken,
        trust_code=trust_code,
    )
    examination = examine(run, suite, Location(data, data_dir), foreign=foreign, again=again, seed=drawn, trust_code=trust_code)
    _tell(examination, again, drawn, json=json)


def _of_bundle(
    path: Path, suite: str | None, place: "DataConfig | None", *, again: float | None, seed: int, trust_code: bool
) -> "Examination":
    from robust_lowrank.jobs.bundles import opened

    with opened(path, trust_code=trust_code) as bundle:
        found = bundle.prove(suite, again=again, seed=seed)
        other = None if place is None else bundle.foreign_examples(place)
    return found if other is None else found._replace(faults=(*found.faults, other))


def _tell(examination: "Examination", again: float | None, drawn: int, *, json: bool) -> None:
    """Print an examination, and exit with 1 if it is not sound."""
    if json:
        console.print_json(listed_examination(examination) | ({"seed": drawn} if again else {}))
    else:
        say_examination(examination, f" (--seed {drawn})" if again else "")
    if not examination.sound:
        raise typer.Exit(1)


def listed_examination(examination: "Examination") -> dict[str, Any]:
    """Return an examination as plain lists and dictionaries."""
    results = {
        name: {
            "proofs": [proof._asdict() for proof in result.verification.proofs],
            "faults": list(result.verification.faults),
            "robust": result.verification.robust,
            "again": [entry._asdict() | {"most": entry.most} for entry in result.again],
        }
        for name, result in examination.results.items()
    }
    return {"sound": examination.sound, "faults": list(examination.faults), "sized": examination.sized, "results": results}


def say_examination(examination: "Examination", drawn: str) -> None:
    """Print an examination."""
    table = Table("result", "attack", "eps", "broken", "proved", "failed", box=None, pad_edge=False)
    for name, result in examination.results.items():
        for proof in result.verification.proofs:
            numbers = _several(proof.failed)
            table.add_row(name, proof.attack, shown_budget(proof.eps), str(proof.broken), str(proof.proved), numbers)
    console.print_table(table)
    tried = [(name, entry) for name, result in examination.results.items() for entry in result.again]
    if tried:
        table = Table("result", "attack", "eps", "attacked anew", "refuted", "of all at most", box=None, pad_edge=False)
        for name, entry in tried:
            numbers = _several(entry.refuted) + ("" if entry.same_noise or not entry.refuted else " (by other noise)")
            table.add_row(
                name,
                entry.attack,
                shown_budget(entry.eps),
                str(entry.tried),
                numbers or "0",
                f"{entry.most:.1%}" if entry.tried else "–",
            )
        console.print_table(table)
    for fault in examination.faults:
        console.say(fault)
    for name, result in examination.results.items():
        for fault in result.verification.faults:
            console.say(f"{name}: {fault}")
    robust = sum(result.verification.robust for result in examination.results.values())
    failed = sum(len(proof.failed) for result in examination.results.values() for proof in result.verification.proofs)
    refuted = sum(len(entry.refuted) for _, entry in tried if entry.disproved)
    if failed:
        console.say(f"{failed} verdicts are not proved: move the result and its units away, and attack again")
    if refuted:
        console.say(
            f"{refuted} robust verdicts are refuted by their own attack, more than chance explains: "
            "move the result and its units away"
        )
    if examination.smoothed:
        console.say(f"Of {', '.join(examination.smoothed)} figures and labels are proved; its samples are not drawn again.")
    if not examination.sized:
        console.say("Parameters and condition numbers stand in run.json alone: the network is a program of merged layers.")
    if examination.sound:
        left = f"a share of them was attacked anew{drawn}" if tried else "--again 0.05 attacks a share of them anew"
        console.say(
            f"Every broken example and every figure is proved. That {robust} verdicts are robust no file can prove: {left}."
        )


def _several(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (" ..." if len(numbers) > 8 else "")


def forecast(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run directory; none with --model.")] = None,
    suite: SuiteName = "standard",
    eps: Eps = None,
    norm: NormName = None,
    n: First = None,
    batch_size: BatchSize = 256,
    data: Data = None,
    data_dir: DataDir = None,
    model: ForeignModel = None,
    weights: ForeignWeights = None,
    classes: ForeignClasses = None,
    mean: ForeignMean = None,
    std: ForeignStd = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    skip_broken: SkipBroken = False,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Say what an attack will take at most, before it starts: passes, time at this machine's present speed, memory.

    It is an upper bound: examples that are broken early cost little, and those that the network gets wrong nothing.
    """
    from robust_lowrank.jobs.attack import Attack
    from robust_lowrank.jobs.chain import Location
    from robust_lowrank.jobs.examination import forecast_of

    settled = Attack.settle(suite, eps=eps, norm=norm, examples=n, batch_size=batch_size, trust_code=trust_code)
    foreign = foreign_network(
        model,
        weights,
        data,
        data_dir,
        classes=classes,
        mean=mean,
        std=std,
        image_size=image_size,
        channels=channels,
        skip_broken=skip_broken,
        trust_code=trust_code,
    )
    if foreign is not None and run is not None:
        raise UserError("--model stands alone: give no run directory")
    cost = forecast_of(run, settled, Location(data, data_dir), foreign)
    if json:
        console.print_json(cost._asdict() | {"shares": [share._asdict() for share in cost.shares]})
        return
    table = Table("attack", "eps", "passes", "time", box=None, pad_edge=False)
    for share in cost.shares:
        table.add_row(share.attack, shown_budget(share.eps), f"{share.passes:,}", _duration(share.seconds))
    table.add_row("together", "", f"{cost.passes:,}", _duration(cost.seconds))
    console.print_table(table)
    console.say(
        f"At most, on {cost.examples} examples of which none is broken, in one process; memory {cost.memory / 2**20:,.0f} MiB."
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
