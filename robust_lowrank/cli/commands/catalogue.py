"""`rlr-eval list`."""

import dataclasses
import inspect
from typing import Annotated, Any, Literal, get_args

import typer
from rich.markup import escape
from rich.table import Table

from robust_lowrank.cli import console

Kind = Literal["methods", "models", "data", "suites", "experiments"]


def list_names(
    kind: Annotated[Kind | None, typer.Argument(help="Only these names; all without it.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the names as JSON.")] = False,
) -> None:
    """List the names that the other commands take: methods with their options, models, data sets, attack suites and experiments."""
    listed = {name: _entries(name) for name in ([kind] if kind else get_args(Kind))}
    if json:
        console.print_json(listed)
        return
    for title, entries in listed.items():
        table = Table(title, "", "", box=None, pad_edge=False)
        for entry in entries:
            told = _told(entry) if "attacks" in entry else entry.get("options", {})
            options = ", ".join(f"{key} {value}" for key, value in told.items())
            table.add_row(entry["name"], escape(entry["summary"]), escape(options))
        console.print_table(table)


def _entries(kind: str) -> list[dict[str, Any]]:
    if kind == "methods":
        from robust_lowrank.methods import METHODS

        dense = {"name": "dense", "summary": "The network as it is: no factorisation, the inner optimizer alone.", "options": {}}
        return [dense] + [
            {
                "name": name,
                "summary": (inspect.getdoc(method) or "").splitlines()[0],
                "options": dataclasses.asdict(method()),  # pyright: ignore[reportArgumentType]
            }
            for name, method in METHODS.items()
        ]
    if kind == "suites":
        from robust_lowrank.evaluation import load_suite, suite_names

        return [
            {
                "name": suite.name,
                "summary": suite.description,
                "norm": suite.norm,
                "attacks": [{"name": spec.label, "attack": spec.kind, "eps": list(suite.radii(spec))} for spec in suite.attacks],
            }
            for suite in map(load_suite, suite_names())
        ]
    if kind == "experiments":
        from robust_lowrank.jobs import experiment_names, load_experiment

        return [{"name": name, "summary": load_experiment(name).description} for name in experiment_names()]
    from robust_lowrank.data import DATASETS
    from robust_lowrank.models import MODELS

    return [{"name": name, "summary": entry.summary} for name, entry in (MODELS if kind == "models" else DATASETS).items()]


def _told(suite: dict[str, Any]) -> dict[str, str]:
    """Return what a suite's line says beside its description: its attacks with their budgets, those in common once."""
    attacks, norm = suite["attacks"], suite["norm"]
    if all(attack["eps"] == attacks[0]["eps"] for attack in attacks):
        return {", ".join(attack["name"] for attack in attacks): f"at {norm} {_span(attacks[0]['eps'])}"}
    return {attack["name"]: f"at {norm} {_span(attack['eps'])}" for attack in attacks}


def _span(radii: list[float]) -> str:
    low, high = f"{radii[0]:.4g}", f"{radii[-1]:.4g}"
    return low if len(radii) == 1 else f"{low} to {high} ({len(radii)})"
