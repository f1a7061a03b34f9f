import pytest
import torch
from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.fab import fab, nearest_by_fab
from robust_lowrank.evaluation.attacks.hyperplane import DUALS, ORDERS, lengths
from robust_lowrank.evaluation.attacks.minimal import minimal
from robust_lowrank.evaluation.verdict import check, margins
from robust_lowrank.threat import THREATS, KeyedNoise, Linf, threat

METHODS = ["fab", "deepfool"]
EPS = {"Linf": 0.09, "L2": 0.48, "L1": 1.3}  # about half of the digits break there


def keyed(count: int) -> KeyedNoise:
    return KeyedNoise(0, "fab", torch.arange(count))


class Rowwise(nn.Module):
    """A network of two layers whose sums run over each row alone, so that a batch cannot change their order."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = torch.randn(10, 20, generator=generator, dtype=torch.float64)
        self.second = torch.randn(5, 10, generator=generator, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.leaky_relu((x.flatten(1)[:, None] * self.first).sum(dim=2))
        return (hidden[:, None] * self.second).sum(dim=2)


def predicted(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("shape", [(48,), (1, 6, 8)], ids=["flat", "one channel"])
@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("method", METHODS)
def test_linear_models_have_the_closed_form_distance(method, norm, shape, classes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, classes)).double()
    model[1].bias.data = -model[1].weight.data.sum(dim=1) / 2
    x = 0.5 + 0.02 * torch.randn(12, *shape, dtype=torch.float64)
    y = predicted(model, x)
    weight = model[1].weight.detach()
    logits = model(x).detach()
    dual = torch.linalg.vector_norm(weight[y][:, None] - weight, ord=DUALS[norm], dim=2)
    every = (logits.gather(1, y[:, None]) - logits) / dual
    expected = every.scatter(1, y[:, None], torch.inf).amin(dim=1)

    found = minimal(model, x, y, norm, noise=keyed(12), method=method, steps=8)

    assert ((found.distance >= expected * (1 - 1e-9)) & (found.distance <= 1.01 * expected)).all()
    assert (predicted(model, found.inputs) != y).all()
    torch.testing.assert_close(lengths(found.inputs - x, norm), found.distance, rtol=1e-12, atol=0)
    assert not found.nonfinite.any()


@pytest.mark.parametrize("norm", ORDERS)
def test_no_farther_than_upstream_on_a_trained_network(cnn, digits, norm):
    pytest.importorskip("pyautoattack")
    from pyautoattack.fab_pt import FABAttack_PT

    x, y = digits.x[:40], digits.y[:40]
    theirs = torch.full((40,), torch.inf, dtype=torch.float64)
    upstream = FABAttack_PT(cnn, norm=norm, targeted=True, n_iter=30)
    for upstream.target_class in (2, 3, 4):
        adversarial = upstream.attack_single_run(x, y, is_targeted=True)
        wrong = predicted(cnn, adversarial) != y
        theirs[wrong] = torch.minimum(theirs, lengths(adversarial - x, norm))[wrong]

    ours = nearest_by_fab(cnn, x, y, norm, noise=keyed(40), steps=30, targets=3)

    assert float(ours.distance.median()) <= 1.02 * float(theirs.median())
    assert (ours.distance <= 1.02 * theirs).all()
    assert torch.equal(ours.distance == 0, predicted(cnn, x) != y)


@pytest.mark.slow
def test_a_robust_example_costs_what_it_costs_upstream(mlp, digits):
    pytest.importorskip("pyautoattack")
    from pyautoattack.fab_pt import FABAttack_PT

    right = (predicted(mlp, digits.x) == digits.y).nonzero().squeeze(1)[:2]
    x, y, eps = digits.x[right], digits.y[right], 1e-3
    calls = {"forwards": 0, "backwards": 0}

    def count(module, args, output):
        calls["forwards"] += 1
        if output.requires_grad:
            output.register_hook(lambda gradient: calls.update(backwards=calls["backwards"] + 1))

    hook = mlp.register_forward_hook(count)
    FABAttack_PT(mlp, norm="Linf", eps=eps, targeted=True, device=torch.device("cpu")).perturb(x, y)
    theirs = dict(calls)
    calls.update(forwards=0, backwards=0)
    ours = fab(mlp, x, y, Linf(eps), noise=keyed(2))
    hook.remove()

    assert theirs == {"forwards": 1828, "backwards": 900}
    assert not ours.claimed.any()
    assert (ours.forwards == calls["forwards"]).all() and (ours.backwards == calls["backwards"]).all()
    assert 0.98 <= calls["forwards"] / theirs["forwards"] <= 1
    assert calls["backwards"] == theirs["backwards"]


@pytest.mark.parametrize("norm", THREATS)
def test_examples_leave_the_batch_within_eps_and_claims_hold(cnn, digits, norm):
    x, y = digits.x[:48], digits.y[:48]
    budget = threat(norm, EPS[norm], features=64)
    sizes: list[int] = []
    hook = cnn.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    attempt = fab(cnn, x, y, budget, noise=keyed(48), steps=10, targets=3)
    hook.remove()
    assert sum(sizes) == int(attempt.forwards.sum())
    assert sizes == sorted(sizes, reverse=True)
    assert len(attempt.forwards.unique()) > 3
    seen = check(cnn, x, y, attempt.inputs, budget)
    assert torch.equal(seen.broken, attempt.claimed)
    assert torch.equal(seen.inputs, attempt.inputs)
    assert 0.2 < attempt.claimed.double().mean() < 0.9

    everywhere = nearest_by_fab(cnn, x, y, norm, noise=keyed(48), steps=10, targets=3)
    assert (attempt.claimed <= (everywhere.distance <= budget.eps)).all()


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_inputs_stay_in_the_range_though_the_walls_are_near(digits, method, dtype, norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).to(dtype)
    x = digits.x[:40].round().to(dtype)  # every feature is at a wall
    y = predicted(model, x)
    outside = []
    model.register_forward_pre_hook(lambda module, args: outside.append(bool(((args[0] < 0) | (args[0] > 1)).any())))
    found = minimal(model, x, y, norm, noise=keyed(40), method=method, steps=10)
    assert not any(outside)
    assert found.inputs.dtype == dtype
    assert found.distance.isfinite().double().mean() > 0.8
    with torch.no_grad():
        assert torch.equal(margins(model(found.inputs), y) < 0, found.distance.isfinite())


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("method", METHODS)
def test_an_example_does_not_know_of_its_batch(method, norm):
    model, generator = Rowwise(), torch.Generator().manual_seed(1)
    x = torch.rand(9, 4, 5, generator=generator, dtype=torch.float64)
    y = predicted(model, x)
    options = {"steps": 4} | ({"restarts": 2, "targets": 2} if method == "fab" else {})

    def run(rows: torch.Tensor):
        return minimal(model, x[rows], y[rows], norm, noise=KeyedNoise(3, "fab", rows), method=method, **options)

    whole = run(torch.arange(9))
    order = torch.randperm(9, generator=generator)
    for size in (1, 4):
        for rows in order.split(size):
            for part, all_rows in zip(run(rows), whole, strict=True):
                assert torch.equal(part, all_rows[rows])


class Broken(nn.Module):
    """Finite logits everywhere, but the gradient of an input is NaN where its first feature is below one half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        above = (x[:, 0] > 0.5).to(x.dtype)
        z = 10 * x[:, 1] - 4 + (above * (x[:, 0] - 0.5)).sqrt()
        return torch.stack([z, -z], dim=1)


@pytest.mark.parametrize("norm", ORDERS)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_that_are_not_finite_are_reported_and_stop_the_example(method, norm):
    x, y = torch.tensor([[0.9, 0.5], [0.2, 0.5], [0.9, 0.1]]), torch.zeros(3, dtype=torch.int64)
    found = minimal(Broken(), x, y, norm, noise=keyed(3), method=method)
    assert found.nonfinite[1]
    assert found.distance[1] == torch.inf
    assert torch.equal(found.inputs[1], x[1])
    assert found.backwards[1] == 1
    assert found.distance[0].isfinite() and found.inputs.isfinite().all()


def test_restarts_find_what_the_clean_point_does_not_lead_to(device):
    class Flat(nn.Module):
        """No slope within 0.1 of the centre, a boundary at 0.2."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = 0.1 - ((x - 0.5).abs().amax(dim=1) - 0.1).clamp(min=0)
            return torch.stack([z, -z], dim=1)

    x, y = torch.full((16, 2), 0.5, device=device), torch.zeros(16, dtype=torch.int64, device=device)
    noise = KeyedNoise(0, "fab", torch.arange(16, device=device))
    once, often = (nearest_by_fab(Flat(), x, y, "Linf", noise=noise, steps=20, restarts=r).distance for r in (1, 4))
    assert (once == torch.inf).all()
    assert ((often > 0.2 - 1e-6) & (often < 0.21)).all()


def test_an_unknown_norm_or_method_is_named(mlp, digits):
    x, y = digits.x[:1], digits.y[:1]
    with pytest.raises(UserError, match="norm"):
        minimal(mlp, x, y, "L3", noise=keyed(1))
    with pytest.raises(UserError, match="method"):
        minimal(mlp, x, y, "L2", noise=keyed(1), method="deepfol")  # pyright: ignore[reportArgumentType]
