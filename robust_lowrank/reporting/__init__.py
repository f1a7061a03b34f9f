"""Reports from run directories compare networks, and show the conditioning of layers; a page compares logs of other tools.

The rooms, from below: `formats` has the forms in which things are shown, `comparing` names the runs and tests what may be
compared, `sections` turns that into the parts of a report, `output` writes its files.
"""

from robust_lowrank.extras import needed

with needed("report", "a report"):
    import vl_convert as vl_convert  # which draws in a process of its own

    from robust_lowrank.reporting.comparison import comparison_report, overview, summary
    from robust_lowrank.reporting.condition import condition_report
    from robust_lowrank.reporting.paired import paired_report

__all__ = ["comparison_report", "condition_report", "overview", "paired_report", "summary"]
