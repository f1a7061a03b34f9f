"""Chain layers compute with thin factors in turn, and show what the layers show whose places they take."""

import copy
import inspect
import sys
from abc import abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.layers.base import FactoredLayer, own_or_same, parameters_of
from robust_lowrank.layers.seen import Passes, Seen
from robust_lowrank.linalg import Factors

STATIC = (staticmethod, str, int, float, tuple)  # of what a class adds to torch's, what a chain has too


class ChainLayer(FactoredLayer):
    """A linear map or convolution that is computed factor by factor.

    It has the attributes of the layer whose place it takes, such as `in_features` or `stride`, and its `weight`: the merged one,
    formed when it is read, with the projected gradients for who differentiates through it.

    Attributes:
        read: whether somebody reads these in a pass, as attentions do that compute with their layers' weights themselves.
        slides: in how many directions a kernel slides.
        seen: the backward passes of an evaluation, for who asks for them.
    """

    bias: nn.Parameter | None
    weight: Any
    read: bool = False
    slides: int = 0
    seen: Passes | None = None

    def __init__(self, factors: Factors, bias: Tensor | None = None, *, like: nn.Module | None = None) -> None:
        super().__init__(factors)
        self.bias: nn.Parameter | None = own_or_same(bias)
        if like is None:
            like = self.torch_layer(torch.empty(self.dense_weight().shape, device="meta"), bias)
        object.__setattr__(self, "_shell", _shell_of(like))  # no submodule: it has no state
        weight = getattr(like, "weight", self.core)
        self.weight_dtype: torch.dtype = self.core.dtype if weight.is_meta else weight.dtype

    @classmethod
    def in_place_of(cls, layer: Any, factors: Factors, bias: Tensor | None) -> Self:
        """Return the layer of these factors that computes on what `layer` computes on."""
        return cls(factors, bias, like=layer)

    @staticmethod
    @abstractmethod
    def torch_layer(weight: Tensor, bias: Tensor | None) -> nn.Module:
        """Return the torch layer that owns copies of a weight and a bias."""

    @abstractmethod
    def factored_layers(self) -> nn.Sequential:
        """Return a chain of ordinary torch layers that computes the same without forming the weight."""

    def product(self, x: Tensor, factors: Factors) -> Tensor:
        """Return what the layer makes of x without its bias, by other factors of its form."""
        raise NotImplementedError

    def gradients_of(self, seen: Seen, *, sides: bool) -> tuple[Tensor | None, ...]:
        """Return what the slots of core and, with `sides`, of bases receive from a pass of the same weight in other factors.

        Its bases were the first columns of the present ones.
        """
        raise NotImplementedError

    def passes(self) -> Passes | None:
        """Return where a pass that begins now is to show its gradient; compiled passes show none."""
        if torch.compiler.is_compiling() or self.seen is None:
            return None
        self.seen.begin()
        return self.seen

    def change(self, x: Tensor) -> Tensor:
        """Return what an update adds to the outputs of the layer that is frozen beside it."""
        y = self(x) if self.start is None else self(x) - self.product(x, self.start.factors())
        return self.alpha * y

    def dense_layer(self) -> nn.Module:
        """Return an ordinary layer that computes the same, of the class whose place this one took."""
        layer = copy.deepcopy(self.__dict__["_shell"])
        (layer.weight,) = parameters_of([self.dense_weight().to(self.weight_dtype)])
        if self.bias is not None:
            (layer.bias,) = parameters_of([self.bias])
        return layer.train(self.training)

    def ordinary(self, *, thin: bool | None = None) -> nn.Module:
        """Return ordinary layers that compute the same, in the mode of this one and with its bias, which others may share.

        Args:
            thin: whether to take a chain of thin layers, where nobody reads the weight; without it, if that has fewer parameters.
        """
        if thin is None:
            thin = self.inference_parameters() < self.dense_parameters()
        layer = self.factored_layers() if thin and not self.read else self.dense_layer()
        if self.bias is not None:
            (layer[-1] if isinstance(layer, nn.Sequential) else layer).register_parameter("bias", self.bias)
        return layer.train(self.training)

    def note_reader(self) -> None:
        """Note whether a pass of a module reads the layer just now."""
        self.read = self.read or _in_a_pass()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            shell = self.__dict__.get("_shell")
            if shell is None or name.startswith("_"):
                raise
            if name == "weight" or name in vars(shell):
                self.note_reader()
                return self.dense_weight().to(self.weight_dtype) if name == "weight" else vars(shell)[name]
            if not isinstance(inspect.getattr_static(shell, name, None), STATIC):
                raise
            return getattr(shell, name)

    def __setattr__(self, name: str, value: Any) -> None:
        shell = self.__dict__.get("_shell")
        if shell is not None and (name == "weight" or name in getattr(shell, "__constants__", ())) and name not in self._parameters:
            raise UserError(f"the {name} of a factored layer cannot be changed: export the network first, or load factors into it")
        super().__setattr__(name, value)

    def extra_repr(self) -> str:
        """Return what `print(model)` shows."""
        return f"{super().extra_repr()}, bias={self.bias is not None}"


def _in_a_pass() -> bool:
    """Return whether this runs within the forward pass of a module."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__:
            return True
        frame = frame.f_back
    return False


def _shell_of(layer: nn.Module) -> nn.Module:
    """Return a layer without its weight and bias."""
    shell = copy.copy(layer)
    shell._parameters = dict.fromkeys(layer._parameters)
    return shell
