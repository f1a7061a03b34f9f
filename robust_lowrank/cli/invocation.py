"""Records and reports name the command line as it was given."""

import shlex
import sys


def command_line() -> str:
    """Return the command that makes this again, with the program's own name in place of its path."""
    return shlex.join(["rlr-eval", *sys.argv[1:]])
