"""Writers keep a monitor's rows as JSON lines, Parquet, TensorBoard charts, or in memory."""

import json
import math
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from robust_lowrank.conditioning.alerts import QUANTITIES
from robust_lowrank.conditioning.history import History, Row
from robust_lowrank.errors import UserError
from robust_lowrank.extras import needed
from robust_lowrank.records import MONITOR, replacing

if TYPE_CHECKING:
    import pandas as pd


class Writer(Protocol):
    """Takes a monitor's rows, which have the columns of `records.MONITOR` and ascending steps."""

    def write(self, rows: Sequence[Row]) -> None:
        """Take the rows of one step."""

    def rewind(self, step: int) -> None:
        """Forget all rows after a step, from which training goes on."""

    def close(self) -> None:
        """Write what is not yet written."""


class MemoryWriter:
    """Keeps all rows.

    Example:
        >>> memory = MemoryWriter()
        >>> memory.frame()["layer"].tolist()
        []
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []

    @property
    def last_step(self) -> int:
        """The last step that has rows; 0 without any."""
        return max((int(row["step"]) for row in self.rows), default=0)

    def write(self, rows: Sequence[Row]) -> None:
        """Keep rows."""
        self.rows += rows

    def rewind(self, step: int) -> None:
        """Drop the rows after a step."""
        self.rows[:] = [row for row in self.rows if row["step"] <= step]

    def close(self) -> None:
        """Do nothing."""

    def frame(self) -> "pd.DataFrame":
        """Return the rows as a table with the columns of `records.MONITOR`."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=pd.Index(MONITOR))


class ParquetWriter:
    """Keeps all rows and writes them as one table at `flush` and at the end, whole at any time; a file that is there is continued.

    What an error in the training has left unwritten is written when the writer goes, at the latest as Python ends; a kill leaves
    the file as it was at the last `flush`.

    Example:
        >>> ParquetWriter("/tmp/monitor-example.parquet").close()

    Raises:
        UserError: the file that is there is not such a table.
    """

    def __init__(self, path: Path | str) -> None:
        self.path: Path = Path(path)
        self._history = History()
        if self.path.exists():
            self._history.read(self.path)
        self._seen: dict[Path, int] = {}
        _look(self.path, self._seen)
        weakref.finalize(self, _write_unsaved, self.path, self._history, self._seen)

    def __len__(self) -> int:
        return len(self._history)

    @property
    def last_step(self) -> int:
        """The last step that has rows; 0 without any."""
        return self._history.last_step

    def write(self, rows: Sequence[Row]) -> None:
        """Keep rows."""
        self._history.write(rows)

    def rewind(self, step: int) -> None:
        """Drop the rows after a step."""
        self._history.rewind(step)

    def frame(self) -> "pd.DataFrame":
        """Return the rows as a table with the columns of `records.MONITOR`."""
        return self._history.frame()

    def flush(self) -> None:
        """Write the table."""
        self._history.save(self.path)
        _look(self.path, self._seen)

    def close(self) -> None:
        """Write the table."""
        self.flush()


def _look(path: Path, seen: dict[Path, int]) -> None:
    """Remember when a file was written last, if it is there."""
    if path.exists():
        seen[path] = path.stat().st_mtime_ns


def _write_unsaved(path: Path, history: History, seen: dict[Path, int]) -> None:
    """Write what a writer that has gone left unwritten, unless another one has written the file since."""
    if history.unsaved and (path.stat().st_mtime_ns if path.exists() else None) == seen.get(path):
        history.save(path)


class JsonlWriter:
    """Appends a line of JSON a row, and loses none to a kill: what a kill tore is dropped when the file is opened again.

    NaN is written as null and infinity as the string "inf", as strict JSON has neither.

    Example:
        >>> JsonlWriter("/tmp/monitor-example.jsonl").close()

    Raises:
        UserError: the file that is there does not consist of such lines.
    """

    def __init__(self, path: Path | str) -> None:
        self.path: Path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.last_step = self._keep(math.inf)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows and hand them to the operating system."""
        self._file.writelines(json.dumps({name: _strict(value) for name, value in row.items()}) + "\n" for row in rows)
        self._file.flush()

    def rewind(self, step: int) -> None:
        """Drop the lines after a step."""
        self._file.close()
        self.last_step: int = self._keep(step)
        self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _keep(self, step: float) -> int:
        """Rewrite the file without lines after a step and a last one that a kill tore, if any; return the last step that stays."""
        if not self.path.exists():
            return 0
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        whole = lines[:-1] if lines and self._is_torn(lines[-1]) else lines
        steps = [self._step(line) for line in whole]
        kept = [line for line, number in zip(whole, steps, strict=True) if number <= step]
        if len(kept) < len(lines):
            with replacing(self.path) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")
        return max((number for number in steps if number <= step), default=0)

    def _is_torn(self, line: str) -> bool:
        beginning = '{"step": '
        return not line.endswith("\n") and (line.startswith(beginning) or beginning.startswith(line))

    def _step(self, line: str) -> int:
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path} has a line that no monitor wrote: choose another name") from error


class TensorBoardWriter:
    """Charts every quantity of every layer as "LAYER/QUANTITY"; needs the extra `tensorboard`.

    Example:
        >>> TensorBoardWriter("runs/condlr/tensorboard")  # doctest: +SKIP

    Raises:
        UserError: TensorBoard is not installed.
    """

    def __init__(self, directory: Path | str) -> None:
        with needed("tensorboard", "a TensorBoardWriter"):
            from torch.utils.tensorboard.writer import SummaryWriter
        self._open = lambda purge=None: SummaryWriter(str(directory), purge_step=purge)
        self._summaries = self._open()

    def write(self, rows: Sequence[Row]) -> None:
        """Add a point to every chart; quantities that are NaN have none."""
        for row in rows:
            for name in QUANTITIES:
                if not math.isnan(row[name]):
                    self._summaries.add_scalar(f"{row['layer']}/{name}", row[name], row["step"])

    def rewind(self, step: int) -> None:
        """Have TensorBoard hide the points after a step."""
        self._summaries.close()
        self._summaries = self._open(step + 1)

    def close(self) -> None:
        """Write the last points."""
        self._summaries.close()


def _strict(value: Any) -> Any:
    if isinstance(value, list):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
