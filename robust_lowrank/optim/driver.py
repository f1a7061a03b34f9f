"""The driver turns, moves and truncates factored layers as their methods say, around the step of one torch optimizer."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.linalg import Factors, Ranks
from robust_lowrank.methods import GalerkinMethod, RetractionMethod, unformed
from robust_lowrank.methods.galerkin import Kept
from robust_lowrank.methods.unformed import Triangles
from robust_lowrank.optim.elementwise import ElementwiseMoments
from robust_lowrank.optim.factor_grads import can_turn, clear, require_grad
from robust_lowrank.optim.loss_terms import add_gradient
from robust_lowrank.optim.misfits import driving
from robust_lowrank.optim.moments import Moments
from robust_lowrank.optim.naming import naming_layer
from robust_lowrank.optim.nonfinite import AT_ONCE
from robust_lowrank.optim.owners import Owners
from robust_lowrank.optim.rules import Rule
from robust_lowrank.optim.tangential import TangentMoments, moved
from robust_lowrank.optim.together import together
from robust_lowrank.optim.truncation import Truncation, Unformed


class Snapshot(NamedTuple):
    """What a step changes of factored layers; it shares all tensors with them that no step writes into."""

    factors: dict[str, tuple[Factors, tuple[int, ...]]]  # and the idle columns
    states: dict[str, Any]  # the torch optimizer's, of the cores and bases
    window: tuple[int, dict[str, Kept], dict[str, Tensor]]


class LayerDriver:
    """Offers the pieces from which exact and amortised steps are put together.

    Attributes:
        position: steps since the bases of the open window have turned; 0: the next step turns them.

    Args:
        rule: moves factors with tangent moments; `None` leaves them to the torch optimizer.
        owners: of several processes, whose each layer is.
        outside: the factor of the core's blocks into new bases on the batch that turns them (methods (78)).
    """

    def __init__(
        self,
        layers: dict[str, FactoredLayer],
        inner: torch.optim.Optimizer,
        rule: Rule | None,
        owners: Owners,
        *,
        outside: float,
    ) -> None:
        self.position: int = 0
        self._layers, self._inner, self._owners, self._outside = layers, inner, owners, outside
        self._open: dict[str, Kept] = {}  # layers between turning and truncation, with their ranks before
        self._unformed: dict[str, Unformed] = {}  # open ones that still have their old factors
        self._elementwise = ElementwiseMoments(inner)
        self._tangent = None if rule is None else TangentMoments(inner, rule)
        self._truncation = Truncation(self._install)

    @property
    def galerkin(self) -> dict[str, FactoredLayer]:
        """The layers whose bases turn."""
        return {name: layer for name, layer in self._layers.items() if isinstance(layer.method, GalerkinMethod)}

    @property
    def open(self) -> dict[str, FactoredLayer]:
        """The layers between turning and truncation."""
        return {name: self._layers[name] for name in self._open}

    def _mover(self, layer: FactoredLayer) -> Moments:
        """Return the moments that move a layer; a whole weight has no bases, and is the torch optimizer's."""
        elementwise = not layer.bases() or (isinstance(layer.method, RetractionMethod) and layer.method.elementwise)
        return self._elementwise if self._tangent is None or elementwise else self._tangent

    def _movers(self) -> list[Moments]:
        return [self._elementwise] if self._tangent is None else [self._elementwise, self._tangent]

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the window, and what layers keep beside their weights."""
        ranks = {name: tuple(kept) for name, kept in self._open.items()}
        return {"position": self.position, "ranks": ranks, "beside": self._truncation.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.position = state["position"]
        self._open = {name: Kept(*(tuple(ranks) for ranks in kept)) for name, kept in state["ranks"].items()}
        self._truncation.load_state_dict(state["beside"], self._layers)
        if self._tangent is not None:
            self._tangent.forget_journeys()
        self.require_bases_grad(False)

    def snapshot(self) -> Snapshot:
        """Return what `restore` needs, before a step."""
        factors = {}
        for name, layer in self._layers.items():
            core, bases = layer.factors()
            factors[name] = Factors(core if self._mover(layer).whole else core.clone(), bases), layer.idle
        states = {
            name: [dict(self._inner.state.get(parameter, {})) for parameter in (layer.core, *layer.bases())]
            for name, layer in self._layers.items()
        }
        return Snapshot(factors, states, (self.position, dict(self._open), self._truncation.state_dict()))

    def restore(self, before: Snapshot) -> None:
        """Put the layers back to where they were before a step that failed."""
        self.require_bases_grad(True)
        self.position, self._open, beside = before.window
        self._unformed = {}
        self._truncation.load_state_dict(beside, self._layers)
        for name, layer in self._layers.items():
            factors, idle = before.factors[name]
            layer.set_factors(factors, idle=idle)
            self._mover(layer).forget(layer)
            for parameter, state in zip((layer.core, *layer.bases()), before.states[name], strict=True):
                if state:
                    self._inner.state[parameter] = state
                else:
                    self._inner.state.pop(parameter, None)
        self.require_bases_grad(False)

    def drop(self, names: Iterable[str]) -> None:
        """Drop what is kept of layers whose factors are not those of before, and the directions that an open window had added."""
        for name in names:
            if (layer := self._layers.get(name)) is None:
                continue
            self._truncation.drop(name)
            self._mover(layer).forget(layer)
            if (kept := self._open.pop(name, None)) is not None:
                require_grad(layer.bases(), True)
                if any(now > before for now, before in zip(layer.ranks(), kept.ranks, strict=True)):
                    self._truncation.contract(self._layers, {name: kept})
        if not self._open:
            self.position = 0

    def _directions(self, layers: Mapping[str, FactoredLayer], *, keep: bool) -> dict[str, Factors]:
        """Return by what layers turn and move."""
        found: dict[str, Factors] = {}
        for mover in self._movers():
            found |= mover.directions({name: layer for name, layer in layers.items() if self._mover(layer) is mover}, keep=keep)
        return {name: found[name] for name in layers}

    def turn(self, layers: Mapping[str, FactoredLayer]) -> None:
        """Turn the bases of layers that have gradients, whose cores will move by later ones."""
        turning = {name: layer for name, layer in self._owners.mine(layers).items() if can_turn(layer)}
        for name, direction in self._directions(turning, keep=False).items():
            self._turn(name, turning[name], direction)

    def turn_and_move(self, layers: Mapping[str, FactoredLayer], *, truncated_next: bool) -> None:
        """Turn the bases of layers that have gradients, and move cores by what these tell of them between the new ones.

        Args:
            truncated_next: whether no evaluation comes before the truncation, for which bases need not be formed.
        """
        turning = {name: layer for name, layer in self._owners.mine(layers).items() if can_turn(layer)}
        directions = self._directions(turning, keep=True)
        if truncated_next:
            self._turn_unformed(turning, directions)
        for name, layer in turning.items():
            if name not in self._unformed:
                self._turn_and_move(name, layer, directions[name])

    def _turn_unformed(self, layers: Mapping[str, FactoredLayer], directions: Mapping[str, Factors]) -> None:
        """Open the layers whose new bases need not be formed."""
        if (mover := self._tangent) is None:
            return
        calls = {
            name: (factors, directions[name], *mover.rate_and_decay(layer))
            for name, layer in layers.items()
            if self._mover(layer) is mover and layer.method.plain and unformed.extendable(factors := layer.factors())
        }
        for name, found in together(_extended, calls).items():
            if found is not None:
                layer = layers[name]
                self._open[name] = Kept(layer.ranks(), self._used(layer))
                self._unformed[name] = Unformed(directions[name], *found)
                clear((layer.core, *layer.bases()))

    def _turn_and_move(self, name: str, layer: FactoredLayer, direction: Factors) -> None:
        old = self._turn(name, layer, direction)
        core = layer.method.core_direction(old, direction, layer.factors().bases, outside=self._outside)
        if core is not None:
            self._mover(layer).move_core(layer, core)

    def _turn(self, name: str, layer: FactoredLayer, direction: Factors) -> Factors:
        """Turn a layer's bases by a direction, open it for truncation, and return its factors before."""
        old = layer.factors()
        with naming_layer(name):
            new = layer.method.expand(old, direction, self._mover(layer).group(layer)["lr"])
        self._open[name] = Kept(layer.ranks(), self._used(layer))
        self._install(layer, new)
        self._truncation.follow(name, old, new)
        return old

    def _used(self, layer: FactoredLayer) -> Ranks:
        return tuple(basis.shape[1] for basis in layer.used_factors().bases)

    def _move_cores(self, layers: Mapping[str, FactoredLayer]) -> None:
        """Move cores between bases that rest."""
        moving = {name: layer for name, layer in self._owners.mine(layers).items() if layer.core.grad is not None}
        for name, layer in moving.items():
            if name in self._open and (term := layer.method.core_penalty(layer.core.detach(), self._open[name].used)) is not None:
                add_gradient(layer, term)
        for mover in self._movers():
            members = {name: layer for name, layer in moving.items() if self._mover(layer) is mover}
            for name, direction in mover.core_directions(members).items():
                clear((members[name].core, *members[name].bases()))
                mover.move_core(members[name], direction)

    def step_cores(self, layers: Mapping[str, FactoredLayer]) -> None:
        """Move the cores of some layers, and nothing else."""
        self._move_cores(layers)
        cores = {id(layer.core) for layer in self._owners.mine(layers).values()}
        clear(parameter for group in self._inner.param_groups for parameter in group["params"] if id(parameter) not in cores)
        with driving():
            self._inner.step()

    def step_all(self, moving: Mapping[str, FactoredLayer]) -> None:
        """Move the cores of layers whose bases rest, those of retraction methods, and by the torch optimizer all else."""
        mine = self._owners.mine(self._layers)
        for name, layer in self._layers.items():
            if name not in mine:
                clear((layer.core, *layer.bases()))  # they move elsewhere
        resting = [layer for name, layer in self.galerkin.items() if name not in self._open and layer.core.grad is not None]
        self._move_cores({name: layer for name, layer in self.galerkin.items() if name in moving or name not in self._open})
        for layer in self.galerkin.values():
            clear(layer.bases())
        retracting = {name: layer for name, layer in mine.items() if isinstance(layer.method, RetractionMethod)}
        aimed = {name: layer for name, layer in retracting.items() if layer.core.grad is not None}
        for name, layer in retracting.items():
            if name not in aimed:
                clear(layer.bases())  # they do not move alone
        for mover in self._movers():
            mover.aim({name: layer for name, layer in aimed.items() if self._mover(layer) is mover})
        with driving():
            self._inner.step()
        for layer in resting:
            self._hold(layer)
        for name, layer in aimed.items():
            with naming_layer(name):
                self._mover(layer).land(layer)
        for name, layer in self._layers.items():
            if layer.core.device.type in AT_ONCE and (layer in resting or name in aimed):  # nothing decomposes their cores
                with naming_layer(name):
                    linalg.require_finite(layer.core.detach())

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

    def truncate(self) -> None:
        """Truncate the layers that are open."""
        self.require_bases_grad(True)
        waiting, self._unformed = self._unformed, {}
        if waiting and not self._truncation.contract_unformed(self._layers, self._open, waiting):
            for name, (direction, _, _) in waiting.items():
                self._turn_and_move(name, self._layers[name], direction)
            waiting = {}
        mine = self._owners.mine(self.open)
        self._truncation.contract(self._layers, {name: self._open[name] for name in mine if name not in waiting})
        self._open = {}
        self.position = 0

    def drop_idle(self) -> None:
        """Drop the directions from which ranks would have grown, which changes no weight."""
        self._truncation.forget(self._layers)

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Leave no layer between turning and truncation, whatever happens."""
        try:
            yield
        except BaseException:
            self.require_bases_grad(True)
            for name in self._owners.mine(self.open):
                with suppress(linalg.FactorisationError):
                    self._truncation.contract(self._layers, {name: self._open[name]})
            self._open = {}
            raise

    def exchange(self, place: str) -> None:
        """Give the other processes what this one has made of its layers, and take what they have made of theirs.

        Args:
            place: `turned`, for what the next evaluation is to see, or `moved`: moments too, and all that is kept beside them.

        Raises:
            StoppedElsewhereError: the step has failed on another process.
        """
        if not self._owners.several:
            return
        whole = place == "moved"
        beside = self._truncation.state_dict() if whole else {}
        mine = {name: self._record(name, layer, beside, whole=whole) for name, layer in self._owners.mine(self._layers).items()}
        for name, (factors, idle, kept, memory, states) in self._owners.exchange(place, mine).items():
            layer = self._layers[name]
            clear((layer.core, *layer.bases()))
            layer.set_factors(factors, idle=idle)
            if kept is None:
                self._open.pop(name, None)
            else:
                self._open[name] = kept
            if states:
                self._truncation.take(name, memory)
                for parameter, state in zip((layer.core, *layer.bases()), states, strict=True):
                    if state:
                        self._inner.state[parameter] = state
                    else:
                        self._inner.state.pop(parameter, None)
        self._open = {name: self._open[name] for name in self._layers if name in self._open}
        self.require_bases_grad(False, clipped=whole)

    def _record(self, name: str, layer: FactoredLayer, beside: Mapping[str, Tensor], *, whole: bool) -> tuple[Any, ...]:
        states: list[Any] = []
        if whole:
            states = [dict(self._inner.state.get(parameter, {})) for parameter in (layer.core, *layer.bases())]
        return layer.factors(), layer.idle, self._open.get(name), beside.get(name), states

    def arrive(self) -> None:
        """Project the moments of all layers on their present tangent spaces."""
        if self._tangent is not None:
            self._tangent.arrive(self._layers)

    def require_bases_grad(self, wanted: bool, *, clipped: bool = True) -> None:
        """Have the bases of open layers take part in the backward pass, or not where their movers do not look at them.

        Args:
            clipped: whether the norm of the gradient on the tangent space may be asked for, to which they belong.
        """
        for layer in self.open.values():
            mover = self._mover(layer)
            if wanted or not (mover.whole if clipped else mover.needs_bases(layer)):
                require_grad(layer.bases(), wanted)


def _extended(factors: Factors, direction: Factors, rate: float, decay: float) -> tuple[Tensor, Triangles] | None:
    """Return a core moved between bases turned by a direction, and what stands for these; None where they have to be formed."""
    extended = unformed.triangles(direction)
    if extended is None:
        return None
    core, between = unformed.core_between(factors, direction, extended)
    return moved(core, between, rate, decay), extended
