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
from robust_lowrank.optim.repeated import unmoved
from robust_lowrank.optim.slots import can_turn, clear, gradients, joined, require_grad, split
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
        require_grad(self._open_bases(), False)

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
        require_grad(self._open_bases(), True)
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
        with unmoved(self.model):
            loss = self._evaluate(closure)
        self._open = {name: self._expand(name, layer) for name, layer in turning.items() if can_turn(layer)}
        bases = self._open_bases()
        require_grad(bases, False)
        try:
            rounds = max(layer.method.core_steps for layer in turning.values())
            for left in range(rounds, 0, -1):
                with unmoved(self.model) if left > 1 else nullcontext():
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
            require_grad(bases, True)
            self._open = {}
        return loss

    def _amortised_step(self, closure: Callable[[], Any] | None) -> Any:
        loss = self._evaluate(closure)
        if self.position == 0:
            self._open = self._guided_expansion()
            require_grad(self._open_bases(), False)
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
            if name not in already and can_turn(layer)
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
            clear(layer.bases())  # they turn, or stay
        aimed = {}
        for name, layer in self.layers.items():
            if layer.core.grad is None:
                clear(layer.bases())  # nor do they move alone
            elif isinstance(layer.method, RetractionMethod):
                aimed[name] = self._aim(layer)
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
        old = Factors(*split([parameter.detach().clone() for parameter in parameters]))
        for parameter, direction in zip(parameters, joined(layer.method.directions(old, gradients(layer))), strict=True):
            parameter.grad = direction
        for basis in layer.bases():
            basis.data = torch.zeros_like(basis)
        states = [self.state.get(parameter, {}) for parameter in parameters]
        for key in FIRST_MOMENTS:
            if all(isinstance(state.get(key), Tensor) for state in states):
                moments = layer.method.transport(Factors(*split([state[key] for state in states])), old)
                for state, moment in zip(states, joined(moments), strict=True):
                    state[key] = moment
        return old

    def _expand(self, name: str, layer: FactoredLayer, *, guided: bool = False) -> Ranks:
        """Turn a layer's bases; `guided` leaves in the core's slot what this evaluation tells of its gradient there."""
        old, found = layer.factors(), gradients(layer)
        with _naming(name):
            new = layer.method.expand(old, found, self._lr(layer))
            gradient = layer.method.core_gradient(old, found, new.bases) if guided else None
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


@contextmanager
def _naming(layer: str) -> Iterator[None]:
    try:
        yield
    except linalg.FactorisationError as error:
        raise linalg.FactorisationError(f"layer {layer!r}: {error}") from error
