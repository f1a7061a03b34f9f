"""`python -m tests.mutations [NAME...]`: show that the tests notice each deliberate defect, or name those that survive."""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.mutations.mutate import MutationError, caught_by, check_clean, copy_project, defects


def main(names: list[str]) -> int:
    """Try the named defects, or all, and return the exit code."""
    known = defects()
    if unknown := [name for name in names if name not in known]:
        raise MutationError(f"no defect is called {', '.join(unknown)}; there are: {', '.join(known)}")
    chosen = [known[name] for name in names or known]
    width = max(len(defect.name) for defect in chosen)
    survivors = 0
    with TemporaryDirectory() as directory:
        copy = Path(directory).resolve()
        started = time.monotonic()
        copy_project(copy)
        check_clean(copy, chosen)
        tell(f"{'none':{width}}  {time.monotonic() - started:5.1f} s  the tests pass")
        for defect in chosen:
            begun = time.monotonic()
            test = caught_by(copy, defect)
            survivors += test is None
            tell(f"{defect.name:{width}}  {time.monotonic() - begun:5.1f} s  {test or f'SURVIVES: {defect.why}'}")
        tell(f"{len(chosen) - survivors} of {len(chosen)} defects caught in {time.monotonic() - started:.0f} s")
    return int(survivors > 0)


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except MutationError as error:
        sys.exit(str(error))
