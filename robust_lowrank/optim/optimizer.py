"""One optimizer that drives every method around any torch optimizer."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Literal, get_args

import torch
from torch import nn

from robust_lowrank import linalg
from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import GalerkinMethod, RetractionMethod
from robust_lowrank.methods.galerkin import Kept, off_diagonal_factor
from robust_lowrank.optim.allocation import Allocation
from robust_lowrank.optim.elementwise import ElementwiseMoments
from robust_lowrank.optim.groups import parameter_groups, window_of
from robust_lowrank.optim.moments import Moments
from robust_lowrank.optim.preconditioning import precondition, preconditioned
from robust_lowrank.optim.repeated import unmoved
from robust_lowrank.optim.rules import make_inner, rule_of
from robust_lowrank.optim.slots import can_turn, clear, require_grad
from robust_lowrank.optim.tangential import TangentMoments
from robust_lowrank.optim.terms import add_gradient, add_penalty, penalised
from robust_lowrank.optim.truncation import Truncation, naming
from robust_lowrank.penalties import Penalty

Schedule = Literal["exact", "amortised"]
MomentsName = Literal["tangent", "elementwise"]


class LowRankOptimizer(torch.optim.Optimizer):
    """Train a network's factored layers by their methods and everything else by a torch optimizer.

    Args:
        model: the network, after `compress`; a dense one is trained as usual.
        optimizer: SGD, Adam, AdamW, NAdam, RMSprop or Muon of `torch.optim`; with `moments="elementwise"`, or for a network without
            orthonormal factors, any class from there that steps without a closure.
        schedule: `exact` takes the steps of the papers, all evaluations of one on the same batch, and needs a closure for methods
            with more than one. `amortised` evaluates once a step: the bases turn on one batch, the core moves on the next
            `window` ones, then it is truncated; foreign loops and gradient scalers need no closure then.
        window: core steps between two truncations of the amortised schedule; by default the method's own.
        moments: `tangent` keeps the optimizer's moments of a factored weight as tangent vectors and as mean squares of its rows and
            columns, whatever its bases; a learning rate means what it means for a dense weight. `elementwise` keeps those of the
            core's entries and turns them with the bases, as the papers' codes do.
        penalties: terms added to the loss; `step` returns the loss without them.
        **options: arguments of the torch optimizer, such as `lr`, `momentum`, `weight_decay`. Weight decay never touches the bases.

    The bases, cores and other parameters are three of the `param_groups`, which learning-rate schedulers see and change. A layer
    whose bases do not require gradients keeps them, and its rank: only its core moves.

    Example:
        >>> opt = LowRankOptimizer(nn.Linear(3, 2), torch.optim.SGD, lr=0.1)
        >>> opt.evaluations_per_step
        1

    Raises:
        UserError: the optimizer needs a closure of its own or has no meaning for factored weights, the window is too short for a
            method or given with the exact schedule, a penalty finds nothing to act on, or the network has no parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: type[torch.optim.Optimizer],
        *,
        schedule: Schedule = "exact",
        window: int | None = None,
        moments: MomentsName = "tangent",
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
        for kind, choice, choices in (("schedule", schedule, Schedule), ("moments", moments, MomentsName)):
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
        self._preconditioned = preconditioned(model)
        self.steps = 0
        self.position = 0  # in the window; 0: the next step turns the bases
        self._open: dict[str, Kept] = {}  # layers between turning and truncation, with their ranks before
        factored = any(layer.bases() for layer in self.layers.values())
        groups = parameter_groups(model, self.layers)
        self.inner = make_inner(optimizer, groups, options) if factored and moments == "tangent" else optimizer(groups, **options)
        super().__init__(self.inner.param_groups, self.inner.defaults)
        self._share()
        self._elementwise = ElementwiseMoments(self.inner)
        self._tangent = TangentMoments(self.inner, rule_of(optimizer)) if moments == "tangent" and factored else None
        self._truncation = Truncation(self._install)

    def _share(self) -> None:
        self.param_groups, self.state = self.inner.param_groups, self.inner.state

    def _galerkin(self) -> dict[str, FactoredLayer]:
        return {name: layer for name, layer in self.layers.items() if isinstance(layer.method, GalerkinMethod)}

    def _mover(self, layer: FactoredLayer) -> Moments:
        """Return who moves a layer: a weight that is whole has no bases, and is the torch optimizer's as it is."""
        own = not layer.bases() or (isinstance(layer.method, RetractionMethod) and layer.method.elementwise)
        return self._elementwise if self._tangent is None or own else self._tangent

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
        own = {name: value for name, value in vars(self).items() if "hooks" not in name and name != "step"}  # a scheduler's
        return super().__getstate__() | own

    def state_dict(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the torch optimizer's state, the place in the window, and what layers keep beside their weights."""
        window = {
            "moments": self.moments,
            "steps": self.steps,
            "position": self.position,
            "ranks": {name: tuple(kept) for name, kept in self._open.items()},
            "beside": self._truncation.state_dict(),
        }
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
        if window.get("moments") != self.moments:
            raise UserError(f"this state has moments of another kind or version, and the optimizer {self.moments!r} ones")
        self.allocation.load_state_dict(own.pop("allocation"))
        self.inner.load_state_dict(own)
        self._share()
        self.steps, self.position = window["steps"], window["position"]
        self._open = {name: Kept(*(tuple(ranks) for ranks in kept)) for name, kept in window["ranks"].items()}
        self._truncation.load_state_dict(window["beside"], self.layers)
        if self._tangent is not None:
            self._tangent.forget_journeys()
        self._require_bases_grad(False)

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
        try:
            loss = self._exact_step(closure) if self.schedule == "exact" else self._amortised_step(closure)
        finally:
            self._arrive()
        self.steps += 1
        return loss

    @torch.no_grad()
    def truncate(self) -> None:
        """Truncate now if a window of the amortised schedule is open: to look at ranks, or to save a network on its way."""
        self._require_bases_grad(True)
        self._truncation.contract(self.layers, self._open)
        self._open, self.position = {}, 0
        self._arrive()

    @torch.no_grad()
    def finish(self) -> None:
        """Truncate, and drop the directions from which ranks would have grown, which changes no weight: at the end of training."""
        self.truncate()
        self._truncation.forget(self.layers)
        self._arrive()

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
            with self._closing():
                self._guided_step({})
            return loss
        with unmoved(self.model):
            loss = self._evaluate(closure)
        with self._closing():
            for name, layer in turning.items():
                if can_turn(layer):
                    with naming(name):
                        direction = self._mover(layer).direction(layer, keep=False)
                    self._turn(name, layer, direction)
            self._require_bases_grad(False)
            rounds = max(layer.method.core_steps for layer in turning.values())
            for left in range(rounds, 0, -1):
                with unmoved(self.model) if left > 1 else nullcontext():
                    self._evaluate(closure)
                moving = {name: layer for name, layer in turning.items() if layer.method.core_steps >= left}
                if left > 1:
                    self._step_cores(moving)
                else:
                    self._guided_step(moving)
        return loss

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """Leave no layer between turning and truncation, whatever happens."""
        try:
            yield
        except BaseException:
            self._require_bases_grad(True)
            for name, kept in self._open.items():
                with suppress(linalg.FactorisationError):
                    self._truncation.contract(self.layers, {name: kept})
            self._open = {}
            raise

    def _amortised_step(self, closure: Callable[[], Any] | None) -> Any:
        loss = self._evaluate(closure)
        if self.position == 0:
            for name, layer in self._galerkin().items():
                if can_turn(layer):
                    self._turn_and_move(name, layer)
            self._require_bases_grad(False)
        self._inner_step({name: self.layers[name] for name in self._open} if self.position else {})
        if self.position == self.window:
            self.truncate()
        else:
            self.position += 1
        return loss

    def _guided_step(self, moving: Mapping[str, FactoredLayer]) -> None:
        """Move the cores whose bases have turned; turn those that have not, and move these too; step all else, and truncate."""
        for name, layer in self._galerkin().items():
            if name not in moving and can_turn(layer):
                self._turn_and_move(name, layer)
        self._inner_step(moving)
        self.truncate()

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

    def _turn(self, name: str, layer: FactoredLayer, direction: Factors) -> Factors:
        """Turn a layer's bases by a direction, open it for truncation, and return its factors before."""
        old = layer.factors()
        ranks = tuple(basis.shape[1] for basis in old.bases)
        used = tuple(basis.shape[1] for basis in layer.used_factors().bases)
        with naming(name):
            new = layer.method.expand(old, direction, self._mover(layer).group(layer)["lr"])
        self._install(layer, new)
        self._truncation.follow(name, old, new)
        self._open[name] = Kept(ranks, used)
        return old

    def _turn_and_move(self, name: str, layer: FactoredLayer) -> None:
        """Turn a layer's bases, and move its core by what the same evaluation tells of it between the new ones."""
        mover = self._mover(layer)
        with naming(name):
            direction = mover.direction(layer, keep=True)
        old = self._turn(name, layer, direction)
        outside = off_diagonal_factor(self.window if self.schedule == "amortised" else 0)
        core = layer.method.core_direction(old, direction, layer.factors().bases, outside=outside)
        if core is not None:
            mover.move_core(layer, core)

    def _move_core(self, name: str, layer: FactoredLayer) -> None:
        """Move a core between bases that rest."""
        if layer.core.grad is None:
            return
        if name in self._open and (term := layer.method.core_penalty(layer.core.detach(), self._open[name].used)) is not None:
            add_gradient(layer, term)
        mover = self._mover(layer)
        with naming(name):
            direction = mover.direction(layer, keep=True).core
        clear((layer.core, *layer.bases()))
        mover.move_core(layer, direction)

    def _step_cores(self, layers: Mapping[str, FactoredLayer]) -> None:
        """Move the cores of some layers, and nothing else."""
        for name, layer in layers.items():
            self._move_core(name, layer)
        cores = {id(layer.core) for layer in layers.values()}
        clear(parameter for group in self.param_groups for parameter in group["params"] if id(parameter) not in cores)
        self.inner.step()

    def _inner_step(self, moving: Mapping[str, FactoredLayer]) -> None:
        """Move the cores of layers whose bases rest, those of retraction methods, and by the torch optimizer all else."""
        resting = [layer for name, layer in self._galerkin().items() if name not in self._open and layer.core.grad is not None]
        for name, layer in self._galerkin().items():
            if name in moving or name not in self._open:
                self._move_core(name, layer)
            clear(layer.bases())
        retracting = {name: layer for name, layer in self.layers.items() if isinstance(layer.method, RetractionMethod)}
        aimed = {name: layer for name, layer in retracting.items() if layer.core.grad is not None}
        for name, layer in retracting.items():
            if name not in aimed:
                clear(layer.bases())  # they do not move alone
                continue
            with naming(name):
                self._mover(layer).aim(layer)
        precondition(self._preconditioned)
        self.inner.step()
        for layer in resting:
            self._hold(layer)
        self.allocation.after(self.steps)
        for name, layer in aimed.items():
            with naming(name):
                self._mover(layer).land(layer)

    def _hold(self, layer: FactoredLayer) -> None:
        """Keep what is idle in a layer whose core has moved in resting bases, and its condition number."""
        if not layer.bases() or (not layer.idle and math.isinf(layer.method.cond_bound)):
            return
        within = layer.method.project(layer.used_factors()).core
        core = torch.zeros_like(layer.core)
        core[tuple(map(slice, within.shape))] = within
        self._install(layer, layer.factors()._replace(core=core), layer.idle)

    def _install(self, layer: FactoredLayer, new: Factors, idle: tuple[int, ...] = ()) -> None:
        """Install factors, and take the optimizer's state of the layer along."""
        clear((layer.core, *layer.bases()))
        old = layer.factors()
        layer.set_factors(new, idle=idle)
        self._mover(layer).carry(layer, old, new)

    def _arrive(self) -> None:
        if self._tangent is not None:
            self._tangent.arrive()

    def _require_bases_grad(self, wanted: bool) -> None:
        """Have the bases of open layers take part in the backward pass, or not where their movers do not look at them."""
        for name in self._open:
            layer = self.layers[name]
            if wanted or not self._mover(layer).whole:
                require_grad(layer.bases(), wanted)
