"""A store keeps finished units in files, each found by a hash of all it depends on and taken for a network that answers alike."""

from collections.abc import Mapping
from pathlib import Path

from robust_lowrank.evaluation.unit_result import UnitResult
from robust_lowrank.records import replacing, unlike


class Store:
    """Results by key, in one directory.

    A unit is complete or not there at all, since its file is renamed into place; one that was damaged later is as good as none.
    The key covers weights, images, attack and what the unit was left by earlier ones. What it cannot cover, since a last bit is
    another one on another machine, is how the network answers (`threat.observe`): that is compared.

    Example:
        >>> store = Store(Path("run/results/quick/units"))
        >>> store.put(key, result, behaviour)
        >>> store.get(key, behaviour)
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def get(self, key: str, behaviour: Mapping[str, str]) -> UnitResult | None:
        """Return the result with that key of a network with that behaviour, or None."""
        path = self._path(key)
        found = UnitResult.from_file(path) if path.is_file() else None
        return found[0] if found and not unlike(found[1], behaviour) else None

    def put(self, key: str, findings: UnitResult, behaviour: Mapping[str, str]) -> None:
        """Keep findings on a network with that behaviour."""
        with replacing(self._path(key)) as temporary:
            findings.to_file(temporary, behaviour)

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.safetensors"
