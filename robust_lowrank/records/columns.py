"""Columns of the tables of a run hold values of these kinds, whatever table they stand in."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from robust_lowrank.records.tables import VERDICT
from robust_lowrank.records.values import LARGEST

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Kind:
    """What a column holds: numbers, whole or not, within limits; truths; texts, perhaps of a few; or lists of numbers."""

    of: Literal["whole", "number", "truth", "text", "numbers"]
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()
    gaps: bool = False  # values may be missing, or not a number

    def fits(self, kind: "pa.DataType") -> bool:
        """Return whether a column of a file can hold this, by its type."""
        import pyarrow as pa

        types = pa.types
        match self.of:
            case "whole" | "number":
                return types.is_integer(kind) or types.is_floating(kind)
            case "truth":
                return types.is_boolean(kind)
            case "text":
                return types.is_string(kind) or types.is_large_string(kind)
        return is_numbers(kind)

    def fault(self, column: "pa.ChunkedArray") -> str:
        """Return in words what is wrong with the values of a column, or nothing."""
        import pyarrow as pa

        numbers = self.of in ("whole", "number")
        values = column.drop_null().cast(pa.float64(), safe=False).to_numpy() if numbers else np.empty(0)
        if not self.gaps and (column.null_count or np.isnan(values).any()):
            return "has gaps"
        if self.choices:
            strange = [value for value in column.drop_null().unique().to_pylist() if value not in self.choices]
            return f"holds {strange[0]!r:.60}, which is none of {', '.join(self.choices)}" if strange else ""
        values = values[~np.isnan(values)]
        wrong = (values < self.least) | (values > self.most)
        if self.of == "whole":
            wrong |= values != np.floor(values)
        return f"holds {values[wrong][0]:g}, which is no {self._due}" if wrong.any() else ""

    @property
    def _due(self) -> str:
        most = f" to {self.most:g}" if self.most < LARGEST else ""
        return f"{'whole ' if self.of == 'whole' else ''}number from {self.least:g}{most}"


def is_numbers(kind: "pa.DataType") -> bool:
    """Return whether a type is one of lists of numbers."""
    import pyarrow as pa

    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_floating(kind.value_type)


_COUNT, _INDEX = Kind("whole", 0, LARGEST), Kind("whole", -1, LARGEST)  # -1 is no class
_NUMBER, _SIZE = Kind("number", gaps=True), Kind("number", 0, gaps=True)
_TEXT = Kind("text")

KINDS: dict[str, Kind] = {
    **dict.fromkeys(("epoch", "rows", "columns", "rank", "params", "params_dense", "height", "width"), _COUNT),
    **dict.fromkeys(("example", "label", "forwards", "backwards", "tried", "fooled"), _COUNT),
    **dict.fromkeys(("clean_prediction", "adversarial_prediction", "prediction"), _INDEX),
    **dict.fromkeys(("seed", "source_seed"), Kind("whole", -LARGEST - 1, LARGEST)),
    "step": Kind("whole", 0, LARGEST, gaps=True),
    **dict.fromkeys(("lr", "train_loss", "train_accuracy", "validation_accuracy", "margin", "contribution"), _NUMBER),
    **dict.fromkeys(("sigma_max", "sigma_min", "cond", "stable_rank", "orthonormality", "cond_product"), _SIZE),
    **dict.fromkeys(("rotation_u", "rotation_v", "distance", "radius", "seconds"), _SIZE),
    **dict.fromkeys(("operator_norm", "residual", "operator_bound", "folded_bound"), _SIZE),
    **dict.fromkeys(("circular_max", "circular_min", "circular_cond"), _SIZE),
    "eps": Kind("number", 0, 1e300),
    **dict.fromkeys(("factored", "abstained"), Kind("truth")),
    **dict.fromkeys(("layer", "kind", "attack", "way", "engine", "flags", "weights", "source", "source_created"), _TEXT),
    **dict.fromkeys(("source_weights", "target_weights", "data", "attack_hash"), _TEXT),
    "norm": Kind("text", choices=("Linf", "L2", "L1")),
    "verdict": Kind("text", choices=VERDICT),
    "on": Kind("text", choices=("form", "trained")),
    **dict.fromkeys(("singular_values", "changed"), Kind("numbers")),
}
