"""Reports from run directories: the comparison of networks, and the conditioning of their layers.

The way through the files: `entries` names the runs, `trials` finds what may be compared, `comparisons` tests it, `spectra`
reads the conditioning; tables, charts and summaries are made of these, and `page` renders them.
"""

from robust_lowrank.reporting.comparison import comparison_report, summary
from robust_lowrank.reporting.condition import condition_report

__all__ = ["comparison_report", "condition_report", "summary"]
