"""A graph is held against its network: on random inputs both must give the same, by the same calls, in every mode."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robust_lowrank.conditioning.constants import Unbounded
from robust_lowrank.errors import first_line

EQUAL = 1e-9  # of a logit and of the median one: far more than float64 loses on the way
LARGEST_MEDIAN = 1e3  # so that masked logits, which may be huge and many, hide nothing
HUGE = 1e30  # of numbers that stand for infinity, which depend on the type: those are not told apart
READING = frozenset(
    [
        "item",
        "tolist",
        "numpy",
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
        "__complex__",
        "__array__",
        "__contains__",
        "__format__",
        "__repr__",
        "__dlpack__",
        "data_ptr",
        "storage",
        "untyped_storage",
        "is_nonzero",
        "equal",
        "allclose",
    ]
)  # by which values of tensors reach Python, where nobody can follow them
MODES = frozenset({"_set_grad_enabled"})  # calls that put back what was before: gradients on or off
PRECISION = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})


class Watched(nn.Module):
    """A network under watch: the calls of torch in its last forward pass, in order, with shapes and numbers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls: list[Any] = []
        self.autocast = False  # whether a call was made in lower precision

    def forward(self, x: Tensor) -> Any:
        """Return what the network returns."""
        self.calls.clear()
        with _Watch(self):
            return self.network(x)

    def answer(self, x: Tensor) -> Tensor:
        """Return what the network returns to an input.

        Raises:
            Unbounded: it fails, or returns something else than a tensor, or took values of tensors into Python.
        """
        try:
            logits = self(x)
        except Exception as error:  # the network's own
            raise Unbounded(f"its forward fails on an input of shape {tuple(x.shape)}: {first_line(error)}") from error
        self.refuse_reading()
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            raise Unbounded("it returns something else than one tensor of real numbers")
        return logits.detach().clone()

    def refuse_reading(self) -> list[Any]:
        """Return the calls of the last forward pass.

        Raises:
            Unbounded: it took values of tensors into Python, or computed some of it in lower precision.
        """
        if self.autocast:
            raise Unbounded("its forward computes in lower precision, by autocast")
        if read := next((name for name, *_ in self.calls if name in READING), None):
            raise Unbounded(f"its forward reads values of tensors in Python, by {read}")
        return list(self.calls)


class _Watch(TorchFunctionMode):
    def __init__(self, watched: Watched) -> None:
        super().__init__()
        self.watched = watched

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", str(func))
        self.watched.autocast |= any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))
        if name not in MODES:
            self.watched.calls.append((name, _described(args), _described(kwargs)))
        return func(*args, **kwargs)


def _described(value: Any) -> Any:
    """Return what of an argument must be the same in each pass: shapes, numbers and names, not values, precision or devices."""
    if isinstance(value, Tensor):
        return ("tensor", tuple(value.shape))
    if isinstance(value, dict):
        return tuple((key, _described(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return tuple(_described(each) for each in value)
    if isinstance(value, slice):
        return ("slice", _described((value.start, value.stop, value.step)))
    if isinstance(value, torch.dtype):
        return "float" if value in PRECISION else str(value)
    if isinstance(value, float) and abs(value) >= HUGE:
        return "huge" if value > 0 else "-huge"
    return repr(value) if isinstance(value, bool | int | float | str) else type(value).__name__


def compare(network: Watched, graph: Callable[[Tensor], Any], calls: list[Any], shape: tuple[int, ...]) -> None:
    """Require that network and graph agree.

    Args:
        network: in float64.
        graph: what was traced of it.
        calls: those of the traced pass.
        shape: of one input.

    Raises:
        Unbounded: they differ, or the network does from itself: in another mode, when it is asked again, or by what else is in its
            batch.
    """
    inputs = list(_inputs(shape))
    state = _simple_state(network.network)
    answers = [_agreed(network, graph, calls, x) for x in [*inputs, inputs[0]]]
    if not _equal(answers[-1], answers[0]):
        raise Unbounded("its forward gives another answer when it is asked again")
    if changed := sorted(key for key, value in _simple_state(network.network).items() if state.get(key) != value):
        raise Unbounded(f"its forward changes its attribute {changed[0]!r}")
    _compare_batch(network, torch.cat(inputs))


def compare_precision(logits: Tensor, wide: Tensor, dtype: torch.dtype) -> None:
    """Require that a network in its own precision gives what it gives in float64, up to rounding.

    Raises:
        Unbounded: it does not.
    """
    if not _agree(logits.double().cpu(), wide.double(), torch.finfo(dtype).eps ** 0.5):
        raise Unbounded(f"in float64 it gives something else than in {str(dtype).removeprefix('torch.')}")


def _inputs(shape: tuple[int, ...]) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(2, 1, *shape, dtype=torch.float64, generator=generator)
    normal = torch.randn(2, 1, *shape, dtype=torch.float64, generator=generator)
    yield from (uniform[0], uniform[1] * 1e-3, normal[0], 30 * normal[1], torch.zeros_like(uniform[0]))


def _agreed(network: Watched, graph: Callable[[Tensor], Any], calls: list[Any], x: Tensor) -> Tensor:
    """Return the logits that network and graph give, with gradients and without."""
    logits, *others = (_logits(network, calls, x, mode) for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode))
    if any(not _equal(each, logits) for each in others):
        raise Unbounded("its forward depends on whether gradients are computed")
    if not _equal(graph(x), logits):
        raise Unbounded("its forward is not what was traced of it")
    return logits


def _logits(network: Watched, calls: list[Any], x: Tensor, mode: Callable[[], Any]) -> Tensor:
    with mode():
        logits = network.answer(x.clone().requires_grad_(mode is torch.enable_grad))
    if network.calls != calls:
        raise Unbounded("its forward takes another path for another input or another mode of gradients")
    return logits


def _compare_batch(network: Watched, batch: Tensor) -> None:
    with torch.no_grad():
        singly = torch.cat([network.answer(x) for x in batch.split(1)])
        try:
            together = network.answer(batch)
        except Unbounded:  # a network of one example at a time
            return
    if together.shape != singly.shape or not _equal(together, singly):
        raise Unbounded("it mixes the examples of a batch")


def _equal(one: Any, other: Tensor) -> bool:
    same = isinstance(one, Tensor) and one.shape == other.shape and one.is_floating_point()
    return same and _agree(one.detach().double(), other.double(), EQUAL)


def _agree(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Return whether every logit is the same up to a share of itself and of the median one, which masked logits do not move."""
    sizes = other.abs().nan_to_num(0.0, 0.0, 0.0)
    median = float(sizes.median().clamp(max=LARGEST_MEDIAN)) if sizes.numel() else 0.0
    near = (one - other).abs() <= tolerance * (sizes + median)
    return bool((near | (one == other) | (one.isnan() & other.isnan())).all())


def _simple_state(network: nn.Module) -> dict[str, str]:
    """Return the numbers and words that modules keep, and lists of them."""
    return {
        f"{name}.{key}".removeprefix("."): repr(value)
        for name, module in network.named_modules()
        for key, value in vars(module).items()
        if _is_simple(value)
    }


def _is_simple(value: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_simple, value))
    if isinstance(value, dict):
        return all(_is_simple(each) for pair in value.items() for each in pair)
    return value is None or isinstance(value, bool | int | float | str)
