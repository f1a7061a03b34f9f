"""Arrays of numpy's files are read as data: the head is held against the bytes that follow before anything is made of them."""

import math
import warnings
import zipfile
from collections import Counter
from typing import IO

import numpy as np

from robust_lowrank.errors import UserError, brief, first_line

HEAD = 4096  # characters of a head; those of arrays without fields have about a hundred
MEMBER = ".npy"
PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # how numpy packs


def read_npy(file: IO[bytes], size: int, where: str) -> np.ndarray:
    """Return the array of a `.npy` stream of so many bytes; nothing is unpickled.

    Raises:
        UserError: it is none, is damaged, holds objects, or its head announces other than these bytes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of heads that older versions wrote
            shape, dtype = _head(file)
            announced = math.prod(shape) * dtype.itemsize
            held = size - file.tell()
            if dtype.hasobject:
                raise UserError(f"{where} holds pickled objects, and nothing is unpickled")
            if min(shape, default=0) < 0 or announced != held or (not dtype.itemsize and math.prod(shape)):
                raise UserError(f"{where} is damaged: its head announces {brief(announced)} bytes, and {held:,} follow")
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False, max_header_size=HEAD)
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile raise nearly anything on damaged files
        raise UserError(f"{where} is no plain array, or is damaged: {_said(error)}") from error


def members(file: zipfile.ZipFile, where: str) -> dict[str, zipfile.ZipInfo]:
    """Return the arrays of an `.npz` file by name.

    Raises:
        UserError: two have one name, or one is packed or encrypted as numpy never does it.
    """
    found = [member for member in file.infolist() if member.filename.endswith(MEMBER)]
    names = Counter(member.filename for member in found)
    if repeated := [name for name, count in names.items() if count > 1]:
        raise UserError(f"{where} holds {brief(repeated[0])} {names[repeated[0]]} times: nobody can tell which is meant")
    if strange := [member for member in found if member.compress_type not in PLAIN or member.flag_bits & 1]:
        raise UserError(f"{where}: {brief(strange[0].filename)} is encrypted, or packed as numpy.savez_compressed does not")
    return {member.filename.removesuffix(MEMBER): member for member in found}


def _head(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=HEAD)
    else:  # 3.0 is for names of fields, which plain arrays do not have
        shape, _, dtype = np.lib.format.read_array_header_2_0(file, max_header_size=HEAD)
    return shape, dtype


def _said(error: Exception) -> str:
    return brief(first_line(error))[1:-1]
