"""Penalties act on singular values: R on their spread, COND on their condition number; SO, DSO, MC and SRIP pull them to 1."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.errors import UserError, unknown_name

Form = Literal["R", "COND", "SO", "DSO", "MC", "SRIP"]
Place = Literal["cores", "weights", "factors"]

SPREAD_FLOOR = 1e-12  # below it all singular values count as equal, and the gradient of R as zero


def gram(a: Tensor) -> Tensor:
    """Return the smaller of `a.T a` and `a a.T`: the other has eigenvalues that are zero whatever `a` is."""
    return a.T @ a if a.shape[0] >= a.shape[1] else a @ a.T


def minus_identity(square: Tensor) -> Tensor:
    """Return a square matrix minus the identity."""
    return square - torch.eye(len(square), dtype=square.dtype, device=square.device)


def spread(s: Tensor) -> Tensor:
    """Return R(S) = ||S^T S - a^2 I|| with a^2 = ||S||^2 / r: zero exactly when all singular values are equal.

    R(S)^2 / r is the variance of the squared singular values (methods (50)-(51)); R is 2-homogeneous, so it also shrinks S.

    Example:
        >>> spread(torch.diag(torch.tensor([2.0, 2.0])))
        tensor(0.)

    Source: Schotthöfer, Yang, Schnake, NeurIPS 2025, arXiv 2505.08022, definition 1.
    """
    return _deviation(s).norm()


def spread_gradient(s: Tensor) -> Tensor:
    """Return the gradient 2 S (S^T S - a^2 I) / R(S), and zero where R(S) < 1e-12 (methods (52))."""
    largest = s.abs().max().clamp(min=torch.finfo(s.dtype).tiny)
    unit = s / largest  # whose squares neither overflow nor vanish
    deviation = _deviation(unit)
    size = deviation.norm()
    direction = unit @ deviation if s.shape[0] >= s.shape[1] else deviation @ unit
    least = SPREAD_FLOOR / largest / largest
    return torch.where(size < least, torch.zeros_like(s), 2 * largest * (direction / size.clamp(min=torch.finfo(s.dtype).tiny)))


def _deviation(s: Tensor) -> Tensor:
    square = gram(s)
    return square - square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype, device=square.device)


def condition_gap(a: Tensor) -> Tensor:
    """Return COND = sigma_1^2 / 2 - ||A||^2 / (2 nu), nu the smaller side: zero exactly when all singular values are equal.

    Unlike R it looks at the largest singular value alone, and pulls it down while it lifts the others; where two are largest it has
    no gradient (methods (68)).

    Example:
        >>> condition_gap(torch.diag(torch.tensor([2.0, 1.0])))
        tensor(0.7500)

    Source: Nenov, Haider, Balazs 2024, arXiv 2410.00169.
    """
    return linalg.svd(a).sigma[0].square() / 2 - a.square().sum() / (2 * min(a.shape))


def condition_gap_gradient(a: Tensor) -> Tensor:
    """Return sigma_1 u_1 v_1^T - A / nu, one of the subgradients where it is not unique."""
    u, sigma, vh = linalg.svd(a)
    return sigma[0] * torch.outer(u[:, 0], vh[0]) - a / min(a.shape)


def soft_orthogonality(a: Tensor) -> Tensor:
    """Return SO = ||A - I||^2, A the smaller Gram matrix: the sum of (sigma_i^2 - 1)^2 (methods (60))."""
    return minus_identity(gram(a)).square().sum()


def double_soft_orthogonality(a: Tensor) -> Tensor:
    """Return DSO = ||a.T a - I||^2 + ||a a.T - I||^2, at least |m - n| for an m x n matrix (methods (61))."""
    return minus_identity(a.T @ a).square().sum() + minus_identity(a @ a.T).square().sum()


def mutual_coherence(a: Tensor) -> Tensor:
    """Return MC = max |A - I|, A the smaller Gram matrix (methods (62))."""
    return minus_identity(gram(a)).abs().max()


def spectral_isometry(a: Tensor) -> Tensor:
    """Return SRIP, the spectral norm of A - I by one power iteration from a fixed random vector (methods (63)).

    It is a lower bound of the norm, as in its authors' code, which however draws a new vector each time.
    """
    deviation = minus_identity(gram(a))
    start = torch.randn(len(deviation), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(deviation)
    first = deviation @ start
    return (deviation @ (first / first.norm().clamp(min=SPREAD_FLOOR))).norm()


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "R": spread,
    "COND": condition_gap,
    "SO": soft_orthogonality,
    "DSO": double_soft_orthogonality,
    "MC": mutual_coherence,
    "SRIP": spectral_isometry,
}
GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {"R": spread_gradient, "COND": condition_gap_gradient}


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """A term that `LowRankOptimizer` adds to the loss, for networks trained by any method.

    Args:
        form: `R` and `COND` ask for equal singular values; `SO`, `DSO`, `MC` and `SRIP` ask for singular values of 1.
        weight: the factor before the term.
        on: `cores` of the factored layers, whose singular values with orthonormal bases are those of their weights but for zeros;
            `weights` of the linear layers and convolutions that are dense, or `factors`: the U and V of
            `usv` and the P and Q of `adalora`, which nothing keeps orthonormal.
        milestones: steps from which the weight is multiplied by the entry of `decay` at the same position.
        decay: multiples of the first weight, one a milestone.

    Example:
        >>> penalty = Penalty(form="SO", weight=0.01, on="weights", milestones=(100, 200), decay=(0.1, 0.0))
        >>> [penalty.weight_at(step) for step in (0, 100, 500)]
        [0.01, 0.001, 0.0]

    Source: R: arXiv 2505.08022; COND: arXiv 2410.00169; the others: Bansal, Chen, Wang, NeurIPS 2018, arXiv 1810.09102.
    """

    form: Form = "R"
    weight: float = 0.05
    on: Place = "cores"
    milestones: tuple[int, ...] = ()
    decay: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for field, choices in (("form", Form), ("on", Place)):
            if getattr(self, field) not in get_args(choices):
                raise unknown_name(f"penalty's {field}", str(getattr(self, field)), get_args(choices))
        if not 0 <= self.weight < float("inf"):
            raise UserError(f"weight = {self.weight} of a penalty must be a number from 0")
        if len(self.milestones) != len(self.decay):
            raise UserError(
                f"a penalty has {len(self.milestones)} milestones and {len(self.decay)} entries of decay: give one each"
            )
        if not all(0 <= factor < float("inf") for factor in self.decay):
            raise UserError(f"decay = {list(self.decay)} of a penalty must be numbers from 0")
        if list(self.milestones) != sorted(set(self.milestones)) or any(step < 0 for step in self.milestones):
            raise UserError(f"milestones = {list(self.milestones)} must be steps from 0, ascending")

    def weight_at(self, step: int) -> float:
        """Return the weight at a step."""
        passed = sum(milestone <= step for milestone in self.milestones)
        return self.weight * (self.decay[passed - 1] if passed else 1.0)

    def value(self, a: Tensor) -> Tensor:
        """Return the term of one matrix, without the weight; a tensor of higher order counts as its first unfolding."""
        return FORMS[self.form](linalg.unfold(a, 0))

    def gradient(self, a: Tensor) -> Tensor:
        """Return the gradient of `value`, in the shape of the argument."""
        if (closed := GRADIENTS.get(self.form)) is not None:
            return closed(linalg.unfold(a, 0)).reshape(a.shape)
        with torch.enable_grad():
            leaf = a.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.value(leaf), leaf)
        return gradient
