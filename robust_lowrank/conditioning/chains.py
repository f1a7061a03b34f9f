"""Matrices with functions of single entries between them are bounded together: what one stretches most, the next need not."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

STEPS = 60  # of the search for multipliers
RATE = 0.1  # of its logarithms
WORK = 5e11  # operations that a search may take, some ten seconds of one core; of wider layers the first multipliers are kept
LEAST = 1e-4  # of the largest multiplier: the least eigenvalue of what is inverted, so that float64 loses nothing that counts
ROUNDING = 1e-10  # of the same, taken off what is inverted: more than is lost on the way to it, so that S is too large if anything


@dataclass(frozen=True)
class Chain:
    """Linear maps of rows (N, m), with functions whose slopes lie in [0, 1] between each two of them.

    Attributes:
        start: a Lipschitz bound of what goes into the first.
        weights: the matrices (n, m), float64, in the order in which they are applied.
        before: a bound of what goes into the last, by the product of norms; infinite where it is not known.
        bent: whether such a function has come after the last.
        rounded: whether the last is a product in float64, and no matrix of the network itself.
    """

    start: float
    weights: tuple[Tensor, ...]
    before: float = math.inf
    bent: bool = False
    rounded: bool = False

    def then(self, weight: Tensor, before: float = math.inf) -> "Chain":
        """Return the chain with one matrix more, before which is so much; two without a function between them are one."""
        if self.bent:
            return Chain(self.start, (*self.weights, weight), before)
        return replace(self, weights=(*self.weights[:-1], weight @ self.weights[-1]), rounded=True)

    def scaled(self, factors: Tensor) -> "Chain":
        """Return the chain with the outputs of its last matrix multiplied, as by batch normalisation."""
        return replace(self, weights=(*self.weights[:-1], factors.double()[:, None] * self.weights[-1]), rounded=True)

    def bend(self) -> "Chain":
        """Return the chain with a function of single entries after it."""
        return replace(self, bent=True)


def steepness(chain: Chain) -> Tensor:
    """Return how fast the difference of two outputs of a chain can change with the input, (outputs, outputs), at most.

    Example:
        >>> first, last = torch.eye(2, dtype=torch.float64), torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> round(steepness(Chain(3.0, (first, last)))[0, 1].item() / 3 / math.sqrt(2), 6)
        1.0

    If |δ|²_M = δᵀMδ measures what goes into a matrix W, slopes in [0, 1] give for every D > 0, diagonal, with S = M⁻¹

        S' = D (2D - W S Wᵀ)⁻¹ D,   where 2D > W S Wᵀ

    for what comes out of the function behind it: |δ'|²_M' <= |δ|²_M. So the difference of the outputs y and j of the last matrix,
    with rows w, is at most sqrt((w_y - w_j)ᵀ S (w_y - w_j)) |δ|. Any such D proves that; some steps of Adam look for good ones,
    from D = σ_max(W S Wᵀ) I, which is nowhere worse than the product of norms.

    Source: the multipliers of LipSDP (Fazlyab et al. 2019, arXiv 1906.04893), eliminated layer by layer as in Xu and Sivaranjani
    2024 (arXiv 2404.04375).

    Raises:
        LinAlgError: a matrix is too close to zero.
    """
    with torch.inference_mode(mode=False), torch.no_grad():
        *inner, last = (weight.clone() for weight in chain.weights)
        if inner:
            last = last @ _metric(inner, [each.exp() for each in _multipliers(inner, last)])
        return chain.start * distances(last)


def distances(rows: Tensor) -> Tensor:
    """Return the distances of rows from one another, also where their squares are no numbers of float64.

    Example:
        >>> distances(torch.tensor([[3e-200, 0.0], [0.0, 4e-200]], dtype=torch.float64))[0, 1].item()
        5e-200
    """
    largest = rows.abs().amax().clamp(min=1e-300)
    return largest * torch.cdist(rows / largest, rows / largest, compute_mode="donot_use_mm_for_euclid_dist")


def _multipliers(inner: list[Tensor], last: Tensor) -> list[Tensor]:
    """Return logarithms of multipliers, a vector a matrix."""
    first = _first(inner)
    work = sum(10 * float(len(weight)) ** 3 + 2 * weight.numel() * weight.shape[1] for weight in inner)
    steps = min(STEPS, int(WORK / work))
    pairs = ~torch.eye(len(last), dtype=torch.bool, device=last.device)
    if not steps or not pairs.any():
        return first
    best, least, rate = first, math.inf, RATE
    logs = [each.clone().requires_grad_() for each in first]
    search = torch.optim.Adam(logs, lr=rate)
    for step in range(steps):
        search.param_groups[0]["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        with torch.enable_grad():
            try:
                loss = _apart(last @ _metric(inner, [each.exp() for each in logs]))[pairs].clamp(min=1e-300).log().mean() / 2
            except RuntimeError:  # LinAlgError: a multiplier is too small
                loss = torch.tensor(math.nan)
        if not torch.isfinite(loss):
            rate /= 2
            for each, kept in zip(logs, best, strict=True):
                each.copy_(kept)
            continue
        if float(loss.detach()) < least:
            best, least = [each.detach().clone() for each in logs], float(loss.detach())
        search.zero_grad()
        loss.backward()
        search.step()
    return best


def _first(inner: list[Tensor]) -> list[Tensor]:
    """Return logarithms of the multipliers that are nowhere worse than the product of norms."""
    logs: list[Tensor] = []
    for number, weight in enumerate(inner):
        before = weight if not number else weight @ _metric(inner[:number], [each.exp() for each in logs])
        largest = torch.linalg.eigvalsh(before @ before.T)[-1].clamp(min=1e-300)
        logs.append(largest.log().expand(len(weight)).clone())
    return logs


def _metric(inner: list[Tensor], multipliers: list[Tensor]) -> Tensor:
    """Return F with S = F Fᵀ for what goes into the last matrix.

    Raises:
        LinAlgError: a multiplier is too small.
    """
    factor: Tensor | None = None
    for weight, multiplier in zip(inner, multipliers, strict=True):
        rows = weight if factor is None else weight @ factor
        largest = multiplier.detach().max()
        eye = torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
        within = torch.diag(2 * multiplier) - rows @ rows.T - ROUNDING * largest * eye
        torch.linalg.cholesky(within.detach() - LEAST * largest * eye)
        lower = torch.linalg.cholesky(within)
        factor = torch.linalg.solve_triangular(lower, torch.diag(multiplier), upper=False).T
    assert factor is not None
    return factor


def _apart(rows: Tensor) -> Tensor:
    """Return the squares of the distances of rows from one another."""
    products = rows @ rows.T
    own = products.diagonal()
    return own[:, None] + own - 2 * products
