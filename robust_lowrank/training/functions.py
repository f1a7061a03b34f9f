"""A function that a run's record names is called where it is the user's own; any other is a stranger's wish."""

import ast
import sys
from pathlib import Path

from robust_lowrank.errors import UserError, shown

PACKAGES = ("torchvision", "timm")  # whose networks are named, not functions


def require_own(source: str, run_dir: Path, *, trust_code: bool) -> None:
    """Require a network of this package, torchvision or timm, or a function that a file below the current directory makes.

    The file is looked at, not imported. One in the run directory came with it and is not the user's.

    Args:
        source: as `models.make` takes it.
        run_dir: the run whose record names it.
        trust_code: the user takes whatever it names.

    Raises:
        UserError: the function is another one.
    """
    module, colon, name = source.rpartition(":")
    if not colon or module in PACKAGES or trust_code or _is_own(module, name, run_dir):
        return
    raise UserError(
        f"{run_dir} names the function {shown(source)[:200]} as its network's, which no file of yours in {Path.cwd()} defines\n"
        "To call it runs its code: go to that file's directory, or give --trust-code (in Python trust_code=True) if you trust it"
    )


def _is_own(module: str, name: str, run_dir: Path) -> bool:
    """Return whether a function is defined in a module below the current directory, or taken over there from its own package."""
    here, top = Path.cwd().resolve(), module.partition(".")[0]
    if not all(part.isidentifier() for part in (*module.split("."), name)) or top in sys.stdlib_module_names:
        return False
    loaded = getattr(sys.modules.get(top), "__file__", None)
    if loaded is not None and not Path(loaded).resolve().is_relative_to(here):
        return False
    stem = here.joinpath(*module.split("."))
    file = next((path.resolve() for path in (stem / "__init__.py", stem.with_suffix(".py")) if path.is_file()), None)
    if file is None or not file.is_relative_to(here) or file.is_relative_to(run_dir.resolve()):
        return False
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(_defines(statement, top, name) for statement in tree.body)


def _defines(statement: ast.stmt, package: str, name: str) -> bool:
    match statement:
        case ast.FunctionDef() | ast.ClassDef():
            return statement.name == name
        case ast.Assign():
            return any(isinstance(target, ast.Name) and target.id == name for target in statement.targets)
        case ast.ImportFrom():
            own = statement.level > 0 or (statement.module or "").partition(".")[0] == package
            return own and any((alias.asname or alias.name) == name for alias in statement.names)
    return False
