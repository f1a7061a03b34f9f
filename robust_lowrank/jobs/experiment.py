"""An experiment names several methods, ranks and seeds on the same data and model, and the attacks they then undergo."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from robust_lowrank.errors import UserError, brief, unknown_name
from robust_lowrank.evaluation.attacks.base import listed
from robust_lowrank.ranges import BUDGETS, Count, Factor, Seed, distinct
from robust_lowrank.tables import Table, read_table, shipped_files
from robust_lowrank.threat import radius
from robust_lowrank.training.adversarial_config import AdversarialConfig
from robust_lowrank.training.config import DataConfig, ModelConfig, MonitorConfig, TrainConfig, TrainingConfig
from robust_lowrank.training.method_config import DENSE, MethodConfig
from robust_lowrank.training.naming import describe, directory_name
from robust_lowrank.training.rank_config import Rank

RUNS, ATTACKS = 10_000, 100  # the most of an experiment


class ExperimentMethod(MethodConfig):
    """A method of an experiment, at one `rank` or at several `ranks`, with a learning rate of its own if it has `lr`."""

    lr: Factor | None = None
    ranks: tuple[Rank, ...] | None = Field(default=None, strict=False, max_length=RUNS)

    @model_validator(mode="before")
    @classmethod
    def _one_of_both(cls, values: object) -> object:
        if isinstance(values, dict) and "ranks" in values:
            if "rank" in values:
                raise UserError("give rank or ranks, not both")
            if values.get("name", DENSE) == DENSE:
                raise UserError("a dense network has no ranks: leave them out, or choose a method")
        return values

    @field_validator("ranks")
    @classmethod
    def _not_empty(cls, ranks: tuple[Rank, ...] | None) -> tuple[Rank, ...] | None:
        if ranks == ():
            raise UserError("ranks is empty")
        return ranks

    def at_each_rank(self, adversarial: AdversarialConfig | None = None) -> list[MethodConfig]:
        """Return one method a rank, the rank in the label where there are several."""
        values = self.model_dump(exclude={"ranks", "lr"})
        if self.ranks is None:
            return [MethodConfig.model_validate(values)]
        methods = [MethodConfig.model_validate(values | {"rank": rank}) for rank in self.ranks]
        if len(methods) == 1:
            return methods
        return [method.model_copy(update={"label": f"{describe(method, adversarial)}, rank {method.rank}"}) for method in methods]


class AttackConfig(Table):
    """An attack on every run: a suite by name or file, eps and norm if not the suite's own, the first test images."""

    suite: str
    eps: Annotated[tuple[float | str, ...] | None, BeforeValidator(listed)] = Field(
        None, strict=False, max_length=BUDGETS
    )  # or texts, such as "8/255"
    norm: Literal["Linf", "L2", "L1"] | None = None
    examples: Count | None = None  # None: the whole test set

    @field_validator("eps")
    @classmethod
    def _positive(cls, eps: tuple[float | str, ...] | None) -> tuple[float | str, ...] | None:
        try:
            radii = None if eps is None else tuple(map(radius, eps))
        except UserError:
            radii = ()
        if radii == ():
            raise UserError(f"eps = {brief(eps)} must be one or more positive numbers, or fractions such as '8/255'")
        distinct(radii or ())
        return eps


class DeployConfig(Table):
    """The forms of networks that are attacked as the networks are, by one of the suites: those of some methods, or of all."""

    forms: tuple[Literal["merged", "factors", "bf16", "onnx", "int8"], ...] = Field(min_length=1, strict=False)
    suite: str
    methods: tuple[str, ...] | None = Field(default=None, min_length=1, strict=False)
    examples: Count | None = None  # None: as many as for the networks


class Experiment(Table):
    """An experiment.

    Example:
        >>> methods = [{"name": "dense"}, {"name": "condlr", "tau": 0.1, "ranks": [0.2, 0.5]}]
        >>> [name for name, config in Experiment(name="trial", methods=methods).runs()]
        ['dense-seed0', 'condlr-tau0.1-rank0.2-seed0', 'condlr-tau0.1-rank0.5-seed0']
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)  # names the report's directory
    description: str = ""
    seeds: tuple[Seed, ...] = Field(default=(0,), strict=False, max_length=RUNS)
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    monitor: MonitorConfig | None = None
    methods: tuple[ExperimentMethod, ...] = Field(strict=False, max_length=RUNS)
    attacks: tuple[AttackConfig, ...] = Field(default=(), strict=False, max_length=ATTACKS)
    deploy: DeployConfig | None = None

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if not self.seeds or not self.methods:
            raise UserError("an experiment needs at least one of seeds and one of [[methods]]")
        count = len(self.seeds) * sum(len(method.ranks or (1,)) for method in self.methods)
        if count > RUNS:
            raise UserError(f"methods, ranks and seeds make {count:,} runs, and an experiment has at most {RUNS:,}: divide it")
        names = Counter(name for name, _ in self.runs())
        if repeated := [name for name, times in names.items() if times > 1]:
            raise UserError(f"the run {repeated[0]} stands here more than once: its methods or seeds are the same")
        if self.deploy is not None:
            for kind, place, wanted, there in (
                ("suite", "attacks", (self.deploy.suite,), [attack.suite for attack in self.attacks]),
                ("method", "methods", self.deploy.methods or (), [method.name for method in self.methods]),
            ):
                if strange := [name for name in wanted if name not in there]:
                    raise UserError(f"[deploy]: the {kind} {strange[0]!r} does not stand among [[{place}]]")
        return self

    def runs(self) -> list[tuple[str, TrainConfig]]:
        """Return the training runs, by method, rank and seed, with names that are safe as directory names."""
        found = []
        for entry in self.methods:
            training = self.training if entry.lr is None else self.training.model_copy(update={"lr": entry.lr})
            parts = {"data": self.data, "model": self.model, "training": training, "monitor": self.monitor}
            for method in entry.at_each_rank(training.adversarial):
                name = directory_name(method, training.adversarial)
                found += [(f"{name}-seed{seed}", TrainConfig(seed=seed, method=method, **parts)) for seed in self.seeds]
        return found

    def forms(self, suite: str, method: str) -> tuple[str, ...]:
        """Return the forms of a method's networks that a suite is put on."""
        if self.deploy is None or suite != self.deploy.suite or method not in (self.deploy.methods or (method,)):
            return ()
        return self.deploy.forms


def experiment_names() -> list[str]:
    """Return the names of the experiments that come with the package.

    Example:
        >>> "demo" in experiment_names()
        True
    """
    return sorted(path.stem for path in _shipped().glob("*.toml"))


def load_experiment(name_or_path: Path | str) -> Experiment:
    """Read an experiment by its name, or from a TOML file: as for one run, with `name`, `seeds`, `[[methods]]` and `[[attacks]]`.

    Example:
        >>> load_experiment("demo").data.name
        'digits'

    Raises:
        UserError: there is no such experiment or file, or the file is no TOML or has a wrong key, type or value.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text:
        return read_table(Path(name_or_path), Experiment)
    if text not in experiment_names():
        raise unknown_name("experiment", text, experiment_names())
    return read_table(_shipped() / f"{text}.toml", Experiment)


def _shipped() -> Path:
    return shipped_files("experiments", "experiments")
