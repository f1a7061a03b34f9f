import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linprog, minimize

from robust_lowrank.evaluation.attacks.hyperplane import DUALS, ORDERS, lengths, project_onto_hyperplane

NORMS = list(ORDERS)
coordinate = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
weight = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5]), st.floats(-3, 3))


@st.composite
def cases(draw):
    features = draw(st.integers(1, 6))
    x = draw(hnp.arrays(np.float64, features, elements=coordinate))
    w = draw(hnp.arrays(np.float64, features, elements=weight))
    w[np.abs(w) < 1e-3] = 0
    return x, w, draw(st.one_of(st.just(float(w @ x)), st.floats(-4, 4)))


def single(x, w, b, norm):
    rows = (torch.as_tensor(value, dtype=torch.float64)[None] for value in (x, w, b))
    return project_onto_hyperplane(*rows, norm)[0].numpy()


def oracle(x, w, b, norm):
    """Return the smallest length by a linear programme or SLSQP, onto the nearest parallel hyperplane that [0, 1] reaches."""
    low, high = float(np.minimum(w, 0).sum()), float(np.maximum(w, 0).sum())
    b, n = min(max(b, low), high), len(x)
    if norm == "L2":
        found = minimize(
            lambda d: d @ d,
            np.zeros(n),
            jac=lambda d: 2 * d,
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "eq", "fun": lambda d: w @ (x + d) - b, "jac": lambda d: w},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        return float(np.linalg.norm(found.x))
    sizes = 1 if norm == "Linf" else n
    per = np.ones((n, 1)) if norm == "Linf" else np.eye(n)
    found = linprog(
        np.r_[np.zeros(n), np.ones(sizes)],
        A_ub=np.block([[np.eye(n), -per], [-np.eye(n), -per]]),
        b_ub=np.zeros(2 * n),
        A_eq=np.r_[w, np.zeros(sizes)][None],
        b_eq=[b - w @ x],
        bounds=[*zip(-x, 1 - x, strict=True), *[(0, None)] * sizes],
    )
    assert found.success
    return float(found.fun)


@pytest.mark.parametrize("norm", ["Linf", "L1"])
@given(case=cases())
@settings(max_examples=50, deadline=None)
def test_no_way_is_shorter_says_a_linear_programme(norm, case):
    x, w, b = case
    d = single(x, w, b, norm)
    assert np.linalg.norm(d, ord=ORDERS[norm]) <= oracle(x, w, b, norm) + 1e-6


@given(case=cases())
@settings(max_examples=40, deadline=None)
def test_no_way_is_shorter_says_slsqp(case):
    x, w, b = case
    assert np.linalg.norm(single(x, w, b, "L2")) <= oracle(x, w, b, "L2") + 1e-5


@pytest.mark.parametrize("norm", NORMS)
@given(case=cases())
@settings(max_examples=100, deadline=None)
def test_the_way_satisfies_the_conditions_of_an_optimum(norm, case):
    x, w, b = case
    d = single(x, w, b, norm)
    point = x + d
    assert (point >= -1e-12).all() and (point <= 1 + 1e-12).all()
    assert not d[w == 0].any()
    gap = b - w @ x
    towards = d * w * np.sign(gap)
    assert (towards >= 0).all()
    wall = np.where(w * np.sign(gap) > 0, 1 - x, np.where(w * np.sign(gap) < 0, x, 0))
    free = (np.abs(d) < wall - 1e-9) & (w != 0)
    if abs(w @ point - b) > 1e-9:
        assert not free.any()
    elif norm == "Linf":  # free features all move by the length
        assert np.allclose(np.abs(d[free]), np.abs(d).max(), atol=1e-9)
    elif norm == "L2":  # free features move by a multiple of their weight, which for those at a wall would lead beyond
        level = (np.abs(d) / np.abs(np.where(w == 0, 1, w)))[free]
        if free.any():
            assert np.allclose(level, level[0], atol=1e-9)
            assert (np.abs(d) <= level[0] * np.abs(w) + 1e-9).all()
    else:  # no feature moves while a heavier one is free
        moving = np.abs(d) > 1e-9
        assert not moving.any() or not free.any() or np.abs(w[moving]).min() >= np.abs(w[free]).max() - 1e-9


@pytest.mark.parametrize("norm", NORMS)
def test_far_from_the_walls_the_length_is_the_closed_form(norm):
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.01 * torch.randn(50, 30, generator=generator, dtype=torch.float64)
    w = torch.randn(50, 30, generator=generator, dtype=torch.float64)
    b = (w * x).sum(dim=1) + 0.2 * torch.randn(50, generator=generator, dtype=torch.float64)
    expected = ((w * x).sum(dim=1) - b).abs() / torch.linalg.vector_norm(w, ord=DUALS[norm], dim=1)
    torch.testing.assert_close(lengths(project_onto_hyperplane(x, w, b, norm), norm), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_degenerate_rows_stay_finite(norm):
    x = torch.tensor([[0.5, 0.5], [0.0, 1.0], [0.0, 1.0], [0.3, 0.3], [1.0, 1.0]])
    w = torch.tensor([[0.0, 0.0], [1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [1.0, 1.0]])
    b = torch.tensor([1.0, -1.0, -5.0, 0.6, 9.0])
    change = project_onto_hyperplane(x, w, b, norm)
    assert change.isfinite().all()
    assert not change.any()  # no weight, on the plane, in the far corner twice, on the plane, in the far corner

    beyond = project_onto_hyperplane(x[:1], torch.tensor([[1.0, 0.0]]), torch.tensor([7.0]), norm)
    torch.testing.assert_close(beyond, torch.tensor([[0.5, 0.0]]))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e30])
def test_the_scale_of_float32_weights_is_no_matter(norm, scale):
    generator = torch.Generator().manual_seed(0)
    x, w = torch.rand(40, 200, generator=generator), torch.randn(40, 200, generator=generator)
    scaled = w * scale
    b = (scaled.double() * torch.rand(40, 200, generator=generator)).sum(dim=1)
    point = x.double() + project_onto_hyperplane(x, scaled, b, norm).double()
    assert ((point >= -1e-7) & (point <= 1 + 1e-7)).all()
    missed = ((scaled.double() * point).sum(dim=1) - b).abs() / scaled.double().abs().sum(dim=1)
    assert missed.max() < 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_rows_do_not_know_of_each_other(norm):
    generator = torch.Generator().manual_seed(0)
    x, w = torch.rand(2, 65, 3, 4, 5, generator=generator).unbind()
    w = w - 0.5
    b = torch.randn(65, generator=generator)
    together = project_onto_hyperplane(x, w, b, norm)
    assert together.shape == x.shape
    for row in range(65):
        assert torch.equal(project_onto_hyperplane(x[row : row + 1], w[row : row + 1], b[row : row + 1], norm)[0], together[row])


def test_the_two_tables_are_dual():
    for norm in NORMS:
        p, q = ORDERS[norm], DUALS[norm]
        assert (0 if math.isinf(p) else 1 / p) + (0 if math.isinf(q) else 1 / q) == 1
