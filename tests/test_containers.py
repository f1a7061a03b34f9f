from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robust_lowrank.containers import check_safetensors, refuse_others
from robust_lowrank.errors import UserError


@pytest.mark.parametrize(
    ("begin", "kind"),
    [
        (b"", "it is empty"),
        (b"\n <!-- moved --><HTML><title>Sign in", "a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (b'\xef\xbb\xbf{"message": "Not Found"}', "a text of JSON"),
        (b"[]", "a text of JSON"),
        (b"<?xml version='1.0'?><Error>", "a text of XML"),
        (b"\x1f\x8b\x08", "compressed"),
        (b"\x28\xb5\x2f\xfd", "compressed"),
        (b"a" * 257 + b"ustar", "a tar archive"),
    ],
)
def test_what_stands_in_the_place_of_a_file_is_named(begin: bytes, kind: str, tmp_path: Path) -> None:
    (path := tmp_path / "net").write_bytes(begin)
    with pytest.raises(UserError, match=f"net holds no weights, it is {kind}|net holds no weights, {kind}") as caught:
        refuse_others(path, "weights")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("begin", [b"PK\3\4", b"\x80\x02}", b"\x40\0\0\0\0\0\0\0{", b"\x08\x09\x12", b"noise", bytes(8)])
def test_other_files_are_let_through(begin: bytes, tmp_path: Path) -> None:
    (path := tmp_path / "net").write_bytes(begin)
    refuse_others(path, "weights")


def test_headers_are_held_against_the_file(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, path := tmp_path / "net.safetensors")
    check_safetensors(path)
    content = path.read_bytes()
    for wrong in (content[:9], b"\xff" * 8 + content[8:], bytes(8) + content[8:] and content[:8] + b"x" + content[9:]):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match="not a safetensors file"):
            check_safetensors(path)
    with pytest.raises(UserError, match="no regular file"):
        check_safetensors(tmp_path)
    with pytest.raises(FileNotFoundError):
        check_safetensors(tmp_path / "none.safetensors")
