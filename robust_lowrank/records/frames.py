"""Tables are read within what their files declare, and every column is looked at before it is used."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from robust_lowrank.bounds import regular_size
from robust_lowrank.errors import UserError, first_line, shown
from robust_lowrank.records.columns import KINDS, is_numbers
from robust_lowrank.records.footer import declared_size
from robust_lowrank.records.parsing import require_there
from robust_lowrank.records.values import escaped

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

EXPANDED = 256 * 2**20  # bytes that a small file may become,
RATIO = 16  # and how many times its own size a larger one
COLUMNS = 1000
LONGEST = 1000  # characters of a text


def read_frame(path: Path, columns: Collection[str] = (), *, compact: bool = False) -> "pd.DataFrame":
    """Read a Parquet table, as `read_table` does.

    Args:
        columns: those that it must have; others come too.
        compact: texts become categories, and whole numbers take no more bytes than they need: a third of the memory for tables of
            many rows that say the same.

    Raises:
        UserError: there is no such file, it is not a table, or one of the `columns` is missing or holds something else.
    """
    table = read_table(path, columns)
    return (_compact(table) if compact else table).to_pandas()


def read_table(path: Path, columns: Collection[str] = ()) -> "pa.Table":
    """Read a Parquet table as one of Arrow.

    A file is refused before it is expanded where it declares far more than it holds. Texts come in one line, as `errors.shown`.

    Args:
        columns: those that it must have; others come too.

    Raises:
        UserError: there is no such file, it is not a table, or one of the `columns` is missing or holds something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    require_there(path)
    size = regular_size(path)
    try:
        if (declared := declared_size(path, size)) > max(EXPANDED, RATIO * size):
            raise UserError(f"{path} cannot be read: its {size:,} bytes would become {declared:,}, which no table of a run does")
        with pq.ParquetFile(path) as file:
            texts = _checked(path, file, columns)
        with pq.ParquetFile(path, read_dictionary=texts) as file:  # repeated texts stay one until their lengths are known
            parts = [file.read_row_group(number) for number in range(file.num_row_groups)]  # what is decoded is soon free again
            table = pa.concat_tables([file.schema_arrow.empty_table(), *parts]).replace_schema_metadata(None)
        for name in texts:
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, _decoded(path, name, table[name], max(EXPANDED, RATIO * size)))
        for name in columns if len(table) else ():
            if fault := KINDS[name].fault(table[name]):
                raise _damaged(path, name, fault)
        return table
    except UserError:
        raise
    except (OSError, pa.ArrowException, ValueError, LookupError, TypeError, AttributeError, MemoryError) as error:
        raise UserError(f"{path} cannot be read: {shown(first_line(error))}") from error  # it is damaged in one of many ways


def _checked(path: Path, file: "ParquetFile", columns: Collection[str]) -> list[str]:
    """Return the names of the columns of texts, after making sure that the file is a table of the due types and of a due size.

    Raises:
        UserError: it is not.
    """
    import pyarrow as pa

    schema, rows = file.schema_arrow, file.metadata.num_rows
    if len(schema.names) > COLUMNS or len(set(schema.names)) < len(schema.names):
        raise UserError(f"{path} cannot be read: it has a column twice, or more than {COLUMNS}")
    if lacking := [column for column in columns if column not in schema.names]:
        raise UserError(f"{path} has no column {lacking[0]!r}: it is another table, or was changed; make it again")
    for field in schema:
        known = KINDS[field.name].fits(field.type) if field.name in columns and rows else _plain(field.type)
        if not known:
            raise _damaged(path, field.name, f"is of the type {field.type!s:.60}")
    return [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]


def _plain(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    types = pa.types
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return number or types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind) or is_numbers(kind)


def _decoded(path: Path, name: str, column: "pa.ChunkedArray", most: int) -> "pa.ChunkedArray":
    """Return a column of texts, each in one line, after making sure that they are short, and no more bytes than so many together.

    Raises:
        UserError: they are not.
    """
    import numpy as np
    import pyarrow as pa

    parts, total = [], 0
    for part in column.chunks:
        words = [None if word is None else escaped(word) for word in part.dictionary.to_pylist()]
        lengths = np.array([0, *(len(word or "") for word in words)])
        total += int(lengths[1 + part.indices.fill_null(-1).to_numpy()].sum())
        if lengths.max() > LONGEST or total > most:
            raise _damaged(path, name, f"holds texts of more than {LONGEST} characters, or far too many")
        parts.append(pa.array(words, pa.large_string()).take(part.indices))
    return pa.chunked_array(parts, pa.large_string())


def _compact(table: "pa.Table") -> "pa.Table":
    """Return a table in which a text stands once, and whole numbers are of the narrowest type that holds them."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if pa.types.is_large_string(field.type):
            table = table.set_column(place, field.name, table.column(place).dictionary_encode())
        elif pa.types.is_integer(field.type) and len(values := table.column(place).drop_null().to_numpy()):
            largest = max(int(values.max()), -1 - int(values.min()))
            fitting = [kind for kind in (pa.int8(), pa.int16(), pa.int32()) if largest < 2 ** (kind.bit_width - 1)]
            table = table.set_column(place, field.name, table.column(place).cast((*fitting, field.type)[0]))
    return table


def _damaged(path: Path, column: str, fault: str) -> UserError:
    return UserError(f"{path}: column {shown(column)!r:.60} {shown(fault)}; the file is damaged or was changed: make it again")
