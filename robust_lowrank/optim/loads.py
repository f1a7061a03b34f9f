"""Factors may be loaded beside their optimizer, whose state then belongs to others."""

from robust_lowrank.layers import FactoredLayer


class Loads:
    """Knows how often the factors of each layer have been loaded when their optimizer last looked."""

    def __init__(self, layers: dict[str, FactoredLayer]) -> None:
        self._layers = layers
        self._known: dict[str, int] | None = self._count()

    def _count(self) -> dict[str, int]:
        return {name: layer.loads for name, layer in self._layers.items()}

    def trust(self) -> None:
        """Take what is loaded until the next look, before or after this, to belong to the optimizer's state."""
        self._known = None

    def new(self) -> dict[str, FactoredLayer]:
        """Return the layers whose factors have been loaded since the last look."""
        before, self._known = self._known, self._count()
        if before is None:
            return {}
        return {name: layer for name, layer in self._layers.items() if layer.loads != before[name]}
