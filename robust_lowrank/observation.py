"""A network is observed in a pass: which layers are called, whose weights are read, how long it takes, how much is computed."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, is_dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from robust_lowrank.candidates import Seen
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.optim.replay import repeatable

MULTIPLY = (
    *("linear", "bilinear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "addmm", "baddbmm", "addbmm", "einsum"),
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "_grouped_mm", "grouped_mm"),
    *("multi_head_attention_forward", "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "tensordot", "chain_matmul"),
)
VIEWS = (
    *("__getitem__", "__get__", "t", "transpose", "permute", "movedim", "reshape", "view", "flatten", "unflatten", "squeeze"),
    *(
        "unsqueeze",
        "chunk",
        "split",
        "unbind",
        "narrow",
        "select",
        "index_select",
        "expand",
        "contiguous",
        "to",
        "type_as",
        "float",
    ),
    *("half", "bfloat16", "double", "detach", "clone", "swapaxes"),
)
SCALE = ("mul", "__mul__", "__rmul__", "multiply", "div", "__truediv__")  # by other parameters or buffers, such as masks
PASSES = 3  # whose median time counts


CLOSE, TINY = 1e-5, 1e-4  # relative to each answer in float64, and beside it to the largest


@dataclass
class Observation:
    """What passes of a network in both modes have shown.

    Attributes:
        seen: which modules were called, and which parameters multiplied with.
        seconds: of each module's calls in one pass in evaluation mode.
        flops: likewise its floating-point operations.
    """

    seen: Seen
    seconds: dict[str, float] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)


@torch.no_grad()
def observe(model: nn.Module, example_input: Any) -> Observation:
    """Run a network on an example in training and in evaluation mode, and leave it as it was.

    Args:
        example_input: a tensor, a tuple of positional arguments, or a mapping of named ones.

    Raises:
        UserError: the network does not run on it.
    """
    seen = Seen(defaultdict(int), set())
    observation = Observation(seen)
    seconds: dict[str, list[float]] = defaultdict(list)
    try:
        with _left_as_it_was(model):
            model.train()
            with _counting(model, seen), _Uses(model, seen):
                _run(model, example_input)
            in_training = dict(seen.calls)
            seen.calls.clear()
            model.eval()
            with _counting(model, seen), _Uses(model, seen):
                _run(model, example_input)
            for module, calls in in_training.items():
                seen.calls[module] = max(calls, seen.calls[module])
            counter = FlopCounterMode(display=False)
            with suppress(Exception), torch.enable_grad(), counter:  # inference may take fused ways that have no count
                _run(model, example_input)
            for _ in range(PASSES):
                with _timing(model) as found:
                    _run(model, example_input)
                for name, each in found.items():
                    seconds[name].append(each)
    except Exception as error:  # of whatever the network does
        raise UserError(f"the network does not run on example_input: {first_line(error)}") from error
    root = type(model).__name__
    for name, flops in counter.get_flop_counts().items():
        observation.flops[name.removeprefix(root).removeprefix(".")] = sum(flops.values())
    observation.seconds = {name: median(each) for name, each in seconds.items()}
    return observation


@torch.no_grad()
def passes(model: nn.Module, example: Any) -> list[Tensor]:
    """Return what a network answers in training and in evaluation mode, and leave it as it was.

    Raises:
        UserError: it does not run.
    """
    answers: list[Tensor] = []
    try:
        for mode in (True, False):
            with _left_as_it_was(model):
                answers += _leaves(_run(model.train(mode), example))
    except Exception as error:  # of whatever the network does
        raise UserError(f"the network does not run on example_input any more: {first_line(error)}") from error
    return answers


def alike(found: list[Tensor], due: list[Tensor], moved: list[Tensor]) -> bool:
    """Return whether answers are equal but for rounding, where a move of the weights by rounding leaves them so."""
    if [each.shape for each in due] != [each.shape for each in moved]:
        return True  # the network's own answers differ from pass to pass
    if [each.shape for each in found] != [each.shape for each in due]:
        return False
    for ours, theirs, again in zip(found, due, moved, strict=True):
        ours, theirs, again = (each.to(torch.complex128 if each.is_complex() else torch.float64) for each in (ours, theirs, again))
        finite = torch.isfinite(theirs) & torch.isfinite(again)
        if not bool((torch.isfinite(ours) | ~finite).all()):
            return False
        noise = (again - theirs)[finite].abs().sum()
        size = theirs[finite].abs()
        allowed = CLOSE * size + CLOSE * TINY * (1 + size.max() if size.numel() else 1) + 1e6 * noise
        if not bool(((ours - theirs)[finite].abs() <= allowed).all()):
            return False
    return True


def in_float64(value: Any) -> Any:
    """Return an example whose real tensors are in float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: in_float64(each) for key, each in value.items()}
    return type(value)(in_float64(each) for each in value) if type(value) in (list, tuple) else value


def _leaves(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of an answer that can be compared."""
    if isinstance(value, Tensor):
        if value.layout == torch.strided and value.dtype != torch.bool:
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    elif is_dataclass(value):
        yield from _leaves(vars(value))


@contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Put back the mode of every module, the random state and all running statistics, whatever happens."""
    modes = {module: module.training for module in model.modules()}
    try:
        with repeatable(model):
            yield
    finally:
        model.train(modes[model])  # what a network does when its mode changes, it is to undo
        for module, mode in modes.items():
            module.training = mode


def _run(model: nn.Module, example: Any) -> Any:
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


@contextmanager
def _counting(model: nn.Module, seen: Seen) -> Iterator[None]:
    """Count the calls of every module."""
    with ExitStack() as stack:
        for module in model.modules():
            hook = module.register_forward_pre_hook(lambda module, _: seen.calls.update({id(module): seen.calls[id(module)] + 1}))
            stack.callback(hook.remove)
        yield


@contextmanager
def _timing(model: nn.Module) -> Iterator[dict[str, float]]:
    """Yield what becomes the seconds that the modules without children of their own have taken."""
    found: dict[str, float] = defaultdict(float)
    begun: dict[str, float] = {}
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}

    def now() -> float:
        for device in devices:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def begin(name: str) -> Any:
        return lambda *_: begun.update({name: now()})

    def end(name: str) -> Any:
        return lambda *_: found.update({name: found[name] + now() - begun[name]})

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if module._parameters:
                stack.callback(module.register_forward_pre_hook(begin(name)).remove)
                stack.callback(module.register_forward_hook(end(name)).remove)
        yield found


class _Uses(TorchFunctionMode):
    """Follows parameters through views of them to the functions that multiply with them."""

    def __init__(self, model: nn.Module, seen: Seen) -> None:
        super().__init__()
        self._seen = seen
        self._sources = {id(parameter): id(parameter) for parameter in model.parameters()}
        self._fixed = {id(each) for each in (*model.parameters(), *model.buffers())}
        self._kept: list[Tensor] = []  # so that no other tensor takes the identity of one that is followed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in SCALE and not all(self._is_fixed(each) for each in _tensors([args])):
            return out
        if name in MULTIPLY or name in VIEWS or name in SCALE:
            sources = {self._sources[id(each)] for each in _tensors([args, kwargs or {}]) if id(each) in self._sources}
            if name in MULTIPLY:
                self._seen.multiplied.update(sources)
            elif sources:
                for each in _tensors([out]):
                    self._kept.append(each)
                    self._sources.setdefault(id(each), next(iter(sources)))
        return out

    def _is_fixed(self, tensor: Tensor) -> bool:
        return id(tensor) in self._fixed or id(tensor) in self._sources


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values.values() if isinstance(values, Mapping) else values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple, dict)):
            yield from _tensors(value)
