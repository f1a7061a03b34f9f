from pathlib import Path

import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.tables import PathText, Table, parse_table, read_values


class Place(Table):
    path: PathText


def written(folder: Path, content: bytes) -> Path:
    (path := folder / "some.toml").write_bytes(content)
    return path


def test_a_byte_order_mark_and_lines_of_windows_are_read(tmp_path: Path) -> None:
    assert read_values(written(tmp_path, b"\xef\xbb\xbfa = 1\r\nb = '\xc3\xa9'\r\n")) == {"a": 1, "b": "é"}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named(encoding: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is in UTF-16: save it as UTF-8"):
        read_values(written(tmp_path, "a = 1".encode(encoding)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'a = 1\nb = "C:\\data"', r"at line 2, column \d+\)\nwrite a Windows path in 'single quotes'"),
        (b'b = "C:\\Users"', r"\nwrite a Windows path"),
        (b"a = 1 2\nb = '\\\\'", r"\(at line 1, column 7\)$"),
        (b"a.b.c = 1\na.b.c = 2", "Cannot overwrite a value"),
        (b"[" + b"k" * 5000 + b"]\n" + b"[" + b"k" * 5000 + b"]", r"Cannot declare \('k{50,100}\.\.\.k{20,100}"),
        (b"a = 1" + b"1" * 5000, "a number in it has more than 4,300 digits"),
        (b"x.\ta . " * 40 + b"b = 1", "nested more than 32 deep"),
    ],
)
def test_what_is_wrong_is_said_in_few_words(text: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read_values(written(tmp_path, text))
    assert len(str(caught.value)) < 500


def test_many_numbers_in_one_line_are_no_chain(tmp_path: Path) -> None:
    assert len(read_values(written(tmp_path, b"a = [" + b"0.5, " * 100 + b"]"))["a"]) == 100


@pytest.mark.parametrize("char", ["\n", "\t", "\0", "\x1b", "\u2028"])
def test_a_path_has_no_characters_that_nobody_sees(char: str) -> None:
    assert parse_table({"path": "Fotos/Köln 2"}, Place, source="some").path == "Fotos/Köln 2"
    with pytest.raises(UserError, match=r"some: path: .* which no path should have"):
        parse_table({"path": f"C:{char}ew"}, Place, source="some")
    with pytest.raises(UserError, match="is not valid UTF-8"):
        parse_table({"path": "\udcff"}, Place, source="some")
