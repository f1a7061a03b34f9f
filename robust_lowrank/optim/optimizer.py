"""One optimizer that drives every method around any torch optimizer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from robust_lowrank import linalg
from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.layers.base import FactoredLayer, Factors
from robust_lowrank.methods import GalerkinMethod, RetractionMethod
from robust_lowrank.methods.base import Ranks, cut, decompose, turns
from robust_lowrank.optim.allocation import Allocation
from robust_lowrank.optim.groups import parameter_groups, window_of
from robust_lowrank.optim.moments import FIRST_MOMENTS, transport
from robust_lowrank.optim.terms import add_penalty, penalised
from robust_lowrank.penalties import Penalty

Schedule = Literal["exact", "amortised"]
Moments = Literal["transport", "reset"]


class LowRankOptimizer(torch.optim.Optimizer):
    """Train a network's factored layers by their methods and everything else by a torch optimizer.

    Args:
        model: the network, after `compress`; a dense one is trained as usual.
        optimizer: a class from `torch.optim` that steps without a closure.
        schedule: `exact` takes the steps of the papers, all evaluations of one on the same batch, and needs a closure for methods
            with more than one. `amortised` evaluates once a step: the bases turn on one batch, the core moves on the next
            `window` ones, then it is truncated; foreign loops and gradient scalers need no closure then.
        window: core steps between two truncations of the amortised schedule; by default the method's own.
        moments: what becomes of the optimizer's state of a core when its bases turn: `transport` takes it along, `reset` drops it.
        penalties: terms added to the loss; `step` returns the loss without them.
        **options: arguments of the torch optimizer, such as `lr`, `momentum`, `weight_decay`. Weight decay never touches the bases.

    The bases, cores and other parameters are three of the `param_groups`, which learning-rate schedulers see and change. A layer
    whose bases do not require gradients keeps them, and its rank: only its core moves.

    Example:
        >>> opt = LowRankOptimizer(nn.Linear(3, 2), torch.optim.SGD, lr=0.1)
        >>> opt.evaluations_per_step
        1

    Raises:
        UserError: the optimizer needs a closure of its own, the window is too short for a method or given with the exact schedule,
            a penalty finds nothing to act on, or the network has no parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: type[torch.optim.Optimizer],
        *,
        schedule: Schedule = "exact",
        window: int | None = None,
        moments: Moments = "transport",
        penalties: Sequence[Penalty] = (),
        **options: Any,
    ) -> None:
        if not isinstance(model, nn.Module) or not isinstance(optimizer, type):
            raise UserError("LowRankOptimizer takes the network and a class: LowRankOptimizer(model, torch.optim.SGD, lr=0.1)")
        if optimizer is torch.optim.LBFGS:
            raise UserError("LBFGS evaluates the loss as it likes and cannot drive factors: take SGD, Adam or AdamW")
        for option in ("maximize", "centered"):
            if options.get(option):
                raise UserError(
                    f"{option} = True does not go with factors, whose bases turn by the loss's own gradient: leave it out"
                )
        for kind, choice, choices in (("schedule", schedule, Schedule), ("moments", moments, Moments)):
            if choice not in get_args(choices):
                raise unknown_name(kind, str(choice), get_args(choices))
        self.model = model
        self.layers = {
            name: layer
            for name, layer in named_factored_layers(model)
            if isinstance(layer.method, RetractionMethod | GalerkinMethod)
        }
        self.schedule, self.moments = schedule, moments
        self.window = window_of(schedule, window, self._galerkin().values())
        self.penalties = [(penalty, penalised(model, self.layers.values(), penalty)) for penalty in penalties]
        self.allocation = Allocation(model)
        self.steps = 0
        self.position = 0  # in the window; 0: the next step turns the bases
        self._open: dict[str, Ranks] = {}  # layers between turning and truncation, with their ranks before
        self.inner = optimizer(parameter_groups(model, self.layers), **options)
        super().__init__(self.inner.param_groups, self.inner.defaults)
        self._share()

    def _share(self) -> None:
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    def _galerkin(self) -> dict[str, FactoredLayer]:
        return {name: layer for name, layer in self.layers.items() if isinstance(layer.method, GalerkinMethod)}

    @property
    def evaluations_per_step(self) -> int:
        """How often one step runs the closure."""
        if self.schedule == "amortised":
            return 1
        return max((layer.method.evaluations for layer in self.layers.values()), default=1)

    @property
    def settled(self) -> bool:
        """Whether no window of the amortised schedule is open, in which layers have more singular values than they will keep."""
        return not self._open

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: torch keeps its own part alone."""
        own = {name: value for name, value in vars(self).items() if "hooks" not in name}
        return super().__getstate__() | own

    def state_dict(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the torch optimizer's state and the place in the window."""
        window = {"steps": self.steps, "position": self.position, "ranks": dict(self._open)}
        return {**self.inner.state_dict(), "window": window, "allocation": self.allocation.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, after the network's factors have been loaded.

        Raises:
            UserError: it is the state of another kind of optimizer.
        """
        own = dict(state_dict)
        if not {"window", "allocation"} <= own.keys():
            raise UserError("this is not the state of a LowRankOptimizer: it has no window")
        window = own.pop("window")
        self.allocation.load_state_dict(own.pop("allocation"))
        self.inner.load_state_dict(own)
        self._share()
        self.steps, self.position = window["steps"], window["position"]
        self._open = {name: tuple(ranks) for name, ranks in window["ranks"].items()}
        _require_grad(self._open_bases(), False)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step and return the loss at its start.

        `closure` clears the gradients, evaluates the loss of one batch, calls `backward` and returns the loss. It may run several
        times: dropout then repeats, and the running statistics of BatchNorm move only once. Methods with a single evaluation, and
        all in the amortised schedule, also take a step without a closure, after a `backward` of the caller's.

        Raises:
            UserError: a method needs more than one evaluation and there is no closure; nothing has a gradient; or at the first step
                the network has other parameters than when the optimizer was made.
            FactorisationError: a core is not finite when it is decomposed, which names the layer; in a window of the amortised
                schedule that is at its end.
        """
        if self.steps == 0:
            self._require_the_same_network()
        loss = self._exact_step(closure) if self.schedule == "exact" else self._amortised_step(closure)
        self.steps += 1
        return loss

    @torch.no_grad()
    def finish(self) -> None:
        """Truncate now if a window of the amortised schedule is open: at the end of training, or to look at ranks."""
        _require_grad(self._open_bases(), True)
        self._contract(self._open)
        self._open, self.position = {}, 0

    def _exact_step(self, closure: Callable[[], Any] | None) -> Any:
        turning = {name: layer for name, layer in self._galerkin().items() if layer.method.core_steps}
        if closure is None and turning:
            name, layer = next(iter(turning.items()))
            raise UserError(
                f"{type(layer.method).__name__} (layer {name!r}) evaluates {layer.method.evaluations} times a step: call "
                "step(closure), where closure clears the gradients, runs forward and backward on one batch and returns the loss, "
                'or make the optimizer with schedule="amortised"'
            )
        if not turning:
            loss = self._evaluate(closure)
            self._guided_step()
            return loss
        with _unmoved(self.model):
            loss = self._evaluate(closure)
        self._open = {name: self._expand(name, layer) for name, layer in turning.items() if _turns(layer)}
        bases = self._open_bases()
        _require_grad(bases, False)
        try:
            rounds = max(layer.method.core_steps for layer in turning.values())
            for left in range(rounds, 0, -1):
                with _unmoved(self.model) if left > 1 else nullcontext():
                    self._evaluate(closure)
                self._add_core_penalties()
                if left > 1:
                    self._step_cores([layer for layer in turning.values() if layer.method.core_steps >= left])
                else:
                    self._guided_step(already=self._open)
        except BaseException:
            with suppress(linalg.FactorisationError):
                self._contract(self._open)
            raise
        finally:
            _require_grad(bases, True)
            self._open = {}
        return loss

    def _amortised_step(self, closure: Callable[[], Any] | None) -> Any:
        loss = self._evaluate(closure)
        if self.position == 0:
            self._open = self._guided_expansion()
            _require_grad(self._open_bases(), False)
        else:
            self._add_core_penalties()
        self._inner_step()
        if self.position == self.window:
            self.finish()
        else:
            self.position += 1
        return loss

    def _guided_step(self, already: dict[str, Ranks] | None = None) -> None:
        """Turn the bases that have not turned yet, step, and truncate."""
        opened = {**(already or {}), **self._guided_expansion(already or {})}
        self._inner_step()
        self._contract(opened)

    def _guided_expansion(self, already: Iterable[str] = ()) -> dict[str, Ranks]:
        return {
            name: self._expand(name, layer, guided=True)
            for name, layer in self._galerkin().items()
            if name not in already and _turns(layer)
        }

    def _evaluate(self, closure: Callable[[], Any] | None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for penalty, layers in self.penalties:
            if weight := penalty.weight_at(self.steps):
                for layer in layers:
                    add_penalty(layer, penalty, weight)
        self.allocation.penalise()
        if not any(parameter.grad is not None for group in self.param_groups for parameter in group["params"]):
            raise UserError(
                "no parameter has a gradient: call backward on a loss of this network before the step, or in the closure"
            )
        return loss

    def _require_the_same_network(self) -> None:
        known = {id(parameter) for group in self.param_groups for parameter in group["params"]}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and id(parameter) not in known:
                raise UserError(f"{name} is not among the optimizer's parameters: compress the network before making the optimizer")

    def _add_core_penalties(self) -> None:
        for name in self._open:
            layer = self.layers[name]
            if layer.core.grad is not None and (term := layer.method.core_penalty(layer.core.detach())) is not None:
                layer.core.grad += term

    def _step_cores(self, layers: Sequence[FactoredLayer]) -> None:
        cores = {id(layer.core) for layer in layers}
        for group in self.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in cores:
                    parameter.grad = None
        self.inner.step()

    def _inner_step(self) -> None:
        for layer in self._galerkin().values():
            _clear(layer.bases())  # they turn, or stay
        moving = [name for name, layer in self.layers.items() if isinstance(layer.method, RetractionMethod) and _moves(layer)]
        aimed = {name: self._aim(self.layers[name]) for name in moving}
        self.inner.step()
        self.allocation.after(self.steps)
        for name, old in aimed.items():
            layer = self.layers[name]
            increments = Factors(layer.core.detach() - old.core, tuple(basis.detach().clone() for basis in layer.bases()))
            with _naming(name):
                layer.set_factors(layer.method.retract(old, increments))

    def _aim(self, layer: FactoredLayer) -> Factors:
        """Give the inner optimizer the directions as gradients, and zeros as bases, where it leaves the exact increments."""
        parameters = (layer.core, *layer.bases())
        old = Factors(*_split([parameter.detach().clone() for parameter in parameters]))
        for parameter, direction in zip(parameters, _joined(layer.method.directions(old, _gradients(layer))), strict=True):
            parameter.grad = direction
        for basis in layer.bases():
            basis.data = torch.zeros_like(basis)
        states = [self.state.get(parameter, {}) for parameter in parameters]
        for key in FIRST_MOMENTS:
            if all(isinstance(state.get(key), Tensor) for state in states):
                moments = layer.method.transport(Factors(*_split([state[key] for state in states])), old)
                for state, moment in zip(states, _joined(moments), strict=True):
                    state[key] = moment
        return old

    def _expand(self, name: str, layer: FactoredLayer, *, guided: bool = False) -> Ranks:
        """Turn a layer's bases; `guided` leaves in the core's slot what this evaluation tells of its gradient there."""
        old, gradients = layer.factors(), _gradients(layer)
        with _naming(name):
            new = layer.method.expand(old, gradients, self._lr(layer))
            gradient = layer.method.core_gradient(old, gradients, new.bases) if guided else None
        self._install(layer, old, new)
        layer.core.grad = gradient
        return tuple(basis.shape[1] for basis in old.bases)

    def _contract(self, opened: dict[str, Ranks]) -> None:
        for method in dict.fromkeys(self.layers[name].method for name in opened):
            names = [name for name in opened if self.layers[name].method == method]
            factors = [self.layers[name].factors() for name in names]
            decompositions = []
            for name, old in zip(names, factors, strict=True):
                with _naming(name):
                    decompositions.append(decompose(old))
            spectra = [[decomposition.sigma for decomposition in each] for each in decompositions]
            ranks = method.choose(spectra, [opened[name] for name in names])
            for name, old, each, kept in zip(names, factors, decompositions, ranks, strict=True):
                with _naming(name):
                    self._install(self.layers[name], old, method.admit(cut(old, each, kept)))

    def _install(self, layer: FactoredLayer, old: Factors, new: Factors) -> None:
        """Install factors, and move the core's optimizer state into their bases."""
        layer.core.grad = None
        for basis in layer.bases():
            basis.grad = None
        layer.set_factors(new)
        if self.state.get(layer.core):
            state = self.state[layer.core]
            self.state[layer.core] = (
                transport(state, old.core.shape, turns(old.bases, new.bases)) if self.moments == "transport" else {}
            )

    def _open_bases(self) -> list[nn.Parameter]:
        return [basis for name in self._open for basis in self.layers[name].bases()]

    def _lr(self, layer: FactoredLayer) -> float:
        return next(float(g["lr"]) for g in self.param_groups if any(p is layer.core for p in g["params"]))


def _split(tensors: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    return tensors[0], tuple(tensors[1:])


def _joined(factors: Factors) -> tuple[Tensor, ...]:
    return (factors.core, *factors.bases)


def _gradients(layer: FactoredLayer) -> Factors:
    core, *bases = (_gradient(parameter) for parameter in (layer.core, *layer.bases()))
    return Factors(core, tuple(bases))


def _turns(layer: FactoredLayer) -> bool:
    """Return whether the core and all bases have gradients."""
    return all(parameter.grad is not None for parameter in (layer.core, *layer.bases()))


def _moves(layer: FactoredLayer) -> bool:
    """Return whether the core has a gradient; if not, no basis may move by itself."""
    if layer.core.grad is None:
        _clear(layer.bases())
    return layer.core.grad is not None


def _clear(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _require_grad(parameters: Iterable[nn.Parameter], wanted: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(wanted)


@contextmanager
def _naming(layer: str) -> Iterator[None]:
    try:
        yield
    except linalg.FactorisationError as error:
        raise linalg.FactorisationError(f"layer {layer!r}: {error}") from error


@contextmanager
def _unmoved(model: nn.Module) -> Iterator[None]:
    """Put back the random state and all running statistics after an evaluation that the next one repeats."""
    statistics = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        yield
    for buffer, value in statistics:
        buffer.copy_(value)
