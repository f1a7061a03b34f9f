import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from robust_lowrank.errors import UserError
from robust_lowrank.threat import L1, L2, THREATS, KeyedNoise, Linf, threat

SHAPES = [(1,), (3,), (64,), (3, 5, 7), (784,)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", THREATS)
@given(
    seed=st.integers(0, 2**32),
    share=st.floats(1e-6, 1),
    shape=st.sampled_from(SHAPES),
    far=st.sampled_from([0.5, 1.0, 3.0, 1e6]),
)
@settings(max_examples=60, deadline=None)
def test_projection_is_inside_without_tolerance_and_idempotent(norm, dtype, seed, share, shape, far):
    budget = threat(norm, share * THREATS[norm].diameter(math.prod(shape)), features=math.prod(shape))
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(32, *shape, generator=generator, dtype=dtype) * 1.5 - 0.25).clamp(0, 1)
    x[::2] = (x[::2] * 16).round() / 16
    point = x + far * budget.eps * torch.randn(x.shape, generator=generator, dtype=dtype)
    projected = budget.project(x, point)
    assert projected.dtype == dtype
    assert budget.contains(x, projected).all()
    assert torch.equal(budget.project(x, projected), projected)


@pytest.mark.parametrize("norm", THREATS)
def test_projection_keeps_what_is_inside(norm):
    budget = threat(norm, 0.3, features=12)
    x = torch.rand(50, 12, dtype=torch.float64)
    inside = (x + 0.025 * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    assert torch.equal(budget.project(x, inside), inside)


def test_projection_onto_the_cube_and_the_ball_is_the_nearest_point():
    x, point = torch.full((1, 2), 0.5), torch.tensor([[0.9, 0.45]])
    torch.testing.assert_close(Linf(0.1).project(x, point), torch.tensor([[0.6, 0.45]]))
    torch.testing.assert_close(L2(0.1).project(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])), torch.tensor([[0.06, 0.08]]))


def test_distances():
    x, point = torch.zeros(2, 1, 2), torch.tensor([[[0.3, 0.4]], [[0.0, 0.7]]], dtype=torch.float64)
    torch.testing.assert_close(Linf(1).distance(x, point), torch.tensor([0.4, 0.7], dtype=torch.float64))
    torch.testing.assert_close(L2(1).distance(x, point), torch.tensor([0.5, 0.7], dtype=torch.float64))
    torch.testing.assert_close(L1(1).distance(x, point), torch.tensor([0.7, 0.7], dtype=torch.float64))


@pytest.mark.parametrize("features", [1, 2, 7, 100])
def test_projection_for_L1_is_the_nearest_point_of_ball_and_cube_together(features):
    x = torch.rand(60, features, dtype=torch.float64)
    x[::3] = x[::3].round()
    point = x + torch.randn_like(x) * 3 * torch.rand(60, 1, dtype=torch.float64)
    budget = L1(0.1 * math.sqrt(features))
    projected = budget.project(x, point)
    # The nearest point of a convex set is the one from which no point of the set lies towards the point that is projected:
    # over ball and cube together, that inner product is largest where the whole budget goes to the steepest features.
    towards = point - projected
    room = torch.where(towards > 0, 1 - x, x)
    gain, order = towards.abs().sort(dim=1, descending=True)
    room = room.gather(1, order)
    spent = (room.cumsum(dim=1) - room).clamp(max=budget.eps)
    most = (gain * torch.minimum(room, budget.eps - spent)).sum(dim=1)
    reached = (towards * (projected - x)).sum(dim=1)
    torch.testing.assert_close(reached, most, rtol=0, atol=1e-10)
    assert (projected == x).any() or features == 1


def test_the_steepest_step_for_L1_moves_one_feature():
    gradient = torch.tensor([[[0.1, -0.4], [0.3, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert L1(1).steepest(gradient).tolist() == [[[0.0, -1.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]


@pytest.mark.parametrize("length", [0.2, 1.3, 5.0])
def test_a_step_for_L1_is_the_best_one_within_the_cube(length):
    x, gradient = torch.rand(20, 7, dtype=torch.float64), torch.randn(20, 7, dtype=torch.float64)
    x[::2] = x[::2].round()  # on walls, towards which half of the features cannot move
    gradient[:, 0] = 0
    stepped = L1(1).ascend(x, gradient, length)
    assert ((stepped >= 0) & (stepped <= 1)).all()
    assert (L1(1).distance(x, stepped) <= length * (1 + 1e-12)).all()
    for place, slope, change in zip(x.numpy(), gradient.numpy(), (stepped - x).numpy(), strict=True):
        up_and_down = [(0, 1 - value) for value in place] + [(0, value) for value in place]  # the change as p - n, p and n from 0
        best = linprog([*-slope, *slope], A_ub=[[1.0] * 14], b_ub=[length], bounds=up_and_down)
        assert float(slope @ change) == pytest.approx(-best.fun, abs=1e-9)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_other_steps_are_along_the_steepest_direction(norm):
    x, gradient = torch.rand(5, 3, 2), torch.randn(5, 3, 2)
    budget = threat(norm, 0.1, features=6)
    assert torch.equal(budget.ascend(x, gradient, 0.25), x + 0.25 * budget.steepest(gradient))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.01, 1.01])
@pytest.mark.parametrize("norm", THREATS)
def test_points_that_are_not_finite_or_leave_the_range_are_not_contained(norm, bad):
    x = torch.full((2, 3), 0.5)
    point = x.clone()
    point[1, 2] = bad
    assert threat(norm, 1.0, features=3).contains(x, point).tolist() == [True, False]


@pytest.mark.parametrize("norm", THREATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_starts_are_images(norm, dtype):
    x = torch.tensor([[0.0, 1.0, 0.5]], dtype=dtype).repeat(50, 1)
    budget = threat(norm, 0.2, features=3)
    assert budget.contains(x, budget.random_start(x, KeyedNoise(1, "start", torch.arange(50)))).all()


@pytest.mark.parametrize("norm", THREATS)
def test_random_starts_fill_the_ball(norm, device):
    budget = threat(norm, 0.2, features=3)
    x = torch.full((4000, 3), 0.5, dtype=torch.float64, device=device)
    start = budget.random_start(x, KeyedNoise(1, "start", torch.arange(4000, device=device)))
    assert budget.contains(x, start).all()
    radius = budget.distance(x, start) / 0.2
    expected = radius.new_tensor([0.25, 0.5, 0.75]) ** (1 / 3)  # a ball of share q of the volume has radius q^(1/3)
    torch.testing.assert_close(radius.quantile(radius.new_tensor([0.25, 0.5, 0.75])), expected, atol=0.02, rtol=0)
    assert (start - x).mean(dim=0).abs().max() < 0.005


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_steepest_steps_have_length_one_whatever_the_gradient(scale):
    gradient = torch.randn(10, 2, 3) * scale
    gradient[0] = 0
    zero = torch.zeros_like(gradient)
    lengths = L2(1).distance(zero, L2(1).steepest(gradient))
    torch.testing.assert_close(lengths, torch.tensor([0.0] + [1.0] * 9, dtype=torch.float64), rtol=1e-6, atol=0)
    assert torch.equal(Linf(1).steepest(gradient), gradient.sign())
    assert L1(1).distance(zero, L1(1).steepest(gradient)).tolist() == [0.0] + [1.0] * 9


@pytest.mark.parametrize(
    ("norm", "eps"), [("Linf", 0.0), ("Linf", -0.1), ("Linf", 1.01), ("L2", 2.01), ("L1", 4.01), ("Linf", math.nan)]
)
def test_radii_without_meaning_are_refused(norm, eps):
    with pytest.raises(UserError, match="outside the range"):
        threat(norm, eps, features=4)


def test_unknown_norms_are_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'Linf'"):
        threat("linf", 0.1, features=4)
