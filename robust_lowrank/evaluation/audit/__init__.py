"""The audit looks for signs of masked gradients, with a remedy each.

A check is a function of the `Evidence` that returns one finding, or None if it has nothing to look at. The checks stand in the
file of what they look at: the clean pass (`clean_checks`), the ledgers of the attacks (`attack_checks`, `fidelity`), and small
extra attacks that the audit runs itself (`probes` measures, `probe_checks` judges).
"""

from robust_lowrank.evaluation.audit import attack_checks, clean_checks, fidelity, probe_checks
from robust_lowrank.evaluation.audit.evidence import Check, Evidence
from robust_lowrank.evaluation.audit.planted import Engine, Planted, plant
from robust_lowrank.evaluation.audit.probes import Probes, probe
from robust_lowrank.records import AuditFinding

__all__ = ["Engine", "Evidence", "Planted", "Probes", "audit", "plant", "probe"]


def audit(evidence: Evidence) -> list[AuditFinding]:
    """Return one finding a check; checks that have nothing to look at are left out.

    Example:
        >>> [finding.check for finding in audit(Evidence(clean, 10, ledgers, True)) if finding.status == "fail"]
        []

    Source: the signs are those of Athalye et al. 2018 (arXiv 1802.00420), Carlini et al. 2019 (arXiv 1902.06705) and Croce and
    Hein 2020 (arXiv 2003.01690).
    """
    return [finding for check in _CHECKS if (finding := check(evidence)) is not None]


_CHECKS: tuple[Check, ...] = (*clean_checks.CHECKS, *attack_checks.CHECKS, fidelity.pass_counts, *probe_checks.CHECKS)
