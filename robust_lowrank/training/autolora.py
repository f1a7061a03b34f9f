"""AutoLoRa fine-tunes a network adversarially, with the natural objective in its adapters."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robust_lowrank.choices import pattern
from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.evaluation.network.inputs import check_examples
from robust_lowrank.layers import Adapter, adapted_parts, without_updates
from robust_lowrank.layers.merged import uninstall_all
from robust_lowrank.layers.network import shown_name
from robust_lowrank.submodules import put
from robust_lowrank.threat import KeyedNoise, frozen_eval, radius, threat
from robust_lowrank.training.adversarial import divergence, pgd
from robust_lowrank.training.adversarial_config import DEFAULT_BETA, DEFAULT_STEPS, PGD_PATH

NORMS = ("Linf", "L2")


class Weights(NamedTuple):
    """The weights of the cross-entropy on natural inputs, of that on adversarial ones, and of the divergence between them."""

    natural: Tensor | float
    adversarial: Tensor | float
    divergence: Tensor | float


class AutoLoRa:
    """The loss that makes a network robust while its adapters, which are dropped in the end, learn the natural inputs.

    Natural inputs pass through the network with its updates, and train the updates and the head. Adversarial inputs pass through
    the base alone, and train everything but the updates. A divergence between the two predictions reaches both. With the natural
    training accuracy `a` of the last epoch, the three terms weigh 1 - a, a and beta a: nothing is left to tune.

    Args:
        model: the network after `adapt`, by any method whose updates start at zero; it returns logits for inputs in [0, 1]. All its
            parameters are made trainable: freeze again what is to stay, then make the optimizer.
        eps: how far an attack may go, in pixels of [0, 1]: a number, or a fraction as text.
        norm: in which norm, `Linf` or `L2`.
        steps: steps of the attack.
        step_size: length of one; 2.5 eps / steps if not given.
        beta: the factor of the divergence.
        head: regular expressions of the parameters that natural inputs train beside the updates, such as `fc\\..*`.
        accuracy: the natural accuracy to begin with; that of the first batch if not given.
        seed: of the attack's random starts.

    Example:
        >>> report = adapt(model, method="lora", rank=8, exclude=["fc"])
        >>> auto = AutoLoRa(model, eps=8 / 255, head=[r"fc\\..*"])
        >>> optimizer = LowRankOptimizer(model, torch.optim.SGD, lr=0.01)
        >>> for x, y in batches:
        ...     adversarial = auto.perturb(x, y)
        ...     optimizer.zero_grad()
        ...     auto.loss(x, adversarial, y).backward()
        ...     optimizer.step()
        >>> accuracy = auto.end_epoch()
        >>> auto.finish()

    Raises:
        UserError: the network has no adapters, or some that took a part of its weights; a number is out of range, the norm is
            unknown, or a pattern matches no parameter.

    Source: Xu, Zhang and Kankanhalli, ICLR 2024, arXiv 2310.01818, and the authors' code.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        eps: float | str,
        norm: str = "Linf",
        steps: int = DEFAULT_STEPS,
        step_size: float | None = None,
        beta: float = DEFAULT_BETA,
        head: Sequence[str] = (),
        accuracy: float | None = None,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.eps: float = radius(eps)
        self.norm: str = norm
        if norm not in NORMS:
            raise unknown_name("norm", norm, NORMS)
        if not isinstance(steps, int) or steps < 1:
            raise UserError(f"steps = {steps} is not a number of steps: give an integer from 1")
        self.steps: int = steps
        self.step_size: float = PGD_PATH * self.eps / steps if step_size is None else step_size
        if not 0 < self.step_size < math.inf:
            raise UserError(f"step_size = {step_size} must be a positive number")
        if not 0 <= beta < math.inf:
            raise UserError(f"beta = {beta} must be a number from 0")
        if accuracy is not None and not 0 <= accuracy <= 1:
            raise UserError(f"accuracy = {accuracy} is outside [0, 1]")
        self.beta: float = beta
        self.seed: int = seed
        self._base = _base_parameters(model, head)
        self._accuracy: Tensor | float | None = accuracy
        self._hits: Tensor | int = 0
        self._seen = 0
        self._batches = 0

    @property
    def accuracy(self) -> float | None:
        """The natural accuracy that the weights follow; None before the first batch."""
        return None if self._accuracy is None else float(self._accuracy)

    @property
    def weights(self) -> Weights | None:
        """The weights of the loss's terms; None before the first batch."""
        accuracy = self.accuracy
        return None if accuracy is None else _weights(accuracy, self.beta)

    def perturb(self, x: Tensor, y: Tensor) -> Tensor:
        """Return inputs on which the base does worst, found by PGD in evaluation mode: once a step, before it.

        `x` is (N, ...) in [0, 1], `y` (N,) int64. Modes, gradients and random states are left as found.

        Raises:
            UserError: inputs or labels are something else, which is looked at in the first batch, or eps is beyond their range.
        """
        if self._batches == 0:
            check_examples(x, y)
        allowed = threat(self.norm, self.eps, features=x[0].numel())
        noise = KeyedNoise(self.seed, "autolora", torch.arange(len(x), device=x.device), step=self._batches)
        self._batches += 1
        with frozen_eval(self.model), without_updates(self.model):
            return pgd(self.model, x, y, allowed, noise=noise, steps=self.steps, step_size=self.step_size)

    def loss(self, x: Tensor, adversarial: Tensor, y: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar whose backward reaches each parameter from the inputs that are to train it.

        A method that evaluates several times a step calls it each time with the same `adversarial`. The running statistics of
        BatchNorm move by the adversarial inputs alone: they are the base's, which is what remains.

        Args:
            x: natural inputs (N, ...).
            adversarial: what `perturb` made of them, (N, ...).
            y: labels (N,).
        """
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        with _switched_off("requires_grad", self._base), _switched_off("track_running_stats", norms):
            natural = self.model(x)
        with without_updates(self.model):
            perturbed = self.model(adversarial)
        correct = natural.argmax(dim=1) == y
        self._hits, self._seen = self._hits + correct.sum(), self._seen + len(y)
        accuracy = correct.float().mean() if self._accuracy is None else self._accuracy
        self._accuracy = accuracy
        weights = _weights(accuracy, self.beta)
        return (
            weights.natural * F.cross_entropy(natural, y)
            + weights.adversarial * F.cross_entropy(perturbed, y)
            + weights.divergence * divergence(natural, perturbed) / len(y)
        )

    def end_epoch(self) -> float:
        """Take the weights from the natural accuracy of the batches since the last call, and return it.

        Raises:
            UserError: there was none.
        """
        if self._seen == 0:
            raise UserError("no batch since the last epoch: call end_epoch after an epoch of losses")
        accuracy = int(self._hits) / self._seen
        self._accuracy, self._hits, self._seen = accuracy, 0, 0
        return accuracy

    def finish(self) -> None:
        """Drop the updates, in place: every adapter becomes its base, an ordinary layer."""
        for name, module in list(self.model.named_modules(remove_duplicate=False)):
            if isinstance(module, Adapter):
                put(self.model, name, module.base)
        uninstall_all(self.model, updated=False)


def _weights(accuracy: Tensor | float, beta: float) -> Weights:
    return Weights(1 - accuracy, accuracy, beta * accuracy)


def _base_parameters(model: nn.Module, head: Sequence[str]) -> list[nn.Parameter]:
    """Return the parameters that natural inputs do not train, all but those of updates and head, after making all trainable."""
    layers = [(path, layer) for path, part in adapted_parts(model) for name in part.names for layer in part.layers_of(name)]
    if not layers:
        raise UserError("the network has no adapters for the natural inputs: call adapt first")
    for path, layer in layers:
        if layer.method.needs_start and layer.start is None:
            raise UserError(
                f"the update of {shown_name(path)!r} by {layer.method.name} took a part of the weight, as those of older files "
                "did, which would be dropped with it: adapt the network anew"
            )
    updates = {id(parameter) for _, layer in layers for parameter in layer.parameters()}
    others = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in updates}
    patterns = [pattern(text, "head") for text in head]
    for each in patterns:
        if not any(each.fullmatch(name) for name in others):
            raise UserError(f"head {each.pattern!r} matches no parameter; there are: {', '.join(list(others)[-8:])}")
    for parameter in others.values():
        parameter.requires_grad_(parameter.is_floating_point())
    return [parameter for name, parameter in others.items() if not any(each.fullmatch(name) for each in patterns)]


@contextmanager
def _switched_off(flag: str, owners: Iterable[object]) -> Iterator[None]:
    """Set a flag to False in a block: a parameter then stays out of graphs, and BatchNorm leaves its statistics alone."""
    switched = [owner for owner in owners if getattr(owner, flag)]
    try:
        for owner in switched:
            setattr(owner, flag, False)
        yield
    finally:
        for owner in switched:
            setattr(owner, flag, True)
