"""Averages of networks with factored layers are averages of their weights, brought back to low rank."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import swa_utils

from robust_lowrank import linalg
from robust_lowrank.errors import UserError
from robust_lowrank.layers import FactoredLayer, FreeLayer, named_factored_layers
from robust_lowrank.linalg import Factors
from robust_lowrank.methods.bases import decompose, truncate
from robust_lowrank.optim.naming import naming_layer

WIDTH = 2  # times a weight's rank: what is kept of its average; a step along the manifold has no higher rank

Pair = tuple[Tensor, Tensor]  # of the average and of the network
Layers = tuple[str, FactoredLayer, FactoredLayer]  # the same, with their name


class AveragedModel(swa_utils.AveragedModel):
    """Average a network over its training as torch's class of this name does, its factored layers by their weights.

    The factors of a weight are not unique: their averages mean nothing, and with ranks that change there are none. The average of a
    factored weight is kept at twice the network's rank, and `module` shows its leading part: at the network's rank, in factors of
    the same form, within the bound that the method sets to condition numbers. All other parameters and the buffers are torch's.

    Args:
        model: the network, after `compress` or `adapt`; it is copied.
        device: where the copy lives; by default with the network.
        avg_fn, multi_avg_fn: as torch's, elementwise and linear; without one it is the mean of all updates.
        use_buffers: whether buffers are averaged too; otherwise they are copied.
        every: how many calls of `update_parameters` make one update, the first call the first; a decay is one per update.

    An update costs a QR of each basis and an SVD of each core. In an open window of amortised steps a network has more directions
    than it will keep, and the average then has as many.

    Example:
        >>> average = AveragedModel(nn.Linear(3, 2), multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.99))
        >>> average.update_parameters(nn.Linear(3, 2))
        >>> average(torch.ones(5, 3)).shape
        torch.Size([5, 2])

    Raises:
        UserError: `every` is no integer from 1.
    """

    def __init__(
        self,
        model: nn.Module,
        device: int | torch.device | None = None,
        avg_fn: Callable[[Tensor, Tensor, Tensor | int], Tensor] | None = None,
        multi_avg_fn: Callable[..., None] | None = None,
        use_buffers: bool = False,
        *,
        every: int = 1,
    ) -> None:
        if not isinstance(every, int) or every < 1:
            raise UserError(f"every = {every} is no integer from 1: it is the number of calls that make one update")
        super().__init__(model, device, avg_fn, multi_avg_fn, use_buffers)
        self.every: int = every
        self.calls: int = 0
        self.kept: Any = nn.ModuleList(_Kept(len(_weight(layer).bases)) for _, layer in named_factored_layers(self.module))

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the network's present weights into the average; the first time, copy them.

        Raises:
            UserError: the networks differ in their layers.
            FactorisationError: a weight is not finite, which names the layer; the average is then as it was.
        """
        if self.calls % self.every == 0:
            layers, parameters, buffers = _side_by_side(self.module, model)
            if bool(self.n_averaged == 0):
                new = [(None, _stored(current)) for _, _, current in layers]
                averaged, copied = [], parameters + buffers
            else:
                new = [self._average(*layer, kept) for layer, kept in zip(layers, self.kept, strict=True)]
                averaged, copied = (parameters + buffers, []) if self.use_buffers else (parameters, buffers)
            for (_, own, _), kept, (average, shown) in zip(layers, self.kept, new, strict=True):
                kept.keep(average)
                _install(own, shown)
            self._mix(averaged)
            for own, current in copied:
                own.copy_(current)
            self.n_averaged.add_(1)
        self.calls += 1

    def _average(self, name: str, own: FactoredLayer, current: FactoredLayer, kept: "_Kept") -> tuple[Factors, list[Tensor]]:
        """Return the next average of a layer's weight, and what the layer stores to show it.

        It is computed in float64: what rounding adds to each of the thousands of updates of a long average would add up.
        """
        before, now = (_in_float64(each, own.core.device) for each in (kept.factors() or _weight(own), _weight(current)))
        weights, other = torch.eye(2, dtype=now.core.dtype, device=now.core.device)
        self._mix([(weights, other)])  # a linear average makes its two weights of (1, 0) and (0, 1)
        total = weighted_sum(weights[0], before, weights[1], now)
        ranks = [basis.shape[1] for basis in now.bases]
        if ranks and now.core.ndim == 2:
            ranks = [min(ranks)] * 2
        with naming_layer(name):
            if ranks:
                total = truncate(total, decompose(total), tuple(WIDTH * rank for rank in ranks))
            shown = Factors(total.core[tuple(map(slice, ranks))], tuple(b[:, :r] for b, r in zip(total.bases, ranks, strict=True)))
            if current.method is not None and math.isfinite(current.method.cond_bound):
                shown = current.method.project(shown)
        like = linalg.at_least_float32(own.core)
        return Factors(total.core.to(like), tuple(basis.to(like) for basis in total.bases)), _as_stored(shown, own)

    def _mix(self, pairs: Sequence[Pair]) -> None:
        """Average tensors in place, as torch does."""
        groups: defaultdict[tuple[torch.device, torch.dtype], list[Pair]] = defaultdict(list)
        for pair in pairs:
            groups[pair[0].device, pair[0].dtype].append(pair)
        for (device, _), group in groups.items():
            n = self.n_averaged.to(device)
            together = (
                None if self.avg_fn else self.multi_avg_fn or (swa_utils.get_swa_multi_avg_fn() if device.type == "cuda" else None)
            )
            if together is not None:
                own, current = map(list, zip(*group, strict=True))
                together(own, current, n)
                continue
            for own, current in group:
                own.copy_((self.avg_fn or swa_utils.get_swa_avg_fn())(own, current, n))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.every > 1:
            destination[f"{prefix}calls"] = torch.tensor(self.calls)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any) -> None:
        self.calls = int(state_dict.pop(f"{prefix}calls", 0))
        super()._load_from_state_dict(state_dict, prefix, *args, **options)


class _Kept(nn.Module):
    """The average of one weight; nothing while its layer shows all of it."""

    def __init__(self, modes: int) -> None:
        super().__init__()
        self.names: list[str] = ["core", *(f"basis{mode}" for mode in range(modes))]
        self.keep(None)

    def keep(self, factors: Factors | None) -> None:
        for name, value in zip_longest(self.names, () if factors is None else (factors.core, *factors.bases)):
            self.register_buffer(name, None if value is None else value.contiguous())

    def factors(self) -> Factors | None:
        core, *bases = (getattr(self, name) for name in self.names)
        return None if core is None else Factors(core, tuple(bases))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **options: Any) -> None:
        for name in self.names:  # make room for any ranks
            found = state_dict.get(prefix + name)
            self.register_buffer(name, None if found is None else torch.empty_like(found))
        super()._load_from_state_dict(state_dict, prefix, *args, **options)


def weighted_sum(a: Tensor | float, first: Factors, b: Tensor | float, second: Factors) -> Factors:
    """Return a X + b Y, as (a + b) X + b (Y - X), in orthonormal bases; those of X and Y need not be orthonormal."""
    bases, cores = [], [first.core, second.core]
    for mode, pair in enumerate(zip(first.bases, second.bases, strict=True)):
        q, triangle = linalg.qr(torch.cat(pair, 1))
        bases.append(q)
        blocks = triangle.split([basis.shape[1] for basis in pair], 1)
        cores = [linalg.mode_product(core, block, mode) for core, block in zip(cores, blocks, strict=True)]
    x, y = cores
    return Factors((a + b) * x + b * (y - x), tuple(bases))


def _stored(layer: FactoredLayer) -> list[Tensor]:
    """Return what a layer stores of its weight, without idle columns."""
    core, bases = layer.used_factors()
    return [factor.detach() for factor in layer.all_factors()] if isinstance(layer, FreeLayer) else [core, *bases]


def _weight(layer: FactoredLayer) -> Factors:
    """Return the factors of a weight without idle columns; of free ones the outer two are the bases."""
    core, *bases = _stored(layer)
    if isinstance(layer, FreeLayer):
        left, *middle, right = core, *bases
        core, bases = middle[0] if middle else torch.ones_like(left[0]), [left, right]
    return Factors(core.diag() if core.ndim == 1 else core, tuple(bases))


def _as_stored(factors: Factors, layer: FactoredLayer) -> list[Tensor]:
    """Return what a layer stores of a weight, in the order of its factors."""
    if isinstance(layer, FreeLayer):
        stored = layer.stored(factors)
        return [stored[name] for name in layer.names()]
    return [factors.core, *factors.bases]


def _install(layer: FactoredLayer, stored: Sequence[Tensor]) -> None:
    """Have a layer store other values, of any ranks."""
    core, *bases = (value.to(layer.core, copy=True) for value in stored)
    if not isinstance(layer, FreeLayer):
        layer.set_factors(Factors(core, tuple(bases)))
        return
    for factor, value in zip(layer.all_factors(), (core, *bases), strict=True):
        layer.take_value(factor, value)


def _in_float64(factors: Factors, device: torch.device) -> Factors:
    core, *bases = (linalg.in_float64(each.to(device)) for each in (factors.core, *factors.bases))
    return Factors(core, tuple(bases))


def _side_by_side(average: nn.Module, model: nn.Module) -> tuple[list[Layers], list[Pair], list[Pair]]:
    """Return two networks' factored layers with their names, their other parameters, and their buffers.

    Raises:
        UserError: they differ in these; their names may, for wrappers add to them.
    """
    layers: list[Layers] = []
    tensors: tuple[list[Pair], list[Pair]] = ([], [])
    for (name, own), (other, current) in zip_longest(_parts(average), _parts(model), fillvalue=("more", None)):
        if (has := _described(current)) != (wanted := _described(own)):
            raise UserError(
                f"the network has {has} {other} where the average has {wanted} {name}: average the network that the "
                "AveragedModel was made of, and make it after compress or adapt"
            )
        if isinstance(own, FactoredLayer) and isinstance(current, FactoredLayer):
            layers.append((name, own, current))
        elif isinstance(own, Tensor) and isinstance(current, Tensor):
            tensors[not isinstance(own, nn.Parameter)].append((own.detach(), current.detach().to(own)))
    return layers, *tensors


def _parts(model: nn.Module) -> list[tuple[str, Any]]:
    layers = list(named_factored_layers(model))
    factors = {id(factor) for _, layer in layers for factor in layer.all_factors()}
    tensors = (*model.named_parameters(), *model.named_buffers())
    return [*layers, *((name, each) for name, each in tensors if id(each) not in factors)]


def _described(part: FactoredLayer | Tensor | None) -> str:
    """Return what must be the same of two parts."""
    if isinstance(part, FactoredLayer):
        return f"a {type(part).__name__} of {part.weight_shape} in {len(part.all_factors())} factors"
    return "nothing" if part is None else f"a {'parameter' if isinstance(part, nn.Parameter) else 'buffer'} of {tuple(part.shape)}"
