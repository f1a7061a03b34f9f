"""A result or a certificate belongs to a run if it is of the network that the run's record names."""

from collections.abc import Iterator

from robust_lowrank.records.behaviour import unlike
from robust_lowrank.records.run import Run


def strangers(run: Run) -> Iterator[str]:
    """Yield in words which results and certificates in a run directory are of another network than the run's.

    Example:
        >>> list(strangers(records.read_run(Path("runs/condlr"))))  # doctest: +SKIP
        []
    """
    own = run.record.hashes.get("weights", "")
    parts = [(f"results/{name}", result.record) for name, result in run.results.items()]
    parts += [(f"certificates/{name}", certificate.record) for name, certificate in run.certificates.items()]
    for name, record in parts:
        theirs = record.hashes.get("weights", "")
        if theirs != own:
            yield f"{run.path}/{name} is of other weights ({theirs[:12] or 'none'}) than run.json names ({own[:12] or 'none'})"
        elif where := unlike(run.record.behaviour, record.behaviour):
            yield f"{run.path}/{name} is of a network with these weights and other answers, {where}"
