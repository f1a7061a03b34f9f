"""A configuration gives ranks as one number, with exceptions by name, or as a share of the parameters."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from robust_lowrank import ranks
from robust_lowrank.errors import UserError, brief
from robust_lowrank.ranges import RANKS
from robust_lowrank.tables import Table


def _number(rank: Any) -> int | float:
    if isinstance(rank, bool) or not isinstance(rank, (int, float)):
        raise UserError(f"{brief(rank)} is not a number")
    if not (rank in RANKS if isinstance(rank, int) else 0 < rank <= 1):
        raise UserError(f"rank = {brief(rank)} must be an integer from 1 to {RANKS.high:,}, or a fraction of full rank in (0, 1]")
    return rank


Number = Annotated[int | float, BeforeValidator(_number)]  # a fraction of the full rank if it is a float


def refuse_old_keys(values: dict[str, Any], names: dict[str, str]) -> None:
    """Refuse keys that have other names now.

    Raises:
        UserError: there is one.
    """
    for old in names.keys() & values.keys():
        raise UserError(f"{old} is called {names[old]} now")


class RankTable(Table):
    """Start ranks with exceptions by name: `rlr.Rank`."""

    default: Number = ranks.DEFAULT_RANK
    overrides: dict[str, Number] = Field(default_factory=dict)

    def to_rank(self) -> ranks.Rank:
        """Return it as `compress` takes it."""
        return ranks.Rank(default=self.default, overrides=self.overrides)


class BudgetTable(Table):
    """A share of the parameters for all factored layers together: `rlr.Budget`."""

    params: float

    def to_rank(self) -> ranks.Budget:
        """Return it as `compress` takes it."""
        return ranks.Budget(params=self.params)


class LatencyTable(Table):
    """Milliseconds of a forward pass of the whole network on so many images: `rlr.Budget`."""

    latency_ms: float
    batch: int = 1

    def to_rank(self) -> ranks.Budget:
        """Return it as `compress` takes it."""
        return ranks.Budget(latency_ms=self.latency_ms, batch=self.batch)


BUDGETS: dict[str, type[BudgetTable | LatencyTable]] = {"params": BudgetTable, "latency_ms": LatencyTable}  # by a key of theirs


def _rank(rank: Any) -> Any:
    if not isinstance(rank, dict):
        return rank if isinstance(rank, Table) else _number(rank)
    names = {"init": "default", "tol": "tol of [method]", "min": "min_rank of [method]", "max": "max_rank of [method]"}
    refuse_old_keys(rank, names)
    try:
        table = next((kind for key, kind in BUDGETS.items() if key in rank), RankTable).model_validate(rank)
        table.to_rank()
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return table


AnyRank = int | float | RankTable | BudgetTable | LatencyTable
Rank = Annotated[AnyRank, BeforeValidator(_rank)]
