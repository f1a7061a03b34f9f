"""A store keeps finished units in files that are only ever added, each found by a hash of all it depends on."""

from pathlib import Path

from robust_lowrank.evaluation.unit_result import UnitResult
from robust_lowrank.records import replacing


class Store:
    """Results by key, in one directory.

    A unit is complete or not there at all, since its file is renamed into place; one that was damaged later is as good as none.
    Because the key covers weights, images, attack and what the unit was left by earlier ones, a stale unit is never found.

    Example:
        >>> store = Store(Path("run/results/quick/units"))
        >>> store.put(key, result)
        >>> store.get(key)
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def get(self, key: str) -> UnitResult | None:
        """Return the result with that key, or None."""
        path = self._path(key)
        return UnitResult.from_file(path) if path.is_file() else None

    def put(self, key: str, findings: UnitResult) -> None:
        """Keep findings."""
        with replacing(self._path(key)) as temporary:
            findings.to_file(temporary)

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.safetensors"
