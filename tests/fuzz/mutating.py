"""Damage that files come with: bytes cut off, changed, put in or repeated; and what a parser may make of it."""

from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from robust_lowrank.errors import UserError

Damage = Callable[[DrawFn, bytes], bytes]
PIECE = 64  # bytes that one damage puts in or repeats at most
EXTREMES = st.sampled_from([b"\x00" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f"])


def arbitrary(*valid: bytes) -> SearchStrategy[bytes]:
    """Return a strategy of files: noise, valid ones, and those damaged one to four times."""
    return st.one_of(st.binary(max_size=4 * PIECE), st.sampled_from(valid), damaged(*valid))


@st.composite
def damaged(draw: DrawFn, *valid: bytes) -> bytes:
    """Return the bytes of one of several valid files after one to four damages."""
    content = draw(st.sampled_from(valid))
    for damage in draw(st.lists(st.sampled_from((_cut, _change, _put_in, _overwrite, _repeat)), min_size=1, max_size=4)):
        content = damage(draw, content)
    return content


def only_refuses(read: Callable[[], object]) -> None:
    """Call a parser, which may return, or refuse in one to three lines; anything else that it raises fails the test."""
    try:
        read()
    except UserError as error:
        assert 1 <= len(str(error).splitlines()) <= 3, str(error)


def _place(draw: DrawFn, content: bytes) -> int:
    """Draw a place in a file, more often near its ends, where heads and directories lie."""
    end = len(content)
    near = st.integers(0, min(end, PIECE))
    return draw(st.one_of(st.integers(0, end), near, near.map(lambda place: end - place)))


def _cut(draw: DrawFn, content: bytes) -> bytes:
    return content[: _place(draw, content)]


def _change(draw: DrawFn, content: bytes) -> bytes:
    place = _place(draw, content)
    flipped = bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in content[place : place + 1])
    return content[:place] + flipped + content[place + 1 :]


def _put_in(draw: DrawFn, content: bytes) -> bytes:
    place = _place(draw, content)
    return content[:place] + draw(st.binary(max_size=PIECE)) + content[place:]


def _overwrite(draw: DrawFn, content: bytes) -> bytes:
    place, extreme = _place(draw, content), draw(EXTREMES)
    return content[:place] + extreme + content[place + len(extreme) :]


def _repeat(draw: DrawFn, content: bytes) -> bytes:
    place, length, times = _place(draw, content), draw(st.integers(1, PIECE)), draw(st.integers(2, 9))
    return content[:place] + content[place : place + length] * times + content[place + length :]
