"""Layers are cut at the ranks that their methods choose, and keep the rest beside their weights until the next time."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.linalg import Factors, Ranks
from robust_lowrank.methods import GalerkinMethod, unformed
from robust_lowrank.methods.bases import basis_overlaps, change_bases, decompose, pad_core, truncate
from robust_lowrank.methods.galerkin import Kept
from robust_lowrank.methods.unformed import Triangles
from robust_lowrank.optim.naming import naming_layer
from robust_lowrank.optim.together import together

Install = Callable[[FactoredLayer, Factors, tuple[int, ...]], None]


class Unformed(NamedTuple):
    """A direction by which a layer's bases turn, its core between the turned ones, and what stands for these, not formed."""

    direction: Factors
    core: Tensor
    extended: Triangles


class Truncation:
    """Cuts the cores of layers, and keeps the difference between the visible weight and the optimizer's.

    The difference is that of idle directions, which the weight lacks, and with `cond` that of the clamp: an error feedback.
    """

    def __init__(self, install: Install) -> None:
        self._install = install
        self._beside: dict[str, Tensor] = {}

    def follow(self, name: str, old: Factors, new: Factors) -> None:
        """Take along what a layer keeps beside its weight when its bases turn."""
        if name in self._beside:
            self._beside[name] = change_bases(old._replace(core=self._beside[name]), new.bases)

    def contract(self, layers: Mapping[str, FactoredLayer], opened: Mapping[str, Kept]) -> None:
        """Truncate the layers that are open.

        Raises:
            FactorisationError: a core is not finite, which names the layer.
        """
        for method in dict.fromkeys(layers[name].method for name in opened):
            assert isinstance(method, GalerkinMethod)
            self._contract({name: layers[name] for name in opened if layers[name].method == method}, opened, method)

    def contract_unformed(
        self, layers: Mapping[str, FactoredLayer], opened: Mapping[str, Kept], waiting: Mapping[str, Unformed]
    ) -> bool:
        """Truncate layers whose turned bases are not formed, and return True; or do nothing, if one of them has to be formed."""
        install = []
        for method in dict.fromkeys(layers[name].method for name in waiting):
            assert isinstance(method, GalerkinMethod)
            names = [name for name in waiting if layers[name].method == method]
            cores = {}
            for name in names:
                _, core, extended = waiting[name]
                if name in self._beside:
                    core = core + pad_core(self._beside[name], [len(each) for each in extended])
                cores[name] = (core,)
            decompositions = together(linalg.svd, cores)
            spectra = _on_cpu({name: [each.sigma] for name, each in decompositions.items()})
            chosen = method.choose_ranks(list(spectra.values()), [opened[name].ranks for name in names], [None] * len(names))
            calls = {}
            for name, kept in zip(names, chosen, strict=True):
                direction, _, extended = waiting[name]
                calls[name] = layers[name].factors(), direction, extended, decompositions[name], min(kept.ranks)
            for (name, cut), kept in zip(together(unformed.truncate, calls).items(), chosen, strict=True):
                if cut is None:
                    return False
                install.append((name, cut, kept))
        for name, cut, kept in install:
            with naming_layer(name):
                self._close(name, layers[name], cut, cut.core, kept, opened[name].used)
        return True

    def _contract(self, layers: Mapping[str, FactoredLayer], opened: Mapping[str, Kept], method: GalerkinMethod) -> None:
        trained = {name: self._trained(name, layer) for name, layer in layers.items()}
        decompositions = together(decompose, {name: (factors,) for name, factors in trained.items()})
        spectra = _on_cpu({name: [svd.sigma for svd in modes] for name, modes in decompositions.items()})
        weights = [_rows(layers[name], decompositions[name][0], method) for name in layers]
        chosen = method.choose_ranks(list(spectra.values()), [opened[name].ranks for name in layers], weights)
        for (name, layer), kept in zip(layers.items(), chosen, strict=True):
            with naming_layer(name):
                cut = truncate(trained[name], decompositions[name], kept.ranks)
                weight = cut.core - self._between(name, layer.factors().bases, cut.bases) if _has_shadow(method) else cut.core
                self._close(name, layer, cut, weight, kept, opened[name].used)

    def _close(self, name: str, layer: FactoredLayer, cut: Factors, weight: Tensor, kept: Kept, before: Ranks) -> None:
        """Install what is left of a layer, and keep what its weight does not show."""
        sizes = [basis.shape[1] for basis in cut.bases]
        used = tuple(map(min, kept.used, sizes))
        shown, memory = layer.method.visible_and_shadow(cut.core, weight, used, before)
        idle = tuple(size - each for size, each in zip(sizes, used, strict=True))
        self._install(layer, Factors(shown, cut.bases), idle if any(idle) else ())
        self._beside.pop(name, None)
        if any(idle) or _has_shadow(layer.method):
            self._beside[name] = memory - shown

    def _trained(self, name: str, layer: FactoredLayer) -> Factors:
        factors = layer.factors()
        return factors._replace(core=factors.core + self._beside[name]) if name in self._beside else factors

    def _between(self, name: str, old: tuple[Tensor, ...], new: tuple[Tensor, ...]) -> Tensor | float:
        """Return what a layer keeps beside its weight in new bases."""
        return linalg.multi_product(self._beside[name], basis_overlaps(old, new)) if name in self._beside else 0.0

    def take(self, name: str, beside: Tensor | None) -> None:
        """Have a layer keep that beside its weight."""
        if beside is None:
            self.drop(name)
        else:
            self._beside[name] = beside

    def drop(self, name: str) -> None:
        """Drop what a layer keeps beside its weight."""
        self._beside.pop(name, None)

    def forget(self, layers: Mapping[str, FactoredLayer]) -> None:
        """Drop idle directions, and all that is kept beside the weights, which stay as they are."""
        self._beside = {}
        for layer in layers.values():
            if layer.idle:
                self._install(layer, layer.used_factors(), ())

    def state_dict(self) -> dict[str, Any]:
        """Return what the layers keep beside their weights."""
        return dict(self._beside)

    def load_state_dict(self, state: dict[str, Any], layers: Mapping[str, FactoredLayer]) -> None:
        """Take up what `state_dict` returned."""
        self._beside = {name: value.to(layers[name].core) for name, value in state.items()}


def _on_cpu(spectra: dict[str, list[Tensor]]) -> dict[str, list[Tensor]]:
    """Return the singular values of all layers on the CPU, by one transfer."""
    together = torch.cat([sigma for modes in spectra.values() for sigma in modes]).cpu()
    sizes = [len(sigma) for modes in spectra.values() for sigma in modes]
    parts = iter(together.split(sizes))
    return {name: [next(parts) for _ in modes] for name, modes in spectra.items()}


def _rows(layer: FactoredLayer, svd: linalg.SVD, method: GalerkinMethod) -> Tensor | None:
    """Return the core of a weight in the left singular directions of what the optimizer has, if that decides on ranks."""
    return svd.U.T @ linalg.unfold(layer.core.detach(), 0) if _has_shadow(method) else None


def _has_shadow(method: GalerkinMethod) -> bool:
    """Return whether the optimizer goes on from other singular values than the clamped ones of the weight."""
    return method.cond is not None and method.adaptive
