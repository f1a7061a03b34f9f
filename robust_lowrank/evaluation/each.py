"""Every example can have a radius and a mask of its own."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.base import NativeAttack
from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.evaluation.network.inputs import outside_inference
from robust_lowrank.evaluation.network.target import checked_target
from robust_lowrank.evaluation.verdict import check
from robust_lowrank.threat import KeyedNoise, Masked, frozen_eval, per_example, radius, threat


class Each(NamedTuple):
    """The verdict of one attack on every example within its own threat model; every field has a row an example, on the CPU."""

    inputs: Tensor  # the most harmful input found, within the threat model, (N, ...)
    broken: Tensor  # bool: misclassified by a strict margin
    margin: Tensor  # float64, of the label's logit to the largest other one
    distance: Tensor  # float64, from the clean input


def attack_each(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: NativeAttack,
    *,
    norm: str,
    eps: Tensor | Sequence[float] | float | str,
    masks: Tensor | None = None,
    seed: int = 0,
) -> Each:
    """Attack every example within its own radius, and only where its own mask lets features move.

    Examples of one radius and one mask are attacked together. An example has the noise that `evaluate` would give it.

    Args:
        eps: (N,), or one for all. What the network gets wrong as it is counts as broken.
        masks: bool, (N, ...) as the inputs, or of the shape of one of them for all; without it every feature may move.
        seed: of the noise.

    Example:
        >>> each = attack_each(model, x, y, APGD(), norm="L2", eps=margins / 2, masks=foreground)
        >>> float(each.broken.double().mean())

    Raises:
        UserError: the attack is not a native one or keeps to no mask, a radius is out of range, or a mask does not fit or allows
            nothing.
    """
    if not isinstance(attack, NativeAttack) or attack.transfers:
        raise UserError(f"{getattr(attack, 'label', attack)!r} cannot be put on each example by itself: take a native attack")
    x, y = outside_inference(x), outside_inference(y)
    given = radius(eps) if isinstance(eps, str) else eps
    radii = torch.as_tensor(given, dtype=torch.float64).cpu()
    radii = radii.expand(len(x)) if radii.dim() == 0 else radii
    if radii.shape != (len(x),):
        raise UserError(f"eps has shape {tuple(radii.shape)}: give one radius, or one for each of {len(x)} examples")
    if masks is not None and not attack.maskable:
        raise UserError(f"{attack.label} keeps to no mask: take fgsm, pgd, apgd or random-noise")
    if masks is not None and masks.shape not in (x.shape, x.shape[1:]):
        raise UserError(f"masks have shape {tuple(masks.shape)}: give {tuple(x.shape)}, or {tuple(x.shape[1:])} for all")
    with frozen_eval(model):
        none = torch.zeros(len(x), dtype=torch.float64)
        found = Each(x.cpu().clone(), none.bool(), none.clone(), none.clone())
        target = checked_target(model, x, y)
        network = FixedBatch(target)
        for rows in _groups(radii, masks if masks is not None and masks.shape == x.shape else None):
            budget = threat(norm, radius(float(radii[rows[0]])), features=x[0].numel())
            if masks is not None:
                budget = Masked(budget, masks[rows[0]] if masks.shape == x.shape else masks)
            here, labels = (values[rows.to(values.device)].to(target.device) for values in (x, y))
            noise = KeyedNoise(seed, attack.purpose, rows.to(target.device))
            seen = check(network, here, labels, attack.attempt(network, here, labels, budget, noise).inputs, budget)
            clean = check(network, here, labels, here, budget)
            wrong = per_example(clean.broken & ~seen.broken, here)  # no attack is needed
            seen = seen._replace(
                inputs=torch.where(wrong, here, seen.inputs),
                broken=seen.broken | clean.broken,
                margin=torch.where(wrong.flatten(), clean.margin, seen.margin),
                distance=torch.where(wrong.flatten(), clean.distance, seen.distance),
            )
            for field, values in zip(found, (seen.inputs, seen.broken, seen.margin, seen.distance), strict=True):
                field[rows] = values.cpu()
    return found


def _groups(radii: Tensor, masks: Tensor | None) -> list[Tensor]:
    """Return the rows of each radius and mask."""
    keys = radii.cpu().double()[:, None]
    if masks is not None:
        keys = torch.cat([keys, masks.cpu().flatten(1).double()], dim=1)
    _, group = keys.unique(dim=0, return_inverse=True)
    return [(group == number).nonzero().squeeze(1) for number in range(int(group.max()) + 1 if len(group) else 0)]
