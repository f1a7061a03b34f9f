"""Images of a result: those that broke an example, and the clean ones beside them."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from robust_lowrank.errors import UserError

_LARGEST = 1024  # pixels a side
_FLOATS = ("F16", "F32", "F64")


def read_images(path: Path, key: str, examples: Collection[int]) -> dict[int, np.ndarray]:
    """Return images of some examples, by the example's number, as float64 arrays (channels, height, width) in [0, 1].

    Only those images are loaded. Examples that the file does not hold are left out; without the file, or where inputs are no images
    of one or three channels, none is returned.

    Args:
        path: a safetensors file with the tensors KEY/inputs, (K, channels, height, width), and KEY/examples, (K,).
        key: such as "pgd-20/0.1"; empty for a file that holds one set, under "inputs" and "examples".
        examples: the numbers that are wanted.

    Example:
        >>> read_images(Path("runs/dense/results/quick/clean.safetensors"), "", [0, 3])[3].shape
        (1, 8, 8)

    Raises:
        UserError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    prefix = f"{key}/" if key else ""
    try:
        with safe_open(path, framework="numpy") as file:
            if not {f"{prefix}inputs", f"{prefix}examples"} <= set(file.keys()):
                return {}
            inputs = file.get_slice(f"{prefix}inputs")
            numbers = file.get_tensor(f"{prefix}examples")
            if not _are_images(inputs.get_shape(), inputs.get_dtype()) or numbers.shape != (inputs.get_shape()[0],):
                return {}
            rows = {int(number): row for row, number in enumerate(numbers) if int(number) in examples}
            found = {number: np.asarray(inputs[row : row + 1][0], dtype=np.float64) for number, row in rows.items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as inputs: {str(error).splitlines()[0]}") from error
    return {number: np.clip(image, 0, 1) for number, image in found.items() if np.isfinite(image).all()}


def _are_images(shape: list[int], dtype: str) -> bool:
    return len(shape) == 4 and shape[1] in (1, 3) and 0 < max(shape[2:]) <= _LARGEST and min(shape[2:]) > 0 and dtype in _FLOATS
