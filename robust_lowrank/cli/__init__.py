"""The command `rlr-eval`: train, attack, watch the conditioning, report."""

from robust_lowrank.cli.app import main as main
