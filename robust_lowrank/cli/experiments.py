"""The experiments that come with the package."""

from importlib import resources
from pathlib import Path

from robust_lowrank.training import Experiment, load_experiment


def shipped(name: str) -> Experiment:
    """Return an experiment by name: from inside the installed package, or beside it in a source tree.

    Example:
        >>> shipped("demo").data.name
        'digits'

    Raises:
        UserError: there is none of that name.
    """
    package = Path(str(resources.files("robust_lowrank")))
    installed = package / "experiments"
    directory = installed if installed.is_dir() else package.parent / "experiments"
    return load_experiment(directory / f"{name}.toml")
