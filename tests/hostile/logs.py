"""Hostile logs of examples, each in the place of one that is compared."""

import os
import zipfile
from pathlib import Path


def make_bomb_eval(folder: Path) -> Path:
    """Two hundred megabytes of blanks in a small archive."""
    with zipfile.ZipFile(path := folder / "bomb.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(7):
            archive.writestr(f"_journal/summaries/{number}.json", b" " * 2**25)
    return path


def make_lists_eval(folder: Path) -> Path:
    """A summary that is as long as one may be, and becomes eleven million lists."""
    with zipfile.ZipFile(path := folder / "lists.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("summaries.json", b"[" + b"[]," * 11_000_000 + b"[]]")
    return path


def make_climbing_eval(folder: Path) -> Path:
    """Members that would lie elsewhere, were they unpacked."""
    with zipfile.ZipFile(path := folder / "climbing.eval", "w") as archive:
        archive.writestr("../../owned.json", "[]")
        archive.writestr("samples/../../owned.json", "{}")
    return path


def make_crowded_eval(folder: Path) -> Path:
    """An archive of nothing but a million entries in its table of contents, all of one empty file."""
    with zipfile.ZipFile(path := folder / "crowded.eval", "w") as archive:
        archive.writestr("samples/1.json", "")
    content = path.read_bytes()
    begin, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    entries = content[begin:end] * 1_100_000
    tail = content[end : end + 12] + len(entries).to_bytes(4, "little") + content[end + 16 :]
    path.write_bytes(content[:begin] + entries + tail)
    return path


def make_nested_json(folder: Path) -> Path:
    """Lists within lists, deeper than a parser can go."""
    return _written(folder / "nested.json", b"[" * 1_000_000)


def make_endless_line_jsonl(folder: Path) -> Path:
    """A first line of a gigabyte of zeros, which takes no room on the disk."""
    with (path := folder / "endless.jsonl").open("wb") as file:
        file.write(b'{"doc_id": 1, "acc": 1, "x": "')
        file.truncate(2**30)
    return path


def make_sparse_csv(folder: Path) -> Path:
    """A file that says it has a terabyte."""
    with (path := folder / "sparse.csv").open("wb") as file:
        file.write(b"example,correct\n1,1\n")
        file.truncate(2**40)
    return path


def make_digits_csv(folder: Path) -> Path:
    """A score of a hundred thousand digits."""
    return _written(folder / "digits.csv", b"example,correct\n1," + b"9" * 100_000 + b"\n")


def make_colours_csv(folder: Path) -> Path:
    """Names that would clear the screen where they are shown, and stand there twice."""
    return _written(folder / "colours.csv", "example,correct\n\x1b[2J\u202e,1\n\x1b[2J\u202e,1\n".encode())


def make_halves_jsonl(folder: Path) -> Path:
    """Metrics named by halves of characters, which cannot be written."""
    return _written(folder / "halves.jsonl", b'{"doc_id": "\\ud800", "\\udfff": 1, "\\ud801": 0}\n')


def make_pipe_csv(folder: Path) -> Path:
    """A named pipe, which waits for ever for a writer."""
    os.mkfifo(path := folder / "pipe.csv")
    return path


def make_columns_csv(folder: Path) -> Path:
    """A table of a hundred thousand columns."""
    titles = ",".join(f"c{number}" for number in range(100_000))
    return _written(folder / "columns.csv", f"example,{titles}\n1{',1' * 100_000}\n".encode())


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
