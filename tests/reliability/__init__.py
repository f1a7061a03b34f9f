"""Faults are injected into real commands, and what survived is counted: `python -m tests.reliability`."""
