"""The store of finished units: files that are only ever added, each found by a hash of everything that it depends on."""

from collections.abc import Sequence
from pathlib import Path

from robust_lowrank.evaluation.findings import Findings
from robust_lowrank.provenance import digest_definition
from robust_lowrank.records import replacing


class Store:
    """Findings by their key, in one directory.

    A unit is complete or not there at all, since its file is renamed into place; one that was damaged later is as good as none.
    Because the key covers weights, images, attack and what the unit was left by earlier ones, a stale unit is never found.

    Example:
        >>> store = Store(Path("run/results/quick/units"))
        >>> store.put(key, findings)
        >>> store.get(key)
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def get(self, key: str) -> Findings | None:
        """Return the findings with that key, or None."""
        path = self._path(key)
        return Findings.from_file(path) if path.is_file() else None

    def put(self, key: str, findings: Findings) -> None:
        """Keep findings."""
        with replacing(self._path(key)) as temporary:
            findings.to_file(temporary)

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}.safetensors"


def unit_key(*, weights: str, data: str, first: int, attack: object, earlier: Sequence[str]) -> str:
    """Return the hash that names a unit: which network, examples and attack, and the units whose findings it takes over.

    Example:
        >>> unit_key(weights="…", data="…", first=0, attack={"attack": "fgsm", "eps": 0.1}, earlier=[])
    """
    about = {"weights": weights, "data": data, "first": first, "attack": attack, "earlier": list(earlier)}
    return digest_definition(about).removeprefix("sha256:")
