"""The scripts in examples/ become notebooks of the site, when it is built."""

from pathlib import Path
from typing import Any

import jupytext
from mkdocs.structure.files import File


def on_files(files: Any, config: Any) -> Any:
    """Add a notebook for each script."""
    for script in sorted((Path(config.config_file_path).parent / "examples").glob("*.py")):
        notebook = jupytext.writes(jupytext.read(script), fmt="ipynb")
        files.append(File.generated(config, f"examples/{script.stem}.ipynb", content=notebook))
    return files
