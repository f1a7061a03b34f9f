"""The condition-number report: how well the layers of networks are conditioned, and how they came to be so."""

from collections.abc import Sequence
from pathlib import Path

from robust_lowrank.errors import UserError
from robust_lowrank.records import Run, RunFiles
from robust_lowrank.reporting.comparing.evidence import Evidence, gather
from robust_lowrank.reporting.condition_summary import summarise
from robust_lowrank.reporting.formats import numbers
from robust_lowrank.reporting.output.files import write_report
from robust_lowrank.reporting.output.frames import layers_frame
from robust_lowrank.reporting.output.provenance import provenance
from robust_lowrank.reporting.sections.registry import CONDITION, find_sections


def condition_report(runs: Sequence[Run], out: Path, *, title: str, command: str) -> Path:
    """Write `condition.html` with its other formats and `figures/` under `out` and return the path of the page.

    Every layer of every run: condition number, singular values, ranks, worst layers first, their history over training, and
    their norms as operators where these are recorded.

    Args:
        runs: as read by `records.read_run`.
        out: directory; made if it is missing.
        title: heading of the report.
        command: what makes this report again; shown in it.

    Raises:
        UserError: there are no runs, or none of them has recorded spectra.
    """
    evidence = Evidence(gather(runs).measured)
    if not evidence.entries:
        raise UserError(f"{RunFiles(runs[0].path).spectra} is empty: its network shows no layers, or was not trained for an epoch")
    return write_report(
        out,
        "condition",
        title=title,
        subtitle=f"Conditioning of {numbers.times(len(evidence.entries), 'network')}",
        summary=summarise(evidence.entries),
        sections=find_sections(CONDITION, evidence),
        provenance=provenance(evidence.entries, command),
        methods=evidence.methods,
        table_name="condition",
        table=layers_frame(evidence.entries),
    )
