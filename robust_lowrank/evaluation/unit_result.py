"""A unit result is what one attack found on some examples at one eps, stored and never done twice."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from robust_lowrank.evaluation.verdict import Check
from robust_lowrank.provenance import digest_definition, digest_tensors

HELD, IMPLIED = "held-at=", "implied-by="  # begin flags: where a search of all radii ended, and at the radii below
AGAIN = "searched-again"  # in the flags of an example whose search on the fast form was repeated on the network itself
SAMPLED = "sampled"  # in the flags of an example that an attack on a sample tried with all its parts

_TYPES = {  # of what has a number for each example
    "rows": torch.int64,
    "broken": torch.bool,
    "nonfinite": torch.bool,
    "rejected": torch.bool,
    "prediction": torch.int64,
    "margin": torch.float64,
    "distance": torch.float64,
    "forwards": torch.int64,
    "backwards": torch.int64,
    "computed": torch.float64,
    "seconds": torch.float64,
}


class Attempt(NamedTuple):
    """An attack's proposals; every field has a row an example."""

    inputs: Tensor  # the most harmful input found, (N, ...)
    claimed: Tensor  # bool: the attack itself saw this input break the example
    nonfinite: Tensor  # bool: logits or gradients were not finite somewhere on the way
    forwards: Tensor  # int64, evaluations of the model spent on this example
    backwards: Tensor  # int64
    by: Sequence[str] = ()  # of an ensemble: the part that broke each example, "" where none did
    sampled: Tensor | None = None  # bool, of an attack that samples: the examples that every part was tried on
    held: Tensor | None = None  # float64, of a search of several radii: the one that it tried in vain, 0 where none held
    again: Tensor | None = None  # bool: the search was repeated on the network itself

    def searched_again(self, rows: Tensor, other: "Attempt") -> "Attempt":
        """Return them with what another search found on the examples `rows`; what both have spent counts."""
        by = list(self.by or [""] * len(self.claimed))
        for row, part in zip(rows.tolist(), other.by or [""] * len(rows), strict=True):
            by[row] = part
        merged = {
            name: ours.index_copy(0, rows, theirs)
            for name in ("inputs", "claimed", "nonfinite", "sampled", "held")
            if (ours := getattr(self, name)) is not None and (theirs := getattr(other, name)) is not None
        }
        spent = {name: getattr(self, name).index_add(0, rows, getattr(other, name)) for name in ("forwards", "backwards")}
        return self._replace(**merged, **spent, by=by, again=torch.zeros_like(self.claimed).index_fill(0, rows, True))


@dataclass(frozen=True)
class UnitResult:
    """Every tensor has a row for each of the examples that were tried, and lives on the CPU."""

    rows: Tensor  # int64, the examples
    inputs: Tensor  # what broke an example, within the threat model, (K, ...) for the K broken ones
    closest: Tensor  # the most harmful input found of the others, within the threat model, (N - K, ...)
    broken: Tensor  # bool, as the check has it
    nonfinite: Tensor  # bool: logits or gradients were not finite somewhere on the way or at the end
    rejected: Tensor  # bool: the attack claimed a success that the check did not confirm
    prediction: Tensor  # int64, -1 without finite logits
    margin: Tensor  # float64
    distance: Tensor  # float64
    forwards: Tensor  # int64
    backwards: Tensor  # int64
    computed: Tensor  # float64, of the passes that the network made for all, padding and what was in vain too, an equal share
    seconds: Tensor  # float64
    remarks: tuple[str, ...]  # flags for the verdicts, comma-separated

    @classmethod
    def of(cls, rows: Tensor, attempt: Attempt, check: Check, seconds: float, remarks: Sequence[str] = ()) -> "UnitResult":
        """Return what a check confirms of an attempt; `remarks` hold for every example."""
        return cls(
            rows=rows.cpu(),
            inputs=check.inputs[check.broken].cpu(),
            closest=check.inputs[~check.broken].cpu(),
            broken=check.broken.cpu(),
            nonfinite=(attempt.nonfinite | ~check.finite).cpu(),
            rejected=(attempt.claimed & ~check.broken).cpu(),
            prediction=check.prediction.cpu(),
            margin=check.margin.cpu(),
            distance=check.distance.cpu(),
            forwards=attempt.forwards.cpu(),
            backwards=attempt.backwards.cpu(),
            computed=(attempt.forwards + attempt.backwards).double().cpu(),
            seconds=torch.full((len(rows),), seconds / max(len(rows), 1), dtype=torch.float64),
            remarks=tuple(",".join([*remarks, *own]) for own in _remarks(attempt)),
        )

    def shift(self, offset: int) -> "UnitResult":
        """Return them with other numbers for the examples."""
        return replace(self, rows=self.rows + offset)

    def computing(self, passes: int) -> "UnitResult":
        """Return them with the passes that the network made for all of them."""
        return replace(self, computed=torch.full_like(self.computed, passes / max(len(self.rows), 1)))

    def to_file(self, path: Path, behaviour: Mapping[str, str]) -> None:
        """Write them as a safetensors file with the network's behaviour and their own digest inside."""
        from safetensors.torch import save_file

        about = {"remarks": json.dumps(self.remarks), "behaviour": json.dumps(behaviour)}
        tensors = self._tensors()
        save_file(tensors, path, about | {"digest": _digest(tensors, about)})

    @classmethod
    def from_file(cls, path: Path) -> "tuple[UnitResult, dict[str, str]] | None":
        """Read them and the behaviour of the network that they are of, or return None if the file is not what `to_file` writes."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                about = file.metadata() or {}
            if about.pop("digest") != _digest(tensors, about):
                return None
            behaviour = {str(kind): str(numbers) for kind, numbers in json.loads(about["behaviour"]).items()}
            read = cls(**tensors, remarks=tuple(map(str, json.loads(about["remarks"]))))
            return (read, behaviour) if read._consistent() else None
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError):
            return None

    @classmethod
    def join(cls, parts: Sequence["UnitResult"]) -> "UnitResult":
        """Return several as one."""
        tensors = {name: torch.cat([part._tensors()[name] for part in parts]) for name in parts[0]._tensors()}
        return cls(**tensors, remarks=tuple(remark for part in parts for remark in part.remarks))

    def split(self, sizes: Sequence[int]) -> "list[UnitResult]":
        """Return them in parts of so many examples, as `join` takes them."""
        broken = [int(part.sum()) for part in self.broken.split(list(sizes))]
        lengths = {"inputs": broken, "closest": [size - found for size, found in zip(sizes, broken, strict=True)]}
        parts = {name: tensor.split(lengths.get(name, list(sizes))) for name, tensor in self._tensors().items()}
        ends = list(itertools.accumulate(sizes, initial=0))
        return [
            UnitResult(**{name: parts[name][number] for name in parts}, remarks=self.remarks[ends[number] : ends[number + 1]])
            for number in range(len(sizes))
        ]

    def _consistent(self) -> bool:
        """Return whether every tensor is of its type, with a row for each example that it is of."""
        count, shape = len(self.rows), self.inputs.shape[1:]
        each = [getattr(self, name) for name in _TYPES]
        return (
            all(tensor.shape == (count,) and tensor.dtype == dtype for tensor, dtype in zip(each, _TYPES.values(), strict=True))
            and len(self.remarks) == count
            and self.closest.shape[1:] == shape
            and self.closest.dtype == self.inputs.dtype
            and self.inputs.is_floating_point()
            and len(self.inputs) == int(self.broken.sum())
            and len(self.closest) == count - len(self.inputs)
            and bool((self.prediction >= -1).all())
            and all(bool((spent >= 0).all()) for spent in (self.rows, self.forwards, self.backwards, self.computed, self.seconds))
        )

    def _tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name).contiguous() for field in fields(self) if field.name != "remarks"}


def _remarks(attempt: Attempt) -> Iterator[list[str]]:
    """Yield what an attack says of each example: the part that broke it, if it was one of a sample, and at which radius it held."""
    count = len(attempt.claimed)
    sampled = [False] * count if attempt.sampled is None else attempt.sampled.tolist()
    held = [0.0] * count if attempt.held is None else attempt.held.tolist()
    again = [False] * count if attempt.again is None else attempt.again.tolist()
    for part, chosen, eps, repeated in zip(attempt.by or [""] * count, sampled, held, again, strict=True):
        said = {f"by={part}": part, SAMPLED: chosen, f"{HELD}{eps!r}": eps, AGAIN: repeated}
        yield [remark for remark, holds in said.items() if holds]


def _digest(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    return digest_definition({"tensors": digest_tensors(tensors), **about})
