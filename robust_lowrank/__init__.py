"""Networks train in low-rank form, well conditioned, and attacks are fit to publish."""

from typing import Any

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)  # torch takes seconds, and reports need none
_MOVED = {  # public names, and what to import now
    "starts": "robust_lowrank.initialisation",
    "JSONL": "robust_lowrank.JsonlWriter",
    "Memory": "robust_lowrank.MemoryWriter",
    "Parquet": "robust_lowrank.ParquetWriter",
    "TensorBoard": "robust_lowrank.TensorBoardWriter",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("robust-lowrank")
    if name in _MOVED:
        raise ImportError(f"robust_lowrank.{name} has moved: import {_MOVED[name]}")
    if name not in __all__:
        raise AttributeError(f"module 'robust_lowrank' has no attribute {name!r}")
    return _load(name)
