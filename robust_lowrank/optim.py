"""One optimizer that drives every method around any torch optimizer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from robust_lowrank import linalg
from robust_lowrank.errors import UserError
from robust_lowrank.layers.base import FactoredLayer, Factors, named_factored_layers
from robust_lowrank.methods import RetractionMethod
from robust_lowrank.methods.condlr import project_out

FIRST_MOMENTS = ("momentum_buffer", "exp_avg", "grad_avg")
SECOND_MOMENTS = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")


class LowRankOptimizer(torch.optim.Optimizer):
    """Train a network's factored layers by their methods and everything else by a torch optimizer.

    Args:
        model: the network, after `compress`; a dense one is trained as usual.
        optimizer: a class from `torch.optim` that steps without a closure.
        **options: its arguments, such as `lr`, `momentum`, `weight_decay`. Weight decay never touches the bases.

    The bases, cores and other parameters are three of the `param_groups`, which learning-rate schedulers see and change.

    Example:
        >>> opt = LowRankOptimizer(nn.Linear(3, 2), torch.optim.SGD, lr=0.1)
        >>> opt.evaluations_per_step
        1

    Raises:
        UserError: the optimizer needs a closure of its own, or the network has no parameters.
    """

    def __init__(self, model: nn.Module, optimizer: type[torch.optim.Optimizer], **options: Any) -> None:
        if optimizer is torch.optim.LBFGS:
            raise UserError("LBFGS evaluates the loss as it likes and cannot drive factors: take SGD, Adam or AdamW")
        self.layers = {name: layer for name, layer in named_factored_layers(model) if layer.method is not None}
        self.model = model
        self.inner = optimizer(_groups(model, self.layers), **options)
        super().__init__(self.inner.param_groups, self.inner.defaults)
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    @property
    def evaluations_per_step(self) -> int:
        """How often one step runs the closure."""
        return max((layer.method.evaluations for layer in self.layers.values()), default=1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, after the network's factors have been loaded."""
        self.inner.load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step and return the loss at its start.

        `closure` clears the gradients, evaluates the loss of one batch, calls `backward` and returns the loss. It may run several
        times: dropout then repeats, and the running statistics of BatchNorm move only once. Methods with a single evaluation also
        take a step without a closure, after a `backward` of the caller's.

        Raises:
            UserError: a method needs more than one evaluation and there is no closure.
            FactorisationError: a core is not finite, which names the layer.
        """
        turning = {name: layer for name, layer in self.layers.items() if layer.method.evaluations > 1}
        if closure is None:
            if turning:
                raise UserError(
                    f"{_describe(turning)} evaluates twice a step: call step(closure), where closure clears the gradients, "
                    "runs forward and backward on one batch and returns the loss"
                )
            loss = None
        elif turning:
            with _unmoved(self.model):
                loss = _evaluate(closure)
            ranks = {name: self._expand(name, layer) for name, layer in turning.items()}
            with _frozen_bases(turning.values()):
                _evaluate(closure)
            self._core_step(ranks)
            return loss
        else:
            loss = _evaluate(closure)
        self._core_step({})
        return loss

    def _core_step(self, ranks: dict[str, tuple[int, ...]]) -> None:
        retractions: dict[str, Factors] = {}
        for name, layer in self.layers.items():
            if layer.core.grad is None:
                continue
            if isinstance(layer.method, RetractionMethod):
                retractions[name] = self._aim(layer)
            elif name not in ranks:
                ranks[name] = self._expand(name, layer)
        self.inner.step()
        for name, old in retractions.items():
            layer = self.layers[name]
            increments = tuple(basis.detach().clone() for basis in layer.bases())
            with _naming(name):
                layer.set_factors(layer.method.retract(layer.core.detach(), old.bases, increments))
        for name, before in ranks.items():
            self._contract(name, self.layers[name], before)

    def _aim(self, layer: FactoredLayer) -> Factors:
        """Give the inner optimizer the directions as gradients, and zeros as bases, where it leaves the exact increments."""
        old = Factors(layer.core.detach(), tuple(basis.detach().clone() for basis in layer.bases()))
        directions = layer.method.directions(old, _gradients(layer))
        layer.core.grad = directions.core
        for basis, at, direction in zip(layer.bases(), old.bases, directions.bases, strict=True):
            basis.grad = direction
            basis.data = torch.zeros_like(at)
            moments = self.state.get(basis, {})
            for key in FIRST_MOMENTS:
                if isinstance(moments.get(key), Tensor):
                    moments[key] = project_out(at, moments[key])
        return old

    def _expand(self, name: str, layer: FactoredLayer) -> tuple[int, ...]:
        old = layer.factors()
        with _naming(name):
            factors, gradient = layer.method.expand(old, _gradients(layer), self._lr(layer))
        self._install(layer, old, factors)
        layer.core.grad = gradient
        return tuple(basis.shape[1] for basis in old.bases)

    def _contract(self, name: str, layer: FactoredLayer, ranks: tuple[int, ...]) -> None:
        old = layer.factors()
        with _naming(name):
            self._install(layer, old, layer.method.contract(old, ranks))

    def _install(self, layer: FactoredLayer, old: Factors, new: Factors) -> None:
        """Install factors, and move the core's optimizer state into their bases."""
        layer.core.grad = None
        for basis in layer.bases():
            basis.grad = None
        layer.set_factors(new)
        if self.state.get(layer.core):
            turns = [after.T @ before for after, before in zip(new.bases, old.bases, strict=True)]
            self.state[layer.core] = transport(self.state[layer.core], old.core.shape, turns)

    def _lr(self, layer: FactoredLayer) -> float:
        return next(float(g["lr"]) for g in self.param_groups if any(p is layer.core for p in g["params"]))


def transport(state: dict[str, Any], shape: torch.Size, turns: list[Tensor]) -> dict[str, Any]:
    """Return an optimizer's state of a core after a change of bases, turn i being U_i,new^T U_i,old.

    First moments turn with the core (methods (6)), which is exact for momentum SGD. Second moments turn by the squared entries, and
    rows and columns that an augmentation has added start at the old mean (methods (8)). A state with anything else is dropped.
    """
    moved = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.shape != shape:
            moved[key] = value
        elif key in FIRST_MOMENTS:
            moved[key] = linalg.multi_product(value, turns)
        elif key in SECOND_MOMENTS:
            moved[key] = _transport_squares(value, turns)
        else:
            return {}
    return moved


def _transport_squares(value: Tensor, turns: list[Tensor]) -> Tensor:
    squares = linalg.multi_product(value, [turn.square() for turn in turns])
    fresh = torch.zeros_like(squares, dtype=torch.bool)
    for mode, turn in enumerate(turns):
        if turn.shape[0] > turn.shape[1]:
            fresh.movedim(mode, 0)[turn.shape[1] :] = True
    return torch.where(fresh, value.mean(), squares)


def _groups(model: nn.Module, layers: dict[str, FactoredLayer]) -> list[dict[str, Any]]:
    cores = [layer.core for layer in layers.values()]
    bases = [basis for layer in layers.values() for basis in layer.bases()]
    factors = {id(parameter) for parameter in (*cores, *bases)}
    others = [parameter for parameter in model.parameters() if id(parameter) not in factors]
    groups = [
        {"params": others, "name": "dense"},
        {"params": cores, "name": "cores"},
        {"params": bases, "name": "bases", "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise UserError("the network has no parameters to train")
    return groups


def _gradients(layer: FactoredLayer) -> Factors:
    core, *bases = (_gradient(parameter) for parameter in (layer.core, *layer.bases()))
    return Factors(core, tuple(bases))


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _evaluate(closure: Callable[[], Any]) -> Any:
    with torch.enable_grad():
        return closure()


def _describe(layers: dict[str, FactoredLayer]) -> str:
    name, layer = next(iter(layers.items()))
    return f"{type(layer.method).__name__} (layer {name!r})"


@contextmanager
def _naming(layer: str) -> Iterator[None]:
    try:
        yield
    except linalg.FactorisationError as error:
        raise linalg.FactorisationError(f"layer {layer!r}: {error}") from error


@contextmanager
def _frozen_bases(layers: Any) -> Iterator[None]:
    bases = [basis for layer in layers for basis in layer.bases() if basis.requires_grad]
    for basis in bases:
        basis.requires_grad_(False)
    try:
        yield
    finally:
        for basis in bases:
            basis.requires_grad_(True)


@contextmanager
def _unmoved(model: nn.Module) -> Iterator[None]:
    """Put back the random state and all running statistics after an evaluation that the next one repeats."""
    statistics = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        yield
    for buffer, value in statistics:
        buffer.copy_(value)
