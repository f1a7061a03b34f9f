"""The index of published reports: `python -m robust_lowrank.reporting.index reports` writes reports/README.md."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_lowrank.errors import UserError
from robust_lowrank.records import write_text
from robust_lowrank.reporting.output import page

_NAMES = ("report", "condition")
_TITLE = "# Published reports"  # as the template says it
_NOT_KEPT = {"demo"}  # `make demo` makes it again in two minutes


@dataclass(frozen=True)
class Published:
    """A report as its JSON file describes it; `folder` and `name` are where its page lies."""

    folder: str
    name: str
    title: str
    subtitle: str
    created: str
    command: str
    headline: str
    supported: tuple[str, ...]  # what else a test supports
    files: tuple[str, ...]
    picture: str | None  # its first figure


def published(directory: Path) -> list[Published]:
    """Return the reports in the folders of `directory`, by folder.

    Raises:
        UserError: a report's JSON file cannot be read.
    """
    return [
        _read(path)
        for folder in sorted(directory.iterdir())
        if folder.is_dir() and folder.name not in _NOT_KEPT
        for name in _NAMES
        if (path := folder / f"{name}.json").is_file()
    ]


def write_index(directory: Path) -> Path:
    """Write `directory`/README.md: a section a report with its main statement, its files and the command that makes it again.

    Raises:
        UserError: `directory` is no directory, or a report in it cannot be read.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory: reports lie in folders of it, one each")
    path = directory / "README.md"
    if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(_TITLE):
        raise UserError(f"{path} is not an index of reports: it would be overwritten")
    write_text(path, page.markdown("index.md", reports=published(directory)))
    return path


def _read(path: Path) -> Published:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        texts = {key: str(document[key]) for key in ("title", "subtitle", "created", "command")}
        summary, files = document["summary"], [str(file) for file in document["files"]]
        return Published(
            folder=path.parent.name,
            name=path.stem,
            headline=str(summary["headline"]),
            supported=tuple(str(finding["text"]) for finding in summary["findings"] if finding["kind"] == "supported"),
            files=tuple(file for file in files if not file.startswith("figures/")),
            picture=next((file for file in files if file.startswith("figures/") and file.endswith(".svg")), None),
            **texts,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not the JSON file of a report ({type(error).__name__}: {error}); write the report again"
        ) from error


def _main() -> None:
    try:
        write_index(Path(sys.argv[1] if len(sys.argv) > 1 else "reports"))
    except UserError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    _main()
