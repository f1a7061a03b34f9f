"""Keyed noise belongs to an example: it is the same whatever the batch, its order, the device or the process."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


def _signed(word: int) -> int:
    """Return the 64-bit word as the int64 with the same bits."""
    return (word & (2**64 - 1)) - (2**64 if word & 2**63 else 0)


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


@dataclass(frozen=True)
class KeyedNoise:
    """A stream of random numbers an example, found by hashing (seed, purpose, example, position) instead of drawing in turn.

    `purpose` is a text such as an attack's name; `at` adds a restart and a step to it.

    Example:
        >>> noise = KeyedNoise(0, "pgd", torch.arange(100))
        >>> batch = KeyedNoise(0, "pgd", torch.tensor([7, 3]))
        >>> bool((noise.at(restart=1).uniform((5,))[7] == batch.at(restart=1).uniform((5,))[0]).all())
        True

    Source: the mixing function of SplitMix64 (Steele, Lea and Flood 2014), on int64 tensors, whose products wrap around.
    """

    seed: int
    purpose: str
    rows: Tensor  # (N,) int64, the examples' numbers, on the device where the noise is wanted
    restart: int = 0
    step: int = 0

    def at(self, *, restart: int = 0, step: int = 0) -> "KeyedNoise":
        """Return the stream of the same examples for another restart and step."""
        return replace(self, restart=restart, step=step)

    def of(self, rows: Tensor) -> "KeyedNoise":
        """Return the streams of some of the examples, by their rows here."""
        return replace(self, rows=self.rows[rows])

    def named(self, purpose: str) -> "KeyedNoise":
        """Return the streams of the same examples for another purpose."""
        return replace(self, purpose=purpose)

    def uniform(self, shape: Sequence[int], *, stream: int = 0) -> Tensor:
        """Return (N, *shape) numbers from the open interval (0, 1), float64; `stream` tells several draws apart."""
        text = repr((self.seed, self.purpose, self.restart, self.step, stream))
        key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        keys = mix(self.rows * _GOLDEN + _signed(key))
        columns = torch.arange(1, math.prod(shape) + 1, device=keys.device) * _GOLDEN
        words = _logical_shift(mix(keys[:, None] + columns), 12)
        return ((words.double() + 0.5) * 2.0**-52).reshape(len(keys), *shape)

    def normal(self, shape: Sequence[int], *, stream: int = 0) -> Tensor:
        """Return (N, *shape) standard normal numbers, float64."""
        return torch.erfinv(2 * self.uniform(shape, stream=stream) - 1) * math.sqrt(2)


def _logical_shift(words: Tensor, places: int) -> Tensor:
    return (words >> places) & (2 ** (64 - places) - 1)


def mix(words: Tensor) -> Tensor:
    """Return words, each of whose bits depends on all bits of the word before."""
    words = (words ^ _logical_shift(words, 30)) * _MULTIPLIERS[0]
    words = (words ^ _logical_shift(words, 27)) * _MULTIPLIERS[1]
    return words ^ _logical_shift(words, 31)
