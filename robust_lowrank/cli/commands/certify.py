"""`rlr-eval certify`."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from robust_lowrank import numbers
from robust_lowrank.cli import console
from robust_lowrank.cli.commands.attack import Data, DataDir, Json
from robust_lowrank.cli.commands.elsewhere import TrustCode
from robust_lowrank.cli.commands.runs import Runs

if TYPE_CHECKING:
    from robust_lowrank.records import CertificateRecord

Smoothing = "Smoothing"


def certify(
    runs: Runs,
    method: Annotated[
        Literal["lipschitz", "smoothing"],
        typer.Option(help="A Lipschitz bound of the network, or the class it gives most often under noise."),
    ] = "lipschitz",
    n: Annotated[int | None, typer.Option("--n", help="Certify the first so many test images; all without it.")] = None,
    radius: Annotated[list[float] | None, typer.Option(help="L2 radius of the curve; may be given several times.")] = None,
    sigma: Annotated[float | None, typer.Option(rich_help_panel=Smoothing, help="Deviation of the noise; 0.25 without it.")] = None,
    samples: Annotated[int | None, typer.Option(rich_help_panel=Smoothing, help="Samples an example; 1000 without it.")] = None,
    alpha: Annotated[
        float | None, typer.Option(rich_help_panel=Smoothing, help="How often a certificate may be wrong; 0.001 without it.")
    ] = None,
    seed: Annotated[int | None, typer.Option(rich_help_panel=Smoothing, help="Seed of the noise; 0 without it.")] = None,
    data: Data = None,
    data_dir: DataDir = None,
    trust_code: TrustCode = False,
    json: Json = False,
) -> None:
    """Prove L2 radii within which no prediction changes, and store them below RUN/certificates.

    A certificate that is there for the same weights, images and parameters is kept.
    """
    from robust_lowrank.cli.progress import Board
    from robust_lowrank.jobs.certification import CertifyConfig, certify_run, subject_to_certify
    from robust_lowrank.jobs.chain import Location
    from robust_lowrank.jobs.forms import owner
    from robust_lowrank.records import read_run, writing

    config = CertifyConfig.resolve(method, sigma=sigma, samples=samples, alpha=alpha, seed=seed, radii=radius or ())
    subjects = [subject_to_certify(run, n, Location(data, data_dir), trust_code=trust_code) for run in runs]
    with writing(*map(owner, runs)), Board() as board:
        records = [certify_run(run, subject, config, board) for run, subject in zip(runs, subjects, strict=True)]
    labels = [read_run(run, results=False).record.label for run in runs]
    if json:
        rows = zip(runs, labels, records, strict=True)
        console.print_json([{"run": str(run), "label": label, "certificate": record.model_dump()} for run, label, record in rows])
        return
    table = Table("network", "radius", "certified", "interval", box=None, pad_edge=False)
    for label, record in zip(labels, records, strict=True):
        for point in record.curve:
            table.add_row(escape(label), f"{point.radius:g}", f"{point.value:.1%}", f"{point.low:.1%} to {point.high:.1%}")
    console.print_table(table)
    for label, record in zip(labels, records, strict=True):
        if record.bound is not None:
            console.say(f"{label}: Lipschitz bound {record.bound:.4g}{_why_nothing(record)}")
        for reason in record.reasons:
            console.say(f"{label} is not certified: {reason}")


def _why_nothing(record: "CertificateRecord") -> str:
    """Return why a bound proves nothing of examples that the network gets right; nothing where it does."""
    beyond = [point.value for point in record.curve if point.radius > 0]
    if any(beyond) or not beyond or not record.layers or not any(point.value for point in record.curve):
        return ""
    known = [(layer.constant, layer.layer) for layer in record.layers if layer.constant is not None]
    listed = numbers.listing([f"{name} ({constant:.3g})" for constant, name in sorted(known, reverse=True)[:3]])
    return (
        f", too large to prove anything at these radii. It is a product over layers, the steepest of which are {listed}: "
        "methods that bound them, such as condlr with tau 0, keep it small; --method smoothing needs none"
    )
