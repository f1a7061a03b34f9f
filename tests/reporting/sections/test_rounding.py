from dataclasses import replace

import numpy as np
import pandas as pd

from robust_lowrank.records import ROUNDING
from robust_lowrank.reporting.comparing.entries import arrange
from robust_lowrank.reporting.comparing.evaluations import find_evaluations
from robust_lowrank.reporting.sections.rounding import Rounding
from robust_lowrank.statistics import wilson

RIGHT = np.arange(100) < 90


def evaluation_of(make_run, make_result, rows):
    result = make_result(RIGHT, {("fgsm", 0.1): RIGHT})
    table = None if rows is None else pd.DataFrame(rows, columns=list(ROUNDING))
    return find_evaluations(arrange([make_run("A", results=[replace(result, rounding=table)])]))[0]


def test_the_share_of_each_way_and_its_fragile_examples_are_shown(make_run, make_result):
    rows = [
        ("float64", "clean", 0.0, 100, [7]),
        ("float64", "fgsm", 0.1, 60, [3, 7]),
        ("2 threads", "clean", 0.0, 100, []),
        ("2 threads", "fgsm", 0.1, 60, []),
    ]
    section = Rounding.from_evaluation(evaluation_of(make_run, make_result, rows))
    assert section.statement == "Verdicts that change with how the same numbers are computed: A up to 1.9 % (float64)."
    double, threads = section.table.rows
    assert [cell.text for cell in double] == ["A", "float64", "160", "3", "1.9", "3 (FGSM at 0.1), 7 (clean)"]
    assert double[4].sub == f"[{100 * wilson(3, 160).low:.1f}, {100 * wilson(3, 160).high:.1f}]"
    assert [cell.text for cell in threads[1:]] == ["2 threads", "160", "0", "0.0", "–"]


def test_without_stored_ways_there_is_no_section(make_run, make_result):
    assert Rounding.from_evaluation(evaluation_of(make_run, make_result, None)) is None
