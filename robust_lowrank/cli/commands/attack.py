"""`rlr-eval attack`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.elsewhere import (
    ELSEWHERE,
    ForeignClasses,
    ForeignMean,
    ForeignModel,
    ForeignStd,
    ForeignWeights,
    TrustCode,
    foreign_network,
)
from robust_lowrank.cli.commands.images import Channels, ImageSize, SkipBroken
from robust_lowrank.cli.commands.runs import named_runs
from robust_lowrank.errors import UserError

Eps = Annotated[
    list[str] | None, typer.Option(help="Budget, such as 0.1 or 8/255; may be given several times. The suite's own without it.")
]
SuiteName = Annotated[str, typer.Option(help="A suite by name ('rlr-eval list suites') or a TOML file.")]
NormName = Annotated[Literal["Linf", "L2", "L1"] | None, typer.Option(help="The suite's own without it.")]
First = Annotated[int | None, typer.Option("--n", help="Attack the first so many test images; all without it.")]
BatchSize = Annotated[int, typer.Option(help="Examples at a time; changes no verdict of a native attack.")]
Data = Annotated[
    str | None,
    typer.Option(
        help="Of a run: its images, if they have moved. With --model: a data set's name, a directory of images, "
        "or a .npz or .safetensors file."
    ),
]
DataDir = Annotated[Path | None, typer.Option(help="Where the data set's files lie; as in training without it.")]
ExecutorName = Annotated[str, typer.Option(help="Where the work runs: processes, ray, or another module of jobs/executors.")]
ShardText = Annotated[
    str | None, typer.Option("--shard", metavar="I/N", help="A part of the work, such as 3/16, for one of several machines.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]


def attack(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN...]", help="Run directories, or a directory of them; none with --model.", callback=named_runs),
    ] = None,
    suite: SuiteName = "standard",
    eps: Eps = None,
    norm: NormName = None,
    n: First = None,
    executor: ExecutorName = "processes",
    workers: Annotated[int | None, typer.Option(help="Workers; from two a run on, they share its examples.")] = None,
    shard: ShardText = None,
    batch_size: BatchSize = 256,
    seed: Annotated[int, typer.Option(help="Seed of all noise.")] = 0,
    max_passes: Annotated[
        int | None,
        typer.Option(help="Passes (forward or backward) that attacks may take; what is left is unresolved."),
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="The same as a time, in seconds.")] = None,
    source: Annotated[
        list[Path] | None, typer.Option(help="Run directory on which attacks by transfer make their inputs; may be repeated.")
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="After an attack on a sample, such as aa-fast: all of aa-native on what it leaves.")
    ] = False,
    matrix: Annotated[bool, typer.Option("--matrix", help="Try what breaks each network on the others.")] = False,
    rounding: Annotated[
        bool,
        typer.Option(
            "--rounding", help="Form all verdicts again in other batches, precisions, threads and forms; say which change."
        ),
    ] = False,
    form: Annotated[
        list[str] | None,
        typer.Option(
            help="Deployed forms to attack as well, such as merged,factors,bf16,onnx,int8; verdicts that differ are shown."
        ),
    ] = None,
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
    label: Annotated[str | None, typer.Option(rich_help_panel=ELSEWHERE, help="What reports call it.")] = None,
    out: Annotated[Path | None, typer.Option(rich_help_panel=ELSEWHERE, help="Run directory for its results.")] = None,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Attack networks with a suite, and store verdicts, accuracies and audit below RUN/results.

    A stored result with the same weights, images and attack is kept, and an evaluation that was stopped goes on where it was.
    """
    from robust_lowrank.cli.progress import Board
    from robust_lowrank.cli.results import list_forms, say_forms, say_matrix, say_results, say_rounding
    from robust_lowrank.exporting.programs import require_onnx
    from robust_lowrank.jobs import transfer as transfers
    from robust_lowrank.jobs.attack import Attack
    from robust_lowrank.jobs.chain import Location, foreign_job, moved, stored_job
    from robust_lowrank.jobs.dispatch import check_workers, perform_all, perform_shard
    from robust_lowrank.jobs.events import remark
    from robust_lowrank.jobs.executors import find_executor
    from robust_lowrank.jobs.forms import PROGRAMS, owner
    from robust_lowrank.jobs.rounding import recompute
    from robust_lowrank.jobs.shards import Shard
    from robust_lowrank.records import ResultRecord, RunFiles, deployed_forms, read_record, read_run, sharing, writing

    check_workers(workers, find_executor(executor))
    runs = runs or []
    if matrix and len(runs) < 2:
        raise UserError("--matrix compares networks: give two run directories or more")
    places = [run.resolve() for run in runs]
    if repeated := [run for run in runs if places.count(run.resolve()) > 1]:
        raise UserError(f"{repeated[0]} is given twice: name each run directory once")
    settled = Attack.settle(
        suite,
        eps=eps,
        norm=norm,
        examples=n,
        seed=seed,
        batch_size=batch_size,
        sources=source or (),
        max_passes=max_passes,
        max_seconds=max_seconds,
        forms=[name.strip() for text in form or () for name in text.split(",") if name.strip()],
        trust_code=trust_code,
        complete=complete,
    )
    if model is not None and settled.forms:
        raise UserError("--form is of a run's own network: a network from elsewhere has the form that it is given in")
    if not set(PROGRAMS).isdisjoint(settled.forms):
        require_onnx()
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
    if foreign is None:
        if lone := [name for name, value in {"--out": out, "--label": label}.items() if value is not None]:
            raise UserError(f"{lone[0]} belongs to a network from elsewhere: name it with --model")
        if not runs:
            raise UserError("nothing to attack: give run directories, or --model with --data and --out")
        jobs = [moved(stored_job(run, [settled]), Location(data, data_dir)) for run in runs]
    else:
        if runs or out is None:
            raise UserError("--model is attacked alone: give --out as well, and no run directory")
        jobs = [foreign_job(foreign, out, [settled], command=console.command_line())]
    if shard is not None:
        others = {"--model": model, "--matrix": matrix, "--rounding": rounding, "--form": form, "--json": json}
        others |= {"--max-passes": max_passes, "--max-seconds": max_seconds}
        if odd := [name for name, value in others.items() if value]:
            raise UserError(f"--shard does a part of the examples, and {odd[0]} is of all: leave it to the attack without --shard")
        part = Shard.parse(shard)
        with sharing(f"{part.index}-of-{part.of}", *(owner(job.out) for job in jobs)), Board() as board:
            perform_shard(jobs, part, executor=executor, workers=workers, report=board)
        console.say(f"Shard {part} is done; with all of them, the same command without --shard joins them.")
        return
    with writing(*(owner(job.out) for job in jobs)), Board() as board:
        if foreign is not None:
            remark(jobs[0].name, foreign.record(jobs[0].out, label=label, command=console.command_line()).remarks, board)
        outcomes = perform_all(jobs, executor=executor, workers=workers, report=board)
        names = [outcome.results[0] for outcome in outcomes]
        transfer = transfers.matrix(jobs, settled, names) if matrix else None
        rounded = [recompute(job, settled, name) for job, name in zip(jobs, names, strict=True)] if rounding else []
    done = [read_run(job.out, results=bool(settled.forms)) for job in jobs]
    files = [RunFiles(job.out).result(name) for job, name in zip(jobs, names, strict=True)]
    results = [read_record(result.record, ResultRecord) for result in files]
    deployed = (
        [list(deployed_forms(run, run.results[name])) for run, name in zip(done, names, strict=True)] if settled.forms else []
    )
    left_out = {f"{run}, {name}": why for run, each in zip(runs, outcomes, strict=False) for name, why in each.left_out.items()}
    if json:
        rows = zip(jobs, done, results, strict=True)
        listed = [{"run": str(job.out), "label": run.record.label, "result": result.model_dump()} for job, run, result in rows]
        more = {} if transfer is None else {"transfer": console.rows(transfer)}
        more |= {"rounding": [console.rows(table) for table in rounded]} if rounding else {}
        more |= {"forms": list_forms(deployed), "left_out": left_out} if settled.forms else {}
        console.print_json({"results": listed, **more} if more else listed)
    else:
        say_results([run.record.label for run in done], results)
        if transfer is not None:
            say_matrix(transfer)
        if rounding:
            say_rounding([run.record.label for run in done], rounded)
        if settled.forms:
            say_forms(deployed)
    if left_out:
        raise UserError("left out: " + "; ".join(f"{name}: {why}" for name, why in left_out.items()))
