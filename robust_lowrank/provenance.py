"""Provenance is hashes of tensors, versions and the machine."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from robust_lowrank.extras import installed

PACKAGES = ("robust-lowrank", "torch", "torchvision", "numpy", "pillow", "scikit-learn", "safetensors", "pyautoattack")


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes, in the order of the names.

    Example:
        >>> digest_tensors({"x": torch.zeros(2)})[:8]
        '7057d9d3'
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def digest_definition(definition: Mapping[str, Any]) -> str:
    """Return the SHA-256 over a definition of numbers, texts, lists and tables, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that influence a run or a verdict, as far as they are installed."""
    return {"python": platform.python_version()} | {name: found for name in PACKAGES if (found := installed(name)) is not None}


def machine(device: torch.device | None = None) -> str:
    """Return one line on the machine: system, processors, threads, and the GPU if `device` is one."""
    threads = torch.get_num_threads()
    line = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {threads} thread{'s' if threads > 1 else ''}"
    return f"{line}, {torch.cuda.get_device_name(device)}" if device is not None and device.type == "cuda" else line
