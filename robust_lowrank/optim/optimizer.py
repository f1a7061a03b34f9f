"""One optimizer drives every method around any of torch's."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from robust_lowrank.errors import TrainingError, UserError, renamed, unknown_name
from robust_lowrank.layers import FactoredLayer, trained_layers
from robust_lowrank.layers.compiling import leave_ranks_open
from robust_lowrank.linalg import FactorisationError
from robust_lowrank.methods import GalerkinMethod, RetractionMethod
from robust_lowrank.methods.galerkin import off_diagonal_factor
from robust_lowrank.optim.driver import LayerDriver
from robust_lowrank.optim.free_layers import FreeLayers
from robust_lowrank.optim.groups import parameter_groups, window_of
from robust_lowrank.optim.loads import Loads
from robust_lowrank.optim.loss_terms import add_penalty, penalty_targets
from robust_lowrank.optim.nonfinite import LOOK_EVERY, Sentinel
from robust_lowrank.optim.owners import Owners
from robust_lowrank.optim.rules import make_inner, rule_of
from robust_lowrank.optim.steps import Evaluation, amortised_step, exact_step
from robust_lowrank.penalties import Penalty

Step = Literal["exact", "amortised"]
MomentsName = Literal["tangent", "elementwise"]
REMEDY = "try a smaller learning rate"


class LowRankOptimizer(torch.optim.Optimizer):
    """Train a network's factored layers by their methods and everything else by a torch optimizer.

    Args:
        model: the network, after `compress`, or its `DistributedDataParallel`, which then leaves gradients to the optimizer; a
            dense one is trained as usual.
        optimizer: SGD, Adam, AdamW, NAdam, RMSprop or Muon of `torch.optim`; with `moments="elementwise"`, or for a network without
            orthonormal factors, any class from there that steps without a closure.
        step: `exact` takes the steps of the papers, all evaluations of one on the same batch, and needs a closure for methods
            with more than one. `amortised` evaluates once a step: the bases turn on one batch, the core moves on the next
            `window` ones, then it is truncated; foreign loops and gradient scalers need no closure then.
        window: core steps between two truncations of amortised steps; by default the method's own.
        moments: `tangent` keeps the optimizer's moments of a factored weight as tangent vectors and as covariances of its rows and
            columns, whatever its bases; a learning rate means what it means for a dense weight. `elementwise` keeps those of the
            core's entries and turns them with the bases, as the papers' codes do.
        penalties: terms added to the loss; `step` returns the loss without them.
        groups: parameters with options of their own, as torch's optimizers take them, such as
            `{"params": norms, "weight_decay": 0.0}`; what they leave out goes by `options`. Factors are parameters like others:
            that of its core decides for a layer's weight, those of its bases for the rate at which they turn.
        **options: arguments of the torch optimizer, such as `lr`, `momentum`, `weight_decay`. Weight decay never touches the bases.

    The bases, cores and other parameters are three of the `param_groups`, or three of each of `groups`, which learning-rate
    schedulers see and change. A layer whose bases do not require gradients keeps them, and its rank: only its core moves.

    Where `torch.distributed` runs several processes, each with a copy of the network and batches of its own, the optimizer
    averages gradients, buffers are those of the first process, and each layer's geometry is done by one process for all. Ranks may
    adapt. The network starts as the first process has it; a state loads into any number of processes. All call the same methods.

    Example:
        >>> opt = LowRankOptimizer(nn.Linear(3, 2), torch.optim.SGD, lr=0.1)
        >>> opt.evaluations_per_step
        1

    Raises:
        UserError: the optimizer needs a closure of its own or has no meaning for factored weights, the window is too short for a
            method or given with exact steps, a penalty finds nothing to act on, or the network has no parameters.
    """

    @renamed(schedule="step")
    def __init__(
        self,
        model: nn.Module,
        optimizer: type[torch.optim.Optimizer],
        *,
        step: Step = "exact",
        window: int | None = None,
        moments: MomentsName = "tangent",
        penalties: Sequence[Penalty] = (),
        groups: Sequence[Mapping[str, Any]] = (),
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
        for kind, choice, choices in (("step", step, Step), ("moments", moments, MomentsName)):
            if choice not in get_args(choices):
                raise unknown_name(kind, str(choice), get_args(choices))
        self._wrapper = model if isinstance(model, nn.parallel.DistributedDataParallel) else None
        model = model if self._wrapper is None else self._wrapper.module
        self.model: nn.Module = model
        self.layers: dict[str, FactoredLayer] = {
            name: layer for name, layer in trained_layers(model) if isinstance(layer.method, RetractionMethod | GalerkinMethod)
        }
        self.amortised: bool = step == "amortised"
        self.moments: MomentsName = moments
        self.window: int = window_of(step, window, self.layers.values())
        self.penalties: list[tuple[Penalty, list[Any]]] = [
            (penalty, penalty_targets(model, self.layers.values(), penalty)) for penalty in penalties
        ]
        self._free = FreeLayers(model)
        self._loads = Loads(dict(trained_layers(model)))
        self._sentinel = Sentinel(model)
        self._known: dict[FactoredLayer, int] = {layer: id(layer.all_factors()[0]) for _, layer in trained_layers(model)}
        self.steps: int = 0
        self._ranks: dict[str, tuple[int, ...]] | None = None  # that a state which was loaded belongs to, until the next step
        factored = any(layer.bases() for layer in self.layers.values())
        split = parameter_groups(model, self.layers, groups)
        for key in {key for group in groups for key in group} - {"params", "name"}:
            if key not in inspect.signature(optimizer).parameters:
                raise unknown_name("option of groups", key, tuple(inspect.signature(optimizer).parameters)[1:])
        by_rule = factored and moments == "tangent"
        self.inner: torch.optim.Optimizer = make_inner(optimizer, split, options) if by_rule else optimizer(split, **options)
        super().__init__(self.inner.param_groups, self.inner.defaults)
        self._share()
        outside = off_diagonal_factor(self.window if self.amortised else 0)
        rule = rule_of(optimizer) if by_rule else None
        self._owners = Owners(model, self.layers)
        self._take_over_averaging()
        self._driver = LayerDriver(self.layers, self.inner, rule, self._owners, outside=outside)
        for layer in self.layers.values():
            if getattr(layer.method, "adaptive", False):
                leave_ranks_open(layer.core, layer.bases())

    def _share(self) -> None:
        self.param_groups: list[dict[str, Any]] = self.inner.param_groups
        self.state: defaultdict[Tensor, Any] = self.inner.state

    @property
    def evaluations_per_step(self) -> int:
        """The closure's runs in one step."""
        if self.amortised:
            return 1
        return max((layer.method.evaluations for layer in self.layers.values()), default=1)

    @property
    def position(self) -> int:
        """The place in the window of amortised steps; 0: the next step turns the bases."""
        return self._driver.position

    @property
    def settled(self) -> bool:
        """Whether no window of amortised steps is open, in which layers have more singular values than they will keep."""
        return not self._driver.open

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: torch keeps its own part alone."""
        attributes = {name: value for name, value in vars(self).items() if "hooks" not in name and name != "step"}  # a scheduler's
        return super().__getstate__() | attributes

    def state_dict(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the torch optimizer's state, the place in the window, and what layers keep beside their weights."""
        known = {"optimizer": type(self.inner).__name__, "layers": {name: layer.ranks() for name, layer in self.layers.items()}}
        window = {"moments": self.moments, "steps": self.steps, **known, **self._driver.state_dict()}
        methods = self._free.state_dict()
        return {**self.inner.state_dict(), "window": window} | ({"methods": methods} if methods else {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned, after the network's factors have been loaded.

        Raises:
            UserError: it is the state of another kind of optimizer.
        """
        state = dict(state_dict)
        if "window" not in state:
            raise UserError("this is not the state of a LowRankOptimizer: it has no window")
        window = state.pop("window")
        older = any("mean_squares" in each for each in state["state"].values())  # of rows and columns, as before covariances
        if window.get("moments") != self.moments or older:
            raise UserError(f"this state has moments of another kind or version, and the optimizer {self.moments!r} ones")
        if (theirs := window.get("optimizer", type(self.inner).__name__)) != type(self.inner).__name__:
            raise UserError(f"this state is one of {theirs}, and the optimizer a {type(self.inner).__name__}")
        if (names := window.get("layers", dict.fromkeys(self.layers))).keys() != self.layers.keys():
            odd = sorted(names.keys() ^ self.layers.keys())
            raise UserError(f"this state is one of other layers: {', '.join(odd[:4])}")
        self._ranks = window.get("layers")
        self._free.load_state_dict(state.pop("methods", {}))
        self.inner.load_state_dict(state)
        self._share()
        self.steps = window["steps"]
        self._loads.trust()
        self._driver.load_state_dict(window)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step and return the loss at its start.

        `closure` clears the gradients, evaluates the loss of one batch, calls `backward` and returns the loss. It may run several
        times: dropout then repeats, and the running statistics of BatchNorm move only once. What a first run has shown is not
        asked of a second one, if gradients are left as `backward` makes them. Methods with a single evaluation, and all with
        amortised steps, also take a step without a closure, after a `backward` of the caller's.

        Raises:
            UserError: a method needs more than one evaluation and there is no closure; the network has other parameters than when
                the optimizer was made; or at the first step nothing has a gradient.
            TrainingError: loss, gradients or new factors are not finite, or a decomposition fails (`FactorisationError`), which
                names step, layer and parameter. Factors and their moments are those before the step. Devices other than the
                CPU are not waited for: they take a gradient of zero, and the error comes within 100 steps, or with `truncate`.
        """
        present = trained_layers(self.model)
        if self.steps == 0 or any(self._known.get(layer) != id(layer.all_factors()[0]) for _, layer in present):
            self._require_the_same_network()
        self._require_the_ranks_of_the_state()
        if loaded := self._loads.new():
            for parameter in (factor for layer in loaded.values() for factor in layer.all_factors()):
                self.state.pop(parameter, None)
            self._driver.drop(loaded)
        if closure is None and self.evaluations_per_step > 1:
            raise self._needs_closure()
        self._take_over_averaging()
        before = self._driver.snapshot()
        try:
            evaluation = Evaluation(lambda: _run(closure), self._complete, self._complete_cores)
            if self.amortised:
                loss = amortised_step(self._driver, self.window, evaluation)
            else:
                loss = exact_step(self._driver, self.model, evaluation)
            self._exchange()
        except TrainingError as error:
            self._owners.fail(error)
            self._driver.restore(before)
            if isinstance(error, FactorisationError):
                raise FactorisationError(f"step {self.steps + 1}: {error}; {REMEDY}") from error
            raise TrainingError(f"{error}; {REMEDY}") from error
        finally:
            self._driver.arrive()
        self._owners.share_buffers()
        self._free.after_step(self.steps)
        self.steps += 1
        if self.steps % LOOK_EVERY == 0:
            self._report()
        return loss

    @torch.no_grad()
    def truncate(self) -> None:
        """Truncate now if a window of amortised steps is open: to look at ranks, or to save a network on its way.

        Raises:
            TrainingError: a weight, or a gradient since the last look, is not finite.
        """
        self._require_the_ranks_of_the_state()
        try:
            self._driver.truncate()
            self._exchange()
        except TrainingError as error:
            self._owners.fail(error)
            raise
        self._report()

    @torch.no_grad()
    def finish(self) -> None:
        """Truncate, and drop the directions from which ranks would have grown, which changes no weight: at the end of training.

        Raises:
            TrainingError: as `truncate`.
        """
        self.truncate()
        self._driver.drop_idle()
        self._driver.arrive()

    def _exchange(self) -> None:
        self._driver.arrive()
        self._driver.exchange("moved")

    def _take_over_averaging(self) -> None:
        """Keep DistributedDataParallel, whose buffers have fixed shapes, from averaging: the step does."""
        if self._wrapper is not None:
            self._wrapper.require_backward_grad_sync = False

    def _report(self) -> None:
        try:
            self._sentinel.report(step=self.steps)
        except TrainingError as error:
            raise TrainingError(f"{error}; {REMEDY}") from error

    def _needs_closure(self) -> UserError:
        name, layer = next((name, layer) for name, layer in self.layers.items() if layer.method.evaluations > 1)
        return UserError(
            f"{type(layer.method).__name__} (layer {name!r}) evaluates {layer.method.evaluations} times a step: call "
            "step(closure), where closure clears the gradients, runs forward and backward on one batch and returns the loss, "
            'or make the optimizer with step="amortised"'
        )

    def _complete(self, loss: Any) -> None:
        mean = loss.detach().clone() if self._owners.several and isinstance(loss, Tensor) else loss
        self._owners.average(self.model.parameters(), beside=[mean] if isinstance(mean, Tensor) else [])
        self._add_penalties(lambda target: True)
        self._free.adjust_gradients()
        self._sentinel.look(step=self.steps + 1, loss=mean)
        if self.steps == 0 and not any(parameter.grad is not None for group in self.param_groups for parameter in group["params"]):
            raise UserError(
                "no parameter has a gradient: call backward on a loss of this network before the step, or in the closure"
            )

    def _complete_cores(self, changed: Mapping[str, FactoredLayer]) -> None:
        self._owners.average([factor for layer in changed.values() for factor in (layer.core, *layer.bases())])
        cores = {id(layer) for layer in changed.values()}
        self._add_penalties(lambda target: id(target) in cores)
        self._sentinel.look(step=self.steps + 1)

    def _add_penalties(self, chosen: Callable[[Any], bool]) -> None:
        for penalty, targets in self.penalties:
            if weight := penalty.weight_at(self.steps):
                for target in filter(chosen, targets):
                    add_penalty(target, penalty, weight)

    def _require_the_ranks_of_the_state(self) -> None:
        ranks = self._ranks or {}
        for name, layer in self.layers.items():
            if (due := tuple(ranks.get(name, layer.ranks()))) != layer.ranks():
                raise UserError(
                    f"the optimizer's state is one of ranks {due} of layer {name!r}, which has {layer.ranks()}: load the network's "
                    "state of the same moment too"
                )
        self._ranks = None

    def _require_the_same_network(self) -> None:
        grouped = {id(parameter) for group in self.param_groups for parameter in group["params"]}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and id(parameter) not in grouped:
                raise UserError(
                    f"{name} is not among the optimizer's parameters: compress the network before making the optimizer, and make "
                    "another when layers have been replaced"
                )


def _run(closure: Callable[[], Any] | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
