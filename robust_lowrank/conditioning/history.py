"""The history of a monitor takes little memory, however long it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robust_lowrank.errors import UserError, first_line
from robust_lowrank.records import MONITOR, read_table, replacing

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Row = dict[str, Any]
GROUP = 2**16  # rows of a file that are written together
RECENT = 4096  # rows that are kept as they came, before they become columns


class History:
    """Keeps all rows of `records.MONITOR`, most of them in columns: a writer of a monitor.

    Attributes:
        unsaved: whether rows have come that no file has.

    Example:
        >>> history = History()
        >>> len(history), history.last_step
        (0, 0)
    """

    def __init__(self) -> None:
        self._parts: list[pa.Table] = []
        self._recent: list[Row] = []
        self.unsaved: bool = False

    def __len__(self) -> int:
        return sum(part.num_rows for part in self._parts) + len(self._recent)

    @property
    def last_step(self) -> int:
        """The last step that has rows; 0 without any."""
        last = [int(part["step"].to_numpy().max()) for part in self._parts if part.num_rows]
        return max([*last, *(int(row["step"]) for row in self._recent)], default=0)

    def read(self, path: Path) -> None:
        """Keep the rows of a file too.

        Raises:
            UserError: it is not such a table.
        """
        try:
            table = read_table(path, MONITOR)
            if len(table.column_names) > len(MONITOR):
                raise UserError("it has further columns")
            self._parts.append(table.select(MONITOR).cast(_schema()))
        except ValueError as error:  # a UserError is one; Arrow's are of columns that it cannot cast
            raise UserError(f"{path} is not a table of a monitor: {first_line(error)}; choose another name") from error

    def write(self, rows: Sequence[Row]) -> None:
        """Keep rows."""
        self._recent += rows
        self.unsaved = self.unsaved or len(rows) > 0
        if len(self._recent) >= RECENT:
            self._pack()

    def rewind(self, step: int) -> None:
        """Drop the rows after a step."""
        import pyarrow as pa

        self._parts = [part.filter(pa.array(part["step"].to_numpy() <= step)) for part in self._parts]
        self._recent = [row for row in self._recent if row["step"] <= step]

    def close(self) -> None:
        """Do nothing."""

    def frame(self) -> "pd.DataFrame":
        """Return the rows as a table with the columns of `records.MONITOR`."""
        return self._table().to_pandas()

    def save(self, path: Path) -> None:
        """Write the rows as Parquet at once."""
        import pyarrow.parquet as pq

        with replacing(path) as temporary:
            pq.write_table(self._table(), temporary, row_group_size=GROUP)
        self.unsaved = False

    def _table(self) -> "pa.Table":
        import pyarrow as pa

        self._pack()
        return pa.concat_tables(self._parts) if self._parts else _schema().empty_table()

    def _pack(self) -> None:
        import pyarrow as pa

        if self._recent:
            self._parts.append(pa.Table.from_pylist(self._recent, schema=_schema()))
            self._recent = []


def _schema() -> "pa.Schema":
    import pyarrow as pa

    kinds = {"step": pa.int64(), "rank": pa.int64(), "factored": pa.bool_(), "singular_values": pa.list_(pa.float64())}
    kinds |= dict.fromkeys(("layer", "kind"), pa.large_string())
    return pa.schema([(name, kinds.get(name, pa.float64())) for name in MONITOR])
