"""Inject faults into commands and write what became of them to docs/reliability.md: `python -m tests.reliability --help`.

Rows of faults that are not injected this time stay as they are.
"""

import argparse
import sys
from pathlib import Path

import robust_lowrank.cli.app
import robust_lowrank.jobs
import robust_lowrank.reporting  # noqa: F401 what every command needs is there before it is forked
from robust_lowrank.provenance import machine
from tests.reliability.commands import SCENARIOS, Stage
from tests.reliability.disks import fill
from tests.reliability.fuzz import fuzz
from tests.reliability.hostile import give
from tests.reliability.kills import kill

OUT = Path("docs/reliability.md")
MARK = "<!-- what follows is written by python -m tests.reliability -->"
FULL = ("train", "attack", "certify", "report", "bench, two workers")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--kills", type=int, default=44, help="of each command (default: 44)")
    parser.add_argument("--disks", type=int, default=6, help="that are full, for each command (default: 6)")
    parser.add_argument("--fuzz", type=int, default=1000, help="damaged files for each parser (default: 1000)")
    parser.add_argument("--hostile", type=int, default=1000, help="things of each kind, given to all commands (default: all)")
    parser.add_argument("--of", choices=SCENARIOS, help="the only command to kill and to fill the disk of (default: all)")
    options = parser.parse_args()
    rows: list[tuple[str, int, int, str, list[str]]] = []

    def tell(fault: str, injected: int, survived: int, faults: list[str], cost: str = "") -> None:
        rows.append((fault, injected, survived, cost, faults))
        sys.stdout.write(f"{fault}: {injected} injected, {survived} survived, {len(faults)} faults; {cost}\n")
        sys.stdout.writelines(f"  {fault}\n" for fault in faults[:10])
        sys.stdout.flush()

    with Stage() as stage:
        for scenario in SCENARIOS.values() if options.kills else ():
            if options.of not in (None, scenario.name):
                continue
            found = kill(scenario, options.kills, stage)
            tell(f"`{scenario.name}` killed", found.killed, found.killed if not found.faults else 0, found.faults)
    for name in FULL if options.disks else ():
        if options.of not in (None, name):
            continue
        disks = fill(name, options.disks)
        tell(f"the disk full in `{name}`", disks.full, disks.full if not disks.faults else 0, disks.faults)
    if options.fuzz:
        for each in fuzz(options.fuzz):
            cost = f"{each.seconds / each.cases:.2f} s each, {_mib(each.growth)} more"
            tell(f"damage for {each.what}", each.cases, each.cases - len(each.faults), each.faults, cost)
    if options.hostile:
        for given in give(options.hostile):
            cost = f"{given.seconds:.1f} s, {_mib(given.growth)} more, of one"
            name = f"a hostile {given.kind}, {given.things} of them, given to a command"
            tell(name, given.given, given.survived, given.faults, cost)
    text, _, before = OUT.read_text(encoding="utf-8").partition(MARK)
    table = {line.split(" | ")[0]: line for line in before.splitlines() if line.startswith("| ")}
    for line in ("| fault | injected | survived | lost | at most |", "| --- | ---: | ---: | ---: | --- |"):
        table.setdefault(line.split(" | ")[0], line)
    for fault, injected, survived, cost, _ in rows:
        table[f"| {fault}"] = f"| {fault} | {injected:,} | {survived:,} | {injected - survived:,} | {cost} |"
    OUT.write_text(f"{text}{MARK}\n\n" + "\n".join(table.values()) + f"\n\n`make reliability`, {machine()}.\n", encoding="utf-8")
    return int(any(faults for *_, faults in rows))


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


if __name__ == "__main__":
    sys.exit(main())
