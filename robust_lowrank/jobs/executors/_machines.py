"""Machines that share work must come to the same verdicts: they have the same versions, and compute the same."""

import platform
from typing import NamedTuple, Self

import torch
from torch.nn import functional

from robust_lowrank.provenance import versions
from robust_lowrank.records.behaviour import unlike
from robust_lowrank.threat import KeyedNoise, observe


class Machine(NamedTuple):
    """A machine by what verdicts depend on."""

    name: str
    versions: dict[str, str]
    answers: dict[str, str]  # of a tiny fixed network, as `threat.observe` returns them

    @classmethod
    def this(cls) -> Self:
        """Return the machine that this process runs on."""
        noise = KeyedNoise(0, "machines", torch.arange(8))
        x, kernels = noise.uniform((3, 8, 8)).float(), noise.normal((3, 3, 3)).float()
        answers = observe(lambda images: functional.conv2d(images, kernels).tanh().mean((2, 3)), x)
        return cls(platform.node(), versions(), answers)

    def unlike(self, other: "Machine") -> str:
        """Return in words what another machine has or does otherwise than this one; nothing where they are alike.

        Example:
            >>> here, there = Machine("a", {"torch": "2.10"}, {}), Machine("b", {"torch": "2.9"}, {})
            >>> here.unlike(there)
            'torch 2.9 on b and 2.10 on a'
        """
        names = sorted(self.versions.keys() | other.versions.keys())
        pairs = [(name, other.versions.get(name, "missing"), self.versions.get(name, "missing")) for name in names]
        found = [f"{name} {there} on {other.name} and {here} on {self.name}" for name, there, here in pairs if there != here]
        if not found and (how := unlike(self.answers, other.answers)):
            found.append(f"{other.name} and {self.name} have the same versions, but a small network answers otherwise {how}")
        return ", ".join(found)
