"""The footer of a Parquet file is read for the sizes that it declares, before a library expands anything, or dies of it.

pyarrow ends the whole process where the description of a column in a damaged footer contradicts itself and Python asks for it. The
footer is a struct of Thrift's compact protocol: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md,
with the fields of https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift.
"""

from pathlib import Path
from typing import Any

MAGIC = b"PAR1"
LARGEST = 2**26  # bytes of a footer
DEEPEST = 16  # structs and lists within one another
NUMBER = 8  # bytes

ROWS, ROW_GROUPS = 3, 4  # of the file
COLUMNS = 1  # of a row group
DESCRIPTION = 3  # of a column in it
VALUES, UNCOMPRESSED = 5, 6  # of that

_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 0, 1, 2, 3, 7, 8, 9, 10, 11, 12
_WHOLE = (4, 5, 6)


def declared_size(path: Path, size: int) -> int:
    """Return how many bytes a Parquet file of `size` bytes says that it has when it is expanded.

    Raises:
        ValueError: it has no sound footer.
    """
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        end = file.read(8)
        length = int.from_bytes(end[:4], "little")
        if end[4:] != MAGIC or length > min(size - 8, LARGEST):
            raise ValueError("it is no Parquet file, or its end is missing")
        file.seek(size - 8 - length)
        footer = _Reader(file.read(length)).struct(0)
    rows, total, columns = _number(footer, ROWS), 0, 0
    for group in _structs(footer, ROW_GROUPS):
        chunks = [chunk.get(DESCRIPTION) for chunk in _structs(group, COLUMNS)]
        columns = max(columns, len(chunks))
        for chunk in chunks:
            if not isinstance(chunk, dict):
                raise ValueError("its footer describes a column by nothing")
            total += max(NUMBER * _number(chunk, VALUES), _number(chunk, UNCOMPRESSED))
    return max(total, NUMBER * rows * columns)


def _number(struct: dict[int, Any], field: int) -> int:
    value = struct.get(field)
    if type(value) is not int or value < 0:
        raise ValueError("a size in its footer is none")
    return value


def _structs(struct: dict[int, Any], field: int) -> list[dict[int, Any]]:
    value = struct.get(field)
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError("its footer lacks a list")
    return value


class _Reader:
    """Reads values of the compact protocol from bytes; structs are tables of their fields by number, maps are left out."""

    def __init__(self, content: bytes) -> None:
        self._content, self._place = content, 0

    def struct(self, depth: int) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != _STOP:
            number = number + (head >> 4) if head >> 4 else self._whole()
            kind = head & 15
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth + 1)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > DEEPEST:
            raise ValueError("its footer is nested too deep")
        if kind in (_TRUE, _FALSE, _BYTE):  # truths are bytes in lists
            return self._byte()
        if kind in _WHOLE:
            return self._whole()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind == _STRUCT:
            return self.struct(depth)
        if kind in (_LIST, _SET):
            head = self._byte()
            count = self._varint() if head >> 4 == 15 else head >> 4
            return [self._value(head & 15, depth + 1) for _ in range(self._held(count))]
        if kind == _MAP:
            count = self._held(self._varint())
            kinds = self._byte() if count else 0
            for _ in range(count):
                self._value(kinds >> 4, depth + 1)
                self._value(kinds & 15, depth + 1)
            return None
        raise ValueError("its footer holds a value of no kind")

    def _held(self, count: int) -> int:
        """Return a number of elements, of which each takes a byte or more."""
        if count > len(self._content) - self._place:
            raise ValueError("its footer ends early")
        return count

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, length: int) -> bytes:
        found = self._content[self._place : self._place + self._held(length)]
        self._place += length
        return found

    def _whole(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number in its footer has no end")
