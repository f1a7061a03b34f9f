"""Where a run comes from: the versions of what computed it, and the machine."""

import os
import platform
from importlib import metadata

import torch

PACKAGES = ("robust-lowrank", "torch", "torchvision", "numpy", "scikit-learn", "safetensors")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that influence a run."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def machine(device: torch.device) -> str:
    """Return one line on the machine: system, processor count, threads, and the GPU if one was used."""
    processor = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads"
    return f"{processor}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else processor
