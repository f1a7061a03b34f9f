"""The table [method] of a configuration names a method with its rank and options."""

import inspect
from typing import Any, Literal, Self, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from robust_lowrank.errors import UserError, brief, unknown_name
from robust_lowrank.methods import ADAPTERS, METHODS, GalerkinMethod, Method
from robust_lowrank.penalties import Form, Penalty, Place
from robust_lowrank.ranges import Count, Epochs, Weight
from robust_lowrank.ranks import DEFAULT_RANK
from robust_lowrank.tables import Table
from robust_lowrank.training.rank_config import Rank, refuse_old_keys

DENSE = "dense"  # not a method: the network is not compressed
DEFAULT_INIT = "kaiming"
MILESTONES = 1000  # the most in one list


class PenaltyTable(Table):
    """A term added to the loss: `rlr.Penalty`, its milestones in epochs."""

    form: Form = "R"
    weight: Weight = 0.05
    on: Place = "cores"
    milestones: tuple[Epochs, ...] = Field(default=(), strict=False, max_length=MILESTONES)
    decay: tuple[Weight, ...] = Field(default=(), strict=False, max_length=MILESTONES)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.to_penalty(steps_per_epoch=1)
        return self

    def to_penalty(self, *, steps_per_epoch: int) -> Penalty:
        """Return it as the optimizer takes it."""
        steps = tuple(epoch * steps_per_epoch for epoch in self.milestones)
        return Penalty(form=self.form, weight=self.weight, on=self.on, milestones=steps, decay=self.decay)


class MethodConfig(Table, extra="allow"):
    """The method, its rank, and its own options as further keys, such as `tau`."""

    name: str = DENSE
    label: str | None = Field(
        default=None, min_length=1, max_length=200
    )  # what reports call the run; None: made from name and options
    rank: Rank | None = None  # of a dense network: None
    exclude: tuple[str, ...] | None = Field(default=None, strict=False)  # None: the last linear layer stays dense
    init: Literal["gaussian", "kaiming"] | None = None  # how `compress` draws new factors; of a dense network: None
    step: Literal["exact", "amortised"] = "exact"  # of `LowRankOptimizer`
    window: Count | Literal[0] | None = None  # of amortised steps; None: the method's own
    moments: Literal["tangent", "elementwise"] = "tangent"
    penalties: tuple[PenaltyTable, ...] = Field(default=(), strict=False)

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        if isinstance(values, dict):
            refuse_old_keys(values, {"integration": "step", "start": "init"})
        if isinstance(values, dict) and isinstance(name := values.get("name", DENSE), str) and name != DENSE:
            ranked = name in METHODS and METHODS[name].ranked
            defaults = {"rank": DEFAULT_RANK if ranked else None, "init": DEFAULT_INIT}
            return values | {key: value for key, value in defaults.items() if values.get(key) is None}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.name in ADAPTERS:
            raise UserError(f"{self.name} adapts a network that is trained already: take rlr.adapt in Python")
        if self.name not in (DENSE, *METHODS):
            raise unknown_name("method", self.name, (DENSE, *METHODS))
        if self.name == DENSE:
            given = {"rank": self.rank, "exclude": self.exclude, "init": self.init, "window": self.window} | self.options
            if superfluous := [key for key, value in given.items() if value is not None]:
                raise UserError(f"a dense network has no {superfluous[0]}: leave it out, or choose a method")
        elif self.rank is not None and not self.method().ranked:
            raise UserError(f"{self.name} keeps weights whole, at full rank: leave rank out")
        if self.step == "amortised" and self.name == DENSE:
            raise UserError("a dense network has no amortised steps: leave step out, or choose a method")
        if self.window is not None and not isinstance(self.method(), GalerkinMethod):
            raise UserError(f"{self.name} truncates nothing: leave window out")
        if self.window is not None and self.step == "exact":
            raise UserError("window belongs to step = 'amortised'; an exact step ends with a truncation")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The method's own options, as given."""
        return dict(self.model_extra or {})

    def method(self) -> Method:
        """Return the method with its options.

        Raises:
            UserError: it has no such option, or the option's value is of another type or out of range.
        """
        kind = METHODS[self.name]
        hints = get_type_hints(kind)
        types = {name: getattr(hints[name], "type", hints[name]) for name in inspect.signature(kind).parameters}
        for key, value in self.options.items():
            if key not in types:
                raise unknown_name(f"option of {self.name}", key, (*types, *MethodConfig.model_fields))
            try:
                TypeAdapter(types[key]).validate_python(value, strict=True)
            except ValidationError as error:
                raise UserError(f"{key} = {brief(value)}: {error.errors()[0]['msg']}") from error
        return kind(**self.options)
