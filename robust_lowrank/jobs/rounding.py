"""The verdicts of a stored result are formed again in other ways, and kept beside it."""

from typing import TYPE_CHECKING

import numpy as np

from robust_lowrank import evaluation, records
from robust_lowrank.exporting.plain import always, never, plain
from robust_lowrank.jobs.attack import Attack
from robust_lowrank.jobs.chain import Job, subject_of
from robust_lowrank.layers import named_factored_layers

if TYPE_CHECKING:
    import pandas as pd


def recompute(job: Job, attack: Attack, name: str) -> "pd.DataFrame":
    """Form the verdicts of a job's result again (`evaluation.recompute`), store them as `records.ROUNDING`, and return them.

    A network with factored layers is computed merged and in thin layers, too, and in bfloat16 as such.

    Args:
        name: of the directory of the attack's result.
    """
    import pandas as pd

    files, subject = records.RunFiles(job.out).result(name), subject_of(job, attack)
    stored = [evaluation.read_adversarial(path) for path in (files.adversarial, files.closest) if path.is_file()]
    forms = {}
    if any(named_factored_layers(subject.model)):
        forms = {"merged": plain(subject.model, never), "thin layers": plain(subject.model, always)}
        forms["thin layers, bfloat16"] = plain(subject.model, always).bfloat16()  # factors themselves stay in float32
    found = evaluation.recompute(subject.model, subject.x, subject.y, stored, forms)
    rows = [each._asdict() | {"changed": np.array(each.changed, dtype=float)} for each in found]
    table = pd.DataFrame(rows, columns=pd.Index(records.ROUNDING))
    records.write_frame(files.rounding, table)
    records.write_sealed(files.record, records.read_record(files.record, records.ResultRecord), files.beside)
    return table
