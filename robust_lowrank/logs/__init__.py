"""Logs of other tools say of each example whether a system got it right; they are read as data, and compared in pairs."""

from robust_lowrank.logs.paired import Paired, System, better, compare, power
from robust_lowrank.logs.reading import Log, named, read_log
from robust_lowrank.logs.scores import Choice

__all__ = ["Choice", "Log", "Paired", "System", "better", "compare", "named", "power", "read_log"]
