"""The files of a run directory: what every stage writes and the next one reads.

    RUN/run.json                              RunRecord: configuration, seeds, versions, hashes, parameter counts, status
    RUN/model.safetensors                     the trained weights (`rlr.save`)
    RUN/metrics.parquet                       METRICS, a row an epoch
    RUN/spectra.parquet                       SPECTRA, a row an epoch and layer, epoch 0 being the start
    RUN/monitor.parquet                       MONITOR, a row a recorded step and layer, if the configuration has a monitor
    RUN/resume/EPOCH/                         what a training that is interrupted goes on from (`training.resume`)
    RUN/operators.parquet                     OPERATORS, a row a layer of the trained network; older runs have none
    RUN/certificates/NAME.json                CertificateRecord: what was proved, on which assumptions, certified accuracies
    RUN/certificates/NAME.parquet             CERTIFICATE, a row an example
    RUN/results/SUITE/result.json             ResultRecord: threat model, hashes, engines, audit
    RUN/results/SUITE/verdicts.parquet        VERDICTS, a row an example, attack and eps
    RUN/results/SUITE/adversarial.safetensors the inputs that broke an example, keys "ATTACK/EPS/inputs" and "ATTACK/EPS/examples"
    RUN/results/SUITE/clean.safetensors       the first examples as they are, keys "inputs" and "examples"
    RUN/results/SUITE/transfer.parquet        TRANSFER, what broke other networks tried on this one: a row a network, attack and eps

Everything is written to a temporary name and renamed, so a reader never sees half a file.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from robust_lowrank.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
TRANSFER_FILE, CLEAN_FILE = "transfer.parquet", "clean.safetensors"

METRICS = ("epoch", "step", "lr", "train_loss", "train_accuracy", "validation_accuracy", "seconds")

SPECTRA = (
    "epoch",  # 0 is the network before training
    "layer",  # module name
    "kind",  # "linear", "conv" (the filter-wise matricised kernel) or "tucker" (the same matrix)
    "factored",  # False for a layer that stayed dense
    "rows",
    "columns",
    "rank",  # number of singular values
    "sigma_max",
    "sigma_min",
    "cond",  # sigma_max / sigma_min over the rank values; of the matrix, not of the convolution operator
    "stable_rank",  # ||W||_F^2 / sigma_max^2
    "orthonormality",  # largest ||U^T U - I||_F over the bases; NaN without bases
    "params",
    "params_dense",
    "singular_values",  # list of float64, descending
)

MONITOR = (
    "step",  # counted from 1
    "layer",
    "kind",  # as in SPECTRA, and so are the next ones
    "factored",
    "rank",
    "sigma_max",
    "sigma_min",
    "cond",
    "stable_rank",
    "orthonormality",
    "distance",  # to the nearest weight that the layer's bound on cond allows, relative, in the Frobenius norm; NaN without a bound
    "rotation_u",  # largest principal angle, in radians, between the first basis and that of the record before; NaN without one
    "rotation_v",  # the same for the second basis, or the largest of all others
    "cond_product",  # over the factored layers of this step
    "singular_values",
)

OPERATORS = (
    "layer",  # module name
    "kind",  # as in SPECTRA
    "height",  # of the images that reach a convolution; 1 for a linear layer
    "width",
    "sigma_max",  # of the matrix of filters, as in SPECTRA
    "operator_norm",  # of the map with its real stride and padding: an estimate from below
    "residual",  # of that estimate
    "operator_bound",  # a rigorous upper bound of the same norm
    "circular_max",  # largest and smallest singular value of the periodic convolution at stride 1
    "circular_min",
    "circular_cond",  # their ratio
    "folded_bound",  # operator_bound with the batch normalisation that follows folded in; the same without one
    "contribution",  # log10 of folded_bound: what the layer adds to that of the product over the layers
)

CERTIFICATE = (
    "example",  # index within the certified set
    "label",
    "prediction",  # of the network; of smoothing: the class that noise finds most often
    "margin",  # z_label - max of the other logits; of smoothing: the lower limit of the probability of `prediction`, less 1/2
    "radius",  # L2, in the inputs' units: no input within it is of another class; 0 where the prediction is wrong or not sure
    "abstained",  # smoothing alone: the samples do not say which class it is
)

CURVE = ("radius", "certified", "total", "value", "low", "high")  # the share of examples with at least this radius

VERDICTS = (
    "example",  # index within the evaluated set
    "label",
    "clean_prediction",
    "attack",
    "norm",  # "Linf", "L2" or "L1"
    "eps",
    "verdict",  # one of VERDICT
    "adversarial_prediction",
    "margin",  # z_label - max of the other logits at the stored input; negative is broken
    "distance",  # of the adversarial input in the threat model's norm; NaN unless broken
    "forwards",
    "backwards",
    "seconds",
    "engine",
    "seed",
    "flags",  # comma-separated remarks, such as "nonfinite-gradient"
)

TRANSFER = (
    "source",  # label of the network on which the inputs were made
    "source_seed",
    "source_created",  # when its result was
    "source_weights",  # hashes, as in both networks' results
    "target_weights",
    "data",
    "attack_hash",
    "attack",
    "norm",
    "eps",
    "tried",  # examples that broke the source and that this network gets right
    "fooled",  # of them, those that it gets wrong by a strict margin on the source's input
)

VERDICT = ("robust", "broken", "misclassified", "nonfinite", "unresolved")  # unresolved: the budget ran out before a verdict


class Parameters(BaseModel):
    """Parameter counts of a network; `removed` and `rank_fraction` are the two things that papers call compression."""

    model_config = ConfigDict(extra="forbid")
    total: int  # all parameters as stored for training, layers that stayed dense included
    dense: int  # of the dense network
    inference: int  # with S merged into a factor where that is smaller, or the dense matrix where that is smallest
    removed: float  # 1 - (r(n+m) + r^2) / nm over the factored layers' weights; 0 without any
    rank_fraction: float  # mean of r / min(n, m) over the factored layers; 1 without any


class Latency(BaseModel):
    """How long a forward pass of a batch takes: the median over several passes."""

    model_config = ConfigDict(extra="forbid")
    batch: int
    milliseconds: float
    dense_milliseconds: float  # of the dense network
    passes: int  # the fewer of the two


class Costs(BaseModel):
    """What inference costs, with S merged into a factor where that is smaller, or the dense matrix where that is smallest."""

    model_config = ConfigDict(extra="forbid")
    flops: int  # of one example's forward pass, 2 a multiplication and addition; matrix products and convolutions alone
    dense_flops: int  # of the dense network
    latencies: list[Latency]
    threads: int
    machine: str


class RunRecord(BaseModel):
    """What `run.json` holds."""

    model_config = ConfigDict(extra="forbid")
    schema_version: Literal[1] = SCHEMA_VERSION
    label: str  # what reports call this run, such as "CondLR τ=0.1"
    method: str  # dense, vanilla, condlr, dlrt, tdlrt, geolora
    model: str
    data: str
    seed: int
    status: Literal["running", "complete"] = "running"
    epochs_done: int = 0
    test_accuracy: float | None = None  # on the whole test set, fraction
    created: str
    command: str
    config: dict[str, Any]
    versions: dict[str, str]
    machine: str
    hashes: dict[str, str]  # "weights", "train", "test"
    parameters: Parameters
    costs: Costs | None = None  # None before training ends, and in runs older than the measurement
    classes: list[str] = []  # the classes' names; empty where they have none but their numbers
    kept_dense: dict[str, str] = {}  # layer name: reason
    seconds: float = 0.0  # training time


class AuditFinding(BaseModel):
    """One check of an evaluation."""

    model_config = ConfigDict(extra="forbid")
    check: str
    status: Literal["pass", "warn", "fail"]
    message: str
    remedy: str = ""


class AccuracyRecord(BaseModel):
    """An accuracy with its interval; `value` is `correct / total`, which with unresolved examples is the least it can be."""

    model_config = ConfigDict(extra="forbid")
    attack: str  # "clean", an attack's name, or "worst" (worst case per example over the suite)
    eps: float
    correct: int
    total: int
    value: float
    low: float
    high: float
    unresolved: int = 0  # neither correct nor broken when the budget ran out; the interval covers both (`statistics.bounded`)

    @property
    def most(self) -> float:
        """The accuracy if every unresolved example is robust; `value` without any."""
        return (self.correct + self.unresolved) / self.total


class ResultRecord(BaseModel):
    """What `results/SUITE/result.json` holds."""

    model_config = ConfigDict(extra="forbid")
    schema_version: Literal[1] = SCHEMA_VERSION
    suite: str
    norm: Literal["Linf", "L2", "L1"]
    eps: list[float]
    seed: int
    created: str
    versions: dict[str, str]
    machine: str
    hashes: dict[str, str]  # "weights", "data", "attack"
    interval: str  # such as "Wilson 95 %"
    accuracies: list[AccuracyRecord]
    audit: list[AuditFinding]
    definition: dict[str, Any]  # the suite as it ran, every parameter explicit
    seconds: float


class CurvePoint(BaseModel):
    """The share of examples that are proved right within a radius, with its interval: a row of CURVE."""

    model_config = ConfigDict(extra="forbid")
    radius: float
    certified: int
    total: int
    value: float
    low: float
    high: float


class LayerBound(BaseModel):
    """What one call of a network adds to its Lipschitz bound; without a number it has none, and the note says why."""

    model_config = ConfigDict(extra="forbid")
    layer: str
    operation: str
    constant: float | None
    bound: float | None  # from the input up to it
    note: str


class CertificateRecord(BaseModel):
    """What `certificates/NAME.json` holds."""

    model_config = ConfigDict(extra="forbid")
    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    kind: Literal["lipschitz", "smoothing"]
    norm: Literal["L2"] = "L2"
    created: str
    versions: dict[str, str]
    machine: str
    hashes: dict[str, str]  # "weights", "data", as in ResultRecord
    parameters: dict[str, float]  # of smoothing: sigma, n0, n, alpha, seed
    assumptions: list[str]
    reasons: list[str] = []  # why nothing is certified
    bound: float | None = None  # Lipschitz bound of the logits; of smoothing none
    layers: list[LayerBound] = []  # what it is made of
    interval: str  # of the curve, such as "Clopper–Pearson 95 %"
    curve: list[CurvePoint]
    seconds: float


@dataclass(frozen=True)
class Certificate:
    """One certificate as read from a run directory."""

    record: CertificateRecord
    table: "pd.DataFrame"


@dataclass(frozen=True)
class Result:
    """One evaluation as read from a run directory."""

    record: ResultRecord
    verdicts: "pd.DataFrame"
    transfer: "pd.DataFrame | None" = None
    path: Path | None = None  # its directory


@dataclass(frozen=True)
class Run:
    """A run directory as read: its record, histories and evaluations by suite name, certificates by theirs."""

    path: Path
    record: RunRecord
    metrics: "pd.DataFrame"
    spectra: "pd.DataFrame"
    results: dict[str, Result]
    operators: "pd.DataFrame | None" = None
    certificates: dict[str, Certificate] = field(default_factory=dict)


def now() -> str:
    """Return the current time as the records write it: UTC, ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`, which takes the place of `path` if the block ends well and vanishes if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    temporary.chmod(0o644)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file at once."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as JSON at once."""
    write_text(path, record.model_dump_json(indent=2) + "\n")


def write_frame(path: Path, frame: "pd.DataFrame") -> None:
    """Write a table as Parquet at once."""
    with replacing(path) as temporary:
        frame.to_parquet(temporary, index=False)


_Record = TypeVar("_Record", bound=BaseModel)


def read_record(path: Path, kind: type[_Record]) -> _Record:
    """Read a JSON record.

    Raises:
        UserError: there is no such file, or it is not such a record.
    """

    def parse() -> _Record:
        return kind.model_validate(json.loads(path.read_text(encoding="utf-8")))

    return _read(path, parse)


def read_frame(path: Path) -> "pd.DataFrame":
    """Read a Parquet table.

    Raises:
        UserError: there is no such file, or it is not a table.
    """
    import pandas as pd

    return _read(path, lambda: pd.read_parquet(path))


def read_run(path: Path) -> Run:
    """Read a run directory, results included.

    Raises:
        UserError: `path` is not a run directory, or a file in it cannot be read.
    """
    if not (path / "run.json").is_file():
        raise UserError(f"{path} is not a run directory: it has no run.json. Make one with 'rlr-eval train --out {path}'")
    results = {
        directory.name: Result(
            record=read_record(directory / "result.json", ResultRecord),
            verdicts=read_frame(directory / "verdicts.parquet"),
            transfer=read_frame(directory / TRANSFER_FILE) if (directory / TRANSFER_FILE).is_file() else None,
            path=directory,
        )
        for directory in sorted((path / "results").glob("*"))
        if (directory / "result.json").is_file()
    }
    certificates = {
        file.stem: Certificate(record=read_record(file, CertificateRecord), table=read_frame(file.with_suffix(".parquet")))
        for file in sorted((path / "certificates").glob("*.json"))
    }
    operators = path / "operators.parquet"
    return Run(
        path=path,
        record=read_record(path / "run.json", RunRecord),
        metrics=read_frame(path / "metrics.parquet"),
        spectra=read_frame(path / "spectra.parquet"),
        results=results,
        operators=read_frame(operators) if operators.is_file() else None,
        certificates=certificates,
    )


_Read = TypeVar("_Read")


def _read(path: Path, parse: Callable[[], _Read]) -> _Read:
    try:
        return parse()
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: the run stopped before writing it, or this is not a run directory") from error
    except (OSError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read: {reason}") from error
