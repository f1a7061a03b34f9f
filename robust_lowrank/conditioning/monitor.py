"""The monitor records conditioning while any loop trains, at the cost of the factors' small matrices."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from robust_lowrank import linalg
from robust_lowrank.conditioning.alerts import LIMITS, Alert, Watch, log
from robust_lowrank.conditioning.rotation import Overlap, largest_angle, overlap
from robust_lowrank.conditioning.spectra import Layer, layers_of, row
from robust_lowrank.conditioning.writers import ParquetWriter, Row, Writer
from robust_lowrank.errors import UserError
from robust_lowrank.layers import Adapter, FactoredLayer
from robust_lowrank.layers.forms import matrix_of
from robust_lowrank.records import MONITOR


class Sample(NamedTuple):
    """One layer's part of a record: a matrix with its singular values, and each basis's defect and rotation."""

    matrix: Tensor
    defects: list[Tensor]
    turned: list[Overlap]


class Monitor:
    """Records every layer's conditioning every so many steps: rows of `records.MONITOR`.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 8))
        >>> with Monitor(model, every=2, dense_every=2, writers=[memory := MemoryWriter()]) as monitor:
        ...     for _ in range(4):  # optimizer.step(), then:
        ...         monitor.step()
        >>> memory.frame()[["step", "layer", "rank"]].to_numpy().tolist()
        [[2, '0', 8], [4, '0', 8]]

    A step without a record costs an addition. A record multiplies each basis with itself and with the one of the record before,
    of which it keeps a copy, moves the results and the cores from the device at once, and decomposes these (r, r) matrices on
    the CPU. Layers kept whole by their method and dense layers have no such small matrix: theirs is a full SVD of the weight.

    Args:
        model: the network; its layers may change their ranks, or be replaced.
        every: steps between two records.
        dense_every: steps between two records that include `nn.Linear` and `nn.Conv2d`, a multiple of `every`; None for never.
        writers: where the rows go.
        warn: limits by quantity; by default 1e4 for `cond` and 1e-4 for `orthonormality`.
        on_alert: is told once when a layer goes beyond a limit, and again after it has recovered; by default it is logged.

    Attributes:
        steps: the number of steps seen.
        latest: the rows of the last record.

    Raises:
        UserError: `every` is below 1, `dense_every` is not a multiple of it, or there is a limit on an unknown quantity.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 10,
        dense_every: int | None = None,
        writers: Sequence[Writer] = (),
        warn: Mapping[str, float] = LIMITS,
        on_alert: Callable[[Alert], None] = log,
    ) -> None:
        if every < 1:
            raise UserError(f"every = {every} is below 1: it is the number of steps between two records")
        if dense_every is not None and (dense_every < 1 or dense_every % every):
            raise UserError(f"dense_every = {dense_every} must be a multiple of every = {every}")
        self.model = model
        self.every: int = every
        self.dense_every: int | None = dense_every
        self.writers: tuple[Writer, ...] = tuple(writers)
        self.steps: int = max((getattr(writer, "last_step", 0) for writer in writers), default=0)
        self.latest: list[Row] = []
        self._watch = Watch(warn)
        self._on_alert = on_alert
        self._due = False
        self._hook: RemovableHandle | None = None
        self._bases: dict[str, tuple[Tensor, ...]] = {}  # at the last record

    def step(self, number: int | None = None, *, settled: bool = True) -> None:
        """Count a step that the optimizer has taken, and record if it is time.

        Args:
            number: which step it was, for loops that go on where another left off; one that has been seen is ignored.
            settled: False puts a record off to the next step; see `attach`.
        """
        number = self.steps + 1 if number is None else number
        if number <= self.steps:
            return
        self.steps = number
        self._due = self._due or number % self.every == 0
        if self._due and settled:
            self.record()

    def attach(self, optimizer: torch.optim.Optimizer) -> Self:
        """Have an optimizer call `step` after each of its own.

        While a window of `LowRankOptimizer`'s steps is open, layers have more singular values than they will keep;
        records then wait until it has closed.

        Raises:
            UserError: it is attached already, so that steps would count twice.
        """
        if self._hook is not None and self._hook.hooks_dict_ref() is not None:  # the optimizer is still there
            raise UserError("this monitor is attached to an optimizer already: detach() it first, or make another one")
        self._hook = optimizer.register_step_post_hook(lambda stepped, *_: self.step(settled=getattr(stepped, "settled", True)))
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of, which is attached to nothing."""
        return vars(self) | {"_hook": None}

    def detach(self) -> None:
        """Have the optimizer call `step` no longer, if it did; what has been recorded stays."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    @torch.no_grad()
    def record(self) -> list[Row]:
        """Record now, whatever the step, and return the rows."""
        layers = self._layers()
        samples = [self._sample(name, layer) for name, layer in layers.items()]
        rows = [_row(name, layer, sample) for (name, layer), sample in zip(layers.items(), to_cpu(samples), strict=True)]
        product = math.prod(row["cond"] for row in rows if row["factored"])
        for each in rows:
            each |= {"step": self.steps, "cond_product": product}
        self.latest = [{column: each[column] for column in MONITOR} for each in rows]
        self._due = False
        self._bases = {
            name: tuple(basis.detach().clone() for basis in layer.bases())
            for name, layer in layers.items()
            if isinstance(layer, FactoredLayer)
        }
        for writer in self.writers:
            writer.write(self.latest)
        for alert in self._watch(self.latest):
            self._on_alert(alert)
        return self.latest

    def line(self) -> str:
        """Return the last record in short, such as "cond ≤ 1.10 (conv2), orth 3e-07", or nothing before the first."""
        rows = [row for row in self.latest if row["factored"]] or self.latest
        if not rows:
            return ""
        worst = max(rows, key=lambda row: math.inf if math.isnan(row["cond"]) else row["cond"])
        text = f"cond ≤ {worst['cond']:.3g} ({worst['layer']})"
        defects = [row["orthonormality"] for row in rows if not math.isnan(row["orthonormality"])]
        return f"{text}, orth {max(defects):.0e}" if defects else text

    def state_dict(self) -> dict[str, Any]:
        """Return what a monitor needs to go on as if nothing had happened."""
        return {"steps": self.steps, "due": self._due, "bases": dict(self._bases), "beyond": sorted(self._watch.beyond)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; writers drop what they had written after it."""
        self.rewind(state["steps"])
        self._due = state["due"]
        self._bases = {name: tuple(bases) for name, bases in state["bases"].items()}
        self._watch.beyond = {(layer, quantity) for layer, quantity in state["beyond"]}

    def rewind(self, step: int) -> None:
        """Go on after a step, and have the writers drop what they had written after it."""
        self.steps = step
        for writer in self.writers:
            writer.rewind(step)

    def flush(self) -> None:
        """Have the writers write what they keep; those that keep nothing back have nothing to do."""
        for writer in self.writers:
            if isinstance(writer, ParquetWriter):
                writer.flush()

    def close(self) -> None:
        """Detach from the optimizer, and close the writers."""
        self.detach()
        for writer in self.writers:
            writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _layers(self) -> dict[str, Layer]:
        dense = self.dense_every is not None and self.steps % self.dense_every < self.every
        layers: dict[str, Layer] = {}
        for name, layer in layers_of(self.model):
            if not isinstance(layer, Adapter):
                layers[name] = layer
            elif dense:
                layers[name] = layer.dense_layer()
        return {name: layer for name, layer in layers.items() if dense or isinstance(layer, FactoredLayer)}

    def _sample(self, name: str, layer: Layer) -> Sample:
        if not isinstance(layer, FactoredLayer):
            return Sample(matrix_of(layer), [], [])
        bases = layer.factors().bases
        before = self._bases.get(name, ())
        comparable = [len(basis) for basis in before] == [len(basis) for basis in bases]
        turned = [overlap(old.to(new.device), new) for old, new in zip(before, bases, strict=True)] if comparable else []
        return Sample(layer.compact(), [linalg.gram_defect(linalg.at_least_float32(basis)) for basis in bases], turned)


def to_cpu(samples: Sequence[Sample]) -> list[Sample]:
    """Return samples with all their tensors on the CPU, in float32 or better, by one transfer a device."""
    tensors = [tensor for matrix, defects, turned in samples for tensor in (matrix, *defects, *chain(*turned))]
    cpu: dict[int, Tensor] = {}
    for device in {tensor.device for tensor in tensors}:
        group = [tensor for tensor in tensors if tensor.device == device]
        flat = torch.cat([linalg.at_least_float32(tensor).reshape(-1) for tensor in group]).cpu()
        parts = flat.split([tensor.numel() for tensor in group])
        cpu |= {id(tensor): part.reshape(tensor.shape) for tensor, part in zip(group, parts, strict=True)}
    return [
        Sample(cpu[id(matrix)], [cpu[id(each)] for each in defects], [Overlap(cpu[id(a)], cpu[id(b)]) for a, b in turned])
        for matrix, defects, turned in samples
    ]


def _row(name: str, layer: Layer, sample: Sample) -> Row:
    if all(bool(torch.isfinite(part).all()) for part in (sample.matrix, *sample.defects)):
        sigma = linalg.svd(sample.matrix.double()).sigma
    else:
        sigma = torch.full((min(sample.matrix.shape),), math.nan, dtype=torch.float64)
    angles = [largest_angle(turned) for turned in sample.turned]
    return row(name, layer, sigma, [float(each) for each in sample.defects]) | {
        "distance": _distance(sigma, layer.method) if isinstance(layer, FactoredLayer) else math.nan,
        "rotation_u": angles[0] if angles else math.nan,
        "rotation_v": max(angles[1:], default=math.nan),
    }


def _distance(sigma: Tensor, method: Any) -> float:
    """Return how far the nearest weight of the same rank is that the method's bound on cond allows, relative (methods (17))."""
    bound = math.inf if method is None else method.cond_bound
    if math.isinf(bound) or not bool(sigma[0] > 0):
        return math.nan
    nearest = linalg.clamp_values(sigma, bound - 1, "exact")
    return float((sigma - nearest).norm() / sigma.norm())
