"""`rlr-eval report` and `rlr-eval condition`."""

import shlex
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.runs import named_runs
from robust_lowrank.errors import UserError, shown

if TYPE_CHECKING:
    from robust_lowrank.records import Run
    from robust_lowrank.reporting.output.provenance import BundleProof

RunsOrWeights = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN...",
        help="Run directories, or a directory of them, or files of weights (.safetensors, .pth).",
        callback=named_runs,
    ),
]
Title = Annotated[str | None, typer.Option(help="Heading of the report.")]


RunsOrBundles = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN...",
        help="Run directories, or one that holds some, or bundles of 'rlr-eval submit' (.zip).",
        callback=named_runs,
    ),
]


def report(
    runs: RunsOrBundles,
    out: Annotated[Path, typer.Option(help="Directory of the report.")] = Path("reports/comparison"),
    title: Title = None,
) -> None:
    """Write the comparison report of several runs: a page, its numbers in other formats, and figures.

    Bundles are proved first, and the report says what was proved: so strangers' networks make a board.
    """
    from robust_lowrank.records import is_bundle, read_run
    from robust_lowrank.reporting import comparison_report, summary

    with ExitStack() as stack:
        bundles = [_proved(run, stack) if is_bundle(run) else None for run in runs]
        read = [read_run(run) if bundle is None else bundle.run for run, bundle in zip(runs, bundles, strict=True)]
        proofs = [bundle for bundle in bundles if bundle is not None]
        name = title or "Comparison of low-rank networks"
        page = comparison_report(read, out, title=name, command=console.command_line(), bundles=proofs)
        console.say_report(page, summary(read))


def _proved(path: Path, stack: ExitStack) -> "BundleProof":
    """Return the proof of a bundle, whose files are there until the stack is closed.

    Raises:
        UserError: it is no bundle, or something in it is not proved.
    """
    with console.status("Loading torch"):
        from robust_lowrank.jobs.bundles import opened
    from robust_lowrank.reporting.output.provenance import BundleProof

    with console.status(f"Proving {path.name}"):
        bundle = stack.enter_context(opened(path))
        examination = bundle.prove()
    if not examination.sound:
        remedy = f"rlr-eval verify {shlex.quote(str(path))} says why"
        raise UserError(f"{shown(path)} is not proved, and no report was written: {remedy}")
    proofs = [result.verification for result in examination.results.values()]
    broken, robust = sum(each.proved for proof in proofs for each in proof.proofs), sum(proof.robust for proof in proofs)
    run = replace(bundle.run, path=path)
    examples = len(bundle.subject.y)
    return BundleProof(run, path.name, bundle.sha256, examples, broken, robust, examination.sized)


def condition(
    runs: RunsOrWeights,
    out: Annotated[Path, typer.Option(help="Directory of the report.")] = Path("reports/condition"),
    title: Title = None,
    json: Annotated[bool, typer.Option("--json", help="Print the layers' last values as JSON, beside writing the report.")] = False,
) -> None:
    """Write the condition-number report: singular values, condition numbers and ranks of every layer over training.

    A file of weights needs no architecture: the layers are read off its tensors.
    """
    from robust_lowrank.records import read_run
    from robust_lowrank.reporting import condition_report

    if missing := [run for run in runs if not run.exists()]:
        raise UserError(f"{missing[0]} is not there: give run directories, or files of weights")
    read = [_weights(run) if run.is_file() else read_run(run) for run in runs]
    page = condition_report(read, out, title=title or "Conditioning of the layers", command=console.command_line())
    if not json:
        console.say(f"Report: {page}")
        return
    listed = []
    for path, run in zip(runs, read, strict=True):
        last = run.spectra[run.spectra["epoch"] == run.spectra["epoch"].max()].drop(columns="epoch")
        listed.append({"run": str(path), "label": run.record.label, "layers": console.rows(last)})
    console.print_json(listed)


def _weights(path: Path) -> "Run":
    from robust_lowrank.jobs.subjects import weights_run  # loads torch, which runs need not

    return weights_run(path)
