"""Randomised smoothing certifies the class that a network gives most often under Gaussian noise."""

import hashlib
import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robust_lowrank.conditioning.copies import own_copy
from robust_lowrank.errors import UserError
from robust_lowrank.records import CERTIFICATE
from robust_lowrank.statistics import clopper_pearson

if TYPE_CHECKING:
    import pandas as pd

BLOCK = 250  # samples at a time, always: the noise of an example and the sums of its logits depend on nothing else


@torch.no_grad()
def smooth_certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    sigma: float,
    n0: int = 100,
    n: int = 1000,
    alpha: float = 0.001,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> "pd.DataFrame":
    """Return for each example a radius within which the smoothed network keeps its class, a row an example.

    Example:
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> frame = smooth_certify(network, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0]), sigma=0.25, n=200)
        >>> bool((frame["radius"] >= 0).all())
        True

    The smoothed network gives the class that the network gives most often for `x + sigma * noise`. `n0` samples choose a class, and
    `n` others bound its probability p from below (Clopper and Pearson, one-sided, at level alpha). The radius is
    `sigma * Phi^-1(p)` if p > 1/2; otherwise the example is abstained from. With probability 1 - alpha an example, no input within
    the radius has another class *of the smoothed network*; it says nothing of the network itself.

    Noise belongs to seed and example, whatever else is certified with it. Logits that are not finite count for no class.

    Args:
        model: the network, which stays as it is; it is seen in evaluation mode. Its own type and device are used.
        x: (N, ...) inputs; distances are in their units.
        y: (N,) labels.
        sigma: the noise's deviation, in the same units.
        n0: samples to choose the class.
        n: samples to bound its probability; the largest radius is about `sigma * Phi^-1(alpha^(1 / n))`.
        alpha: the probability that a certificate is wrong.
        seed: of the noise.
        progress: called with the number of examples done.

    Raises:
        UserError: sigma, n0, n or alpha is out of range, or labels and inputs do not fit.

    Source: Cohen, Rosenfeld, Kolter, ICML 2019, arXiv 1902.02918, algorithm CERTIFY and theorem 1.
    """
    import pandas as pd

    check_smoothing(sigma, n0, n, alpha)
    if y.shape != x.shape[:1]:
        raise UserError(f"certificates need a label an example, not {tuple(y.shape)} for {len(x)} examples")
    quiet = own_copy(model).eval()
    place = next(quiet.parameters(), x)
    rows = []
    for example, (image, label) in enumerate(zip(x.to(place), y.tolist(), strict=True)):
        prediction = int(_counts(quiet, image, sigma, n0, (seed, "choice", example))[:-1].argmax())
        counts = _counts(quiet, image, sigma, n, (seed, "estimate", example))
        probability = clopper_pearson(int(counts[prediction]), int(counts.sum()), 1 - 2 * alpha).low
        sure = probability > 0.5
        radius = sigma * NormalDist().inv_cdf(probability) if sure and prediction == label else 0.0
        rows.append((example, label, prediction, probability - 0.5, radius, not sure))
        if progress is not None:
            progress(example + 1)
    return pd.DataFrame(rows, columns=pd.Index(CERTIFICATE))


def check_smoothing(sigma: float, n0: int, n: int, alpha: float) -> None:
    """Require parameters that smoothing can work with.

    Raises:
        UserError: one is out of range.
    """
    if not 0 < sigma < math.inf or n0 < 1 or n < 1 or not 0 < alpha < 0.5:
        raise UserError(f"smoothing needs sigma > 0, n0 and n from 1 and alpha in (0, 0.5), not {sigma}, {n0}, {n} and {alpha}")


def _counts(model: nn.Module, image: Tensor, sigma: float, samples: int, key: tuple[int, str, int]) -> Tensor:
    """Return how often the network gives each class, and as the last entry how often its logits are not finite."""
    blocks = []
    for noise in _noise(image.shape, samples, key):
        logits = model(image + sigma * noise.to(image))
        classes = torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), logits.shape[1])
        blocks.append(classes.bincount(minlength=logits.shape[1] + 1).cpu())
    return torch.stack(blocks).sum(dim=0)


def largest_radius(sigma: float, n: int, alpha: float) -> float:
    """Return the most that `n` samples can prove: all of them of one class.

    Example:
        >>> round(largest_radius(1.0, 1000, 0.001), 2)
        2.46
    """
    return sigma * NormalDist().inv_cdf(alpha ** (1 / n))


def _noise(shape: torch.Size, samples: int, key: tuple[int, str, int]) -> Iterator[Tensor]:
    """Yield blocks of standard normal noise, drawn on the CPU, so that they are the same on every device."""
    word = hashlib.blake2b(repr(key).encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(word, "little"))
    for first in range(0, samples, BLOCK):
        yield torch.randn(BLOCK, *shape, generator=generator)[: samples - first]
