"""Records are the JSON documents of a run."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, field_validator, model_validator

from robust_lowrank.records.values import (
    CLASSES,
    Answers,
    Count,
    Digest,
    FileName,
    Finite,
    Fraction,
    Name,
    Positive,
    Prose,
    Seed,
    Shape,
    Size,
    Time,
    attack_entries,
    require_order,
    with_keys,
)

SCHEMA_VERSION = 1

# Of attacks in results that are older than these fields of theirs:
_TITLES = {"fgsm": "FGSM", "pgd": "PGD", "autoattack": "AutoAttack", "apgd": "APGD", "fab": "FAB", "square": "Square"}
_SEEK_NEAREST = ("deepfool", "fab")


class Parameters(BaseModel, extra="forbid"):
    """Parameter counts of a network; `removed` and `rank_fraction` are the two things that papers call compression.

    Both are of the factored layers as trained; what reports call removed is `saved`, of the whole network as it is stored.
    """

    total: Count  # all parameters as stored for training, layers that stayed dense included
    dense: Count  # of the dense network
    inference: Count  # with S merged into a factor where that is smaller, or the dense matrix where that is smallest
    removed: Annotated[Finite, Field(le=1)]  # 1 - (r(n+m) + r^2) / nm over the factored layers' weights; 0 without any
    rank_fraction: Size  # mean of r / min(n, m) over the factored layers; 1 without any

    @property
    def saved(self) -> float:
        """How many parameters fewer the network has for inference than the dense one, as a share of these."""
        return 1 - self.inference / self.dense if self.dense else 0.0


class Latency(BaseModel, extra="forbid"):
    """The median time of a forward pass of one batch."""

    batch: Positive
    milliseconds: Size
    dense_milliseconds: Size  # of the dense network
    passes: Count  # of each of the two, in turn
    ratio: Size | None = None  # the median of a pass over the dense one beside it; older records have none
    ratio_low: Size | None = None  # the quartiles
    ratio_high: Size | None = None

    @property
    def relative(self) -> float | None:
        """The time over the dense network's, if it has one."""
        if self.ratio is not None:
            return self.ratio
        return self.milliseconds / self.dense_milliseconds if self.dense_milliseconds else None


class Costs(BaseModel, extra="forbid"):
    """Costs of inference, with S merged into a factor where that is smaller, or the dense matrix where that is smallest."""

    flops: Count  # of one example's forward pass, 2 a multiplication and addition; matrix products and convolutions alone
    dense_flops: Count  # of the dense network
    latencies: list[Latency]
    threads: Count
    machine: Prose


class SealedRecord(BaseModel, extra="forbid"):
    """A record with the digests of the files that belong to it and, over these and itself, its own."""

    files: dict[FileName, Digest] = {}  # SHA-256 by name, of files in the record's directory
    seal: Digest | Literal[""] = ""  # SHA-256 of the record without it; older records have none


class RunRecord(SealedRecord):
    """The document `run.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    label: Name  # what reports call this run, such as "CondLR τ=0.1"
    method: Name  # dense, vanilla, condlr, dlrt, tdlrt, geolora
    model: Name
    data: Name
    seed: Seed
    status: Literal["running", "complete"] = "running"
    epochs_done: Count = 0
    test_accuracy: Fraction | None = None  # on the whole test set, fraction
    created: Time
    command: Prose
    config: dict[str, Any]
    versions: dict[Name, Name]
    machine: Prose
    hashes: dict[Name, Digest]  # "weights", "train", "test"
    behaviour: dict[Name, Answers] = {}  # `threat.observe` on the test set; older runs and those under way have none
    parameters: Parameters
    costs: Costs | None = None  # None before they are measured, after the training
    classes: Annotated[list[Name], Field(max_length=CLASSES)] = []  # empty where they have none but their numbers
    input_shape: Shape | None = None  # channels, height and width of images; None of networks from elsewhere and older runs
    remarks: list[Prose] = []  # what was done to the images as they came
    kept_dense: dict[Name, Prose] = {}  # layer name: reason
    seconds: Size = 0.0  # training time

    @field_validator("config")
    @classmethod
    def _present_names(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return a configuration, which may be an early one, under the present names of its keys."""
        if not isinstance(method := config.get("method", {}), dict):
            raise ValueError("should have a table 'method'")
        method = dict(method)
        for old, new in (("integration", "step"), ("start", "init")):
            if old in method:
                method[new] = method.pop(old)
        if isinstance(rank := method.get("rank"), dict) and "init" in rank:  # its limits stand in the method's options
            method["rank"] = {"default": rank["init"], "overrides": rank.get("overrides", {})}
        return config | ({"method": method} if method else {})


class AuditFinding(BaseModel, extra="forbid"):
    """One check of an evaluation."""

    check: Name
    status: Literal["pass", "warn", "fail"]
    message: Prose
    remedy: Prose = ""


class AccuracyRecord(BaseModel, extra="forbid"):
    """An accuracy with its interval; `value` is `correct / total`, which with unresolved examples is the least it can be."""

    attack: Name  # "clean", an attack's name, or "worst" (worst case per example over the suite)
    eps: Size
    correct: Count
    total: Positive
    value: Fraction
    low: Fraction
    high: Fraction
    unresolved: Count = 0  # neither correct nor broken when the budget ran out; the interval covers both (`statistics.bounded`)
    implied: Count = 0  # of the correct, so many were not attacked at this eps but in vain at a larger one, by a search of several
    hidden: Count | None = None  # of the correct, so many at most would all parts of `aa-native` break, as a sample has it (95 %)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.correct + self.unresolved > self.total:
            raise ValueError(f"correct = {self.correct} and unresolved = {self.unresolved} are more than total = {self.total}")
        if self.implied > self.correct:
            raise ValueError(f"implied = {self.implied} is more than correct = {self.correct}")
        if self.hidden is not None and self.hidden > self.correct:
            raise ValueError(f"hidden = {self.hidden} is more than correct = {self.correct}")
        require_order(self.low, self.value, self.high)
        return self

    @property
    def least(self) -> float | None:
        """The accuracy that all of an ensemble would leave at least, with 95 % confidence, where a sample bounds it."""
        return None if self.hidden is None else (self.correct - self.hidden) / self.total

    @property
    def most(self) -> float:
        """The accuracy if every unresolved example is robust; `value` without any."""
        return (self.correct + self.unresolved) / self.total


class ResultRecord(SealedRecord):
    """The document `results/SUITE/result.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    suite: Name
    norm: Literal["Linf", "L2", "L1"]
    eps: list[Size]
    seed: Seed
    created: Time
    versions: dict[Name, Name]
    machine: Prose
    hashes: Annotated[dict[Name, Digest], AfterValidator(with_keys("weights", "data", "attack"))]
    behaviour: dict[Name, Answers] = {}  # `threat.observe` on the examples; older results have none
    interval: Name  # such as "Wilson 95 %"
    accuracies: Annotated[list[AccuracyRecord], Field(min_length=1)]
    audit: list[AuditFinding]
    definition: Annotated[dict[str, Any], AfterValidator(attack_entries)]  # the suite as it ran, every parameter explicit
    passes: Size | None = None  # that the network made, with padding and what was in vain; older results do not say
    seconds: Size

    def title(self, attack: str) -> str | None:
        """Return what reports call an attack, such as `PGD-20` for `pgd-20`; None in results that do not say it."""
        return self._attack(attack).get("title")

    def seeks_nearest(self, attack: str) -> bool:
        """Return whether an attack looks for the nearest input that is misclassified, not for one within a radius."""
        return self._attack(attack).get("minimal", attack.partition("-")[0] in _SEEK_NEAREST)

    def _attack(self, name: str) -> dict[str, Any]:
        return next((entry for entry in self.definition["attacks"] if entry.get("name") == name), {})


class CurvePoint(BaseModel, extra="forbid"):
    """The share of examples that are proved right within a radius, with its interval: a row of CURVE."""

    radius: Size
    certified: Count
    total: Positive
    value: Fraction
    low: Fraction
    high: Fraction

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.certified > self.total:
            raise ValueError(f"certified = {self.certified} is more than total = {self.total}")
        require_order(self.low, self.value, self.high)
        return self


class LayerBound(BaseModel, extra="forbid"):
    """One call's part of a Lipschitz bound; without a number it has none, and the note says why."""

    layer: Name
    operation: Name
    constant: Size | None
    bound: Size | None  # from the input up to it
    note: Prose


class CertificateRecord(SealedRecord):
    """The document `certificates/NAME.json`."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: Name
    kind: Literal["lipschitz", "smoothing"]
    norm: Literal["L2"] = "L2"
    created: Time
    versions: dict[Name, Name]
    machine: Prose
    hashes: Annotated[dict[Name, Digest], AfterValidator(with_keys("weights", "data"))]  # as in ResultRecord
    behaviour: dict[Name, Answers] = {}  # as in ResultRecord
    version: Count = 1  # of the computation: what an older one has certified is certified again
    parameters: dict[Name, Finite]  # of smoothing: sigma, n0, n, alpha, seed
    assumptions: list[Prose]
    reasons: list[Prose] = []  # why nothing is certified
    bound: Size | None = None  # Lipschitz bound of the logits; of smoothing none
    layers: list[LayerBound] = []  # what it is made of
    interval: Name  # of the curve, such as "Clopper–Pearson 95 %"
    curve: list[CurvePoint]
    seconds: Size


def attack_title(name: str) -> str:
    """Return an attack's name as papers write it, such as `PGD-20` for `pgd-20`."""
    head, dash, tail = name.partition("-")
    return _TITLES.get(head, head) + dash + tail


def now() -> str:
    """Return the current time as the records write it: UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
