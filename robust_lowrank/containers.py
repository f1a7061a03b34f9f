"""Files that hold tensors are looked at before anything in them is expanded."""

import re
import stat
from pathlib import Path

from robust_lowrank.errors import UserError

LARGEST_HEADER = 16 << 20  # bytes of a safetensors header, which names and describes each tensor
SEEN = 1024  # bytes at the beginning, by which a file is told
FETCH = "fetch the file itself, in a browser if its page asks for something"
UNPACK = "unpack it, and give what is inside"
OTHERS: tuple[tuple[bytes, str, str], ...] = (  # how a file begins, what it is then, and what to do
    (rb"$", "empty", FETCH),
    (rb"version https://git-lfs", "a pointer of Git LFS, which stands for a file that was not fetched", "run git lfs pull there"),
    (rb"\s*(<!--.*?-->\s*)?<(!doctype\s+html|html|head|body)\b", "a page of HTML, not what the page offers", FETCH),
    (rb"\s*<(\?xml|error)\b", "a text of XML, such as a server's refusal", FETCH),
    (rb"\s*[\[{]\s*[\"\]}\[{]", "a text of JSON, such as a server's refusal", FETCH),
    (rb"\x1f\x8b|BZh\d|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf\x27\x1c", "compressed", UNPACK),
    (rb".{257}ustar", "a tar archive", UNPACK),
)


def refuse_others(path: Path, what: str) -> None:
    """Refuse what is often found in the place of a file: nothing, a web page, a pointer, a server's refusal, an archive.

    Example:
        >>> path = Path("/tmp/net.pth")
        >>> path.write_text("<!DOCTYPE html><html>Sign in</html>") and refuse_others(path, "weights")
        Traceback (most recent call last):
        robust_lowrank.errors.UserError: /tmp/net.pth holds no weights, it is a page of HTML, not what the page offers
        What to do: fetch the file itself, in a browser if its page asks for something

    Raises:
        UserError: it is such a file.
    """
    with path.open("rb") as file:
        begin = file.read(SEEN).removeprefix(b"\xef\xbb\xbf")
    for pattern, kind, remedy in OTHERS:
        if re.match(pattern, begin, re.IGNORECASE | re.DOTALL) and (begin or kind == "empty"):
            raise UserError(f"{path} holds no {what}, it is {kind}\nWhat to do: {remedy}")


def check_safetensors(path: Path, what: str = "weights") -> None:
    """Require a regular file whose header is not larger than a header is, nor than the file.

    The library holds the sizes that the header declares against the file.

    Raises:
        UserError: it is something else.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is no regular file: give the file of the {what}")
    refuse_others(path, what)
    with path.open("rb") as file:
        begin = file.read(9)
    if begin.startswith(b"PK\3\4"):
        raise UserError(f"{path} is an archive, not a safetensors file: one of torch ends in .pth")
    length = int.from_bytes(begin[:8], "little")
    if begin[8:] != b"{" or length > min(LARGEST_HEADER, status.st_size - 8):
        raise UserError(f"{path} is not a safetensors file, or it is damaged: it does not begin with a header of such a file")
