"""Each trap of torchattacks has a test that fails where the adapter does not mind it."""

import math
import sys

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.upstream.torchattacks import complete_parameters, norms_of, torchattack, torchattack_names
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.evaluation.verdict import check, margins
from robust_lowrank.threat import L2, Linf

torchattacks = pytest.importorskip("torchattacks", reason="torchattacks is not installed")


def attack(model, x, y, threat, name, *, seed=0, batch_size=100, **parameters):
    return torchattack(Target(model, x), x, y, threat, name=name, parameters=parameters, seed=seed, batch_size=batch_size)


def right(model, digits, count):
    with torch.no_grad():
        rows = (model(digits.x).argmax(dim=1) == digits.y).nonzero().squeeze(1)[:count]
    return digits.x[rows], digits.y[rows]


@pytest.mark.parametrize(
    ("name", "threat", "parameters"),
    [
        ("PGD", Linf(0.2), {"alpha": 0.05}),
        ("MIFGSM", Linf(0.2), {"alpha": 0.05}),
        ("APGD", Linf(0.2), {"loss": "dlr"}),
        ("APGDT", Linf(0.2), {}),
        ("FAB", Linf(0.2), {}),
        ("Square", Linf(0.2), {"n_queries": 50}),
        ("PGDL2", L2(1.5), {"alpha": 0.4}),
        ("APGD", L2(1.5), {}),
        ("DeepFool", L2(1.5), {"overshoot": 0.5}),
        ("CW", L2(1.5), {"c": 5.0, "lr": 0.05}),
    ],
)
def test_attacks_by_name_find_what_the_check_confirms(mlp, digits, name, threat, parameters):
    x, y = right(mlp, digits, 8)
    attempt = attack(mlp, x, y, threat, name, **parameters)
    assert threat.contains(x, attempt.inputs).all()
    assert attempt.claimed.sum() >= 2
    assert torch.equal(check(mlp, x, y, attempt.inputs, threat).broken, attempt.claimed)
    assert not attempt.nonfinite.any()


def test_pgd_is_upstreams_own(mlp, digits):
    x, y = right(mlp, digits, 8)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        by_hand = torchattacks.PGD(mlp, eps=0.1, alpha=0.02, steps=7)(x, y)
    found = attack(mlp, x, y, Linf(0.1), "PGD", seed=3, alpha=0.02, steps=7)
    torch.testing.assert_close(found.inputs, by_hand, rtol=0, atol=1e-6)


def test_every_parameter_is_said():
    assert complete_parameters("PGD", {"steps": 40}, Linf(0.1)) == {"eps": 0.1, "alpha": 2 / 255, "steps": 40, "random_start": True}
    square = complete_parameters("Square", {}, L2(0.5), seed=7)
    assert (square["norm"], square["eps"], square["seed"], square["n_queries"], square["verbose"]) == ("L2", 0.5, 7, 5000, False)
    assert complete_parameters("PIFGSM", {}, Linf(0.1))["max_epsilon"] == 0.1


@pytest.mark.parametrize(("classes", "given"), [(4, 4), (10, 10), (1000, 10)])
def test_targeted_attacks_have_no_more_targets_than_there_are_classes(classes, given):
    assert complete_parameters("APGDT", {}, Linf(0.1), classes=classes)["n_classes"] == given
    assert complete_parameters("APGDT", {"n_classes": 3}, Linf(0.1), classes=classes)["n_classes"] == 3


@pytest.mark.parametrize(
    ("name", "threat", "parameters", "message"),
    [
        ("PGDL", Linf(0.1), {}, "unknown attack of torchattacks 'PGDL': did you mean 'PGDL2'?"),
        ("PGD", Linf(0.1), {"step": 3}, "unknown parameter of torchattacks PGD 'step': did you mean 'steps'?"),
        ("PGD", Linf(0.1), {"eps": 0.3}, "eps of torchattacks PGD comes from the evaluation"),
        ("APGD", Linf(0.1), {"seed": 3}, "seed of torchattacks APGD comes from the evaluation"),
        ("CW", Linf(0.1), {}, "torchattacks CW is an attack for L2, the evaluation's norm is Linf"),
        ("PGD", L2(0.1), {}, "torchattacks PGD is an attack for Linf, the evaluation's norm is L2"),
        ("OnePixel", L2(0.1), {}, "torchattacks OnePixel is an attack for L0"),
        ("MultiAttack", Linf(0.1), {}, "unknown attack of torchattacks 'MultiAttack'"),
        ("LGV", Linf(0.1), {}, "unknown attack of torchattacks 'LGV'"),
    ],
)
def test_what_does_not_fit_is_said(name, threat, parameters, message):
    with pytest.raises(UserError) as error:
        complete_parameters(name, parameters, threat)
    assert str(error.value).startswith(message)
    assert len(str(error.value).splitlines()) <= 3


def test_trap_its_autoattack_has_a_tenth_of_the_iterations():
    upstream = torchattacks.AutoAttack(nn.Linear(2, 10))
    assert {part.steps for part in list(upstream._autoattack._attacks.values())[:2]} == {10}
    assert "AutoAttack" not in torchattack_names()
    with pytest.raises(UserError, match=r"10 iterations where AutoAttack has 100.*\n.*pyautoattack"):
        complete_parameters("AutoAttack", {}, Linf(0.1))


def test_norms_are_those_that_upstream_documents():
    for name in torchattack_names():
        documented = (getattr(torchattacks, name).__doc__ or "").partition("Distance Measure :")[2].partition("\n")[0]
        if documented:
            assert set(documented.replace(" and ", ",").replace(" ", "").split(",")) == set(norms_of(name)), name


class Stateful(nn.Module):
    """A network without parameters' gradients in part, with dropout, and with one module in another mode than the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.linear = nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Linear(64, 10)
        self.train()
        self.norm.eval()
        self.linear.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.drop(self.norm(x)).flatten(1))


def test_trap_modes_flags_gradients_and_random_states_are_left_as_found(digits):
    model = Stateful()
    target = Target(model, digits.x)
    model.linear.weight.grad = gradient = torch.ones(10, 64)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = [
        torchattack(target, digits.x[:6], digits.y[:6], Linf(0.2), name=name, parameters={}, seed=0, batch_size=2)
        for name in ("PGD", "PGD", "Jitter")
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == [True, False, True, True]
    assert (model.linear.weight.requires_grad, model.linear.bias.requires_grad) == (True, False)
    assert model.linear.weight.grad is gradient
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(found[0].inputs, found[1].inputs)  # and without dropout


@pytest.mark.parametrize("name", ["DeepFool", "SPSA", "Square", "UPGD"])
def test_trap_attacks_without_a_parameter_repeat_themselves_and_another_seed_differs(mlp, digits, name):
    threat = L2(0.5) if name == "DeepFool" else Linf(0.2)
    x, y = right(mlp, digits, 6)
    extra = {"n_queries": 50} if name == "Square" else {"random_start": True} if name == "UPGD" else {}
    first, again, other = (attack(mlp, x, y, threat, name, seed=seed, **extra) for seed in (0, 0, 1))
    assert torch.equal(first.inputs, again.inputs)
    assert name == "DeepFool" or not torch.equal(first.inputs, other.inputs)


def test_trap_it_prints_and_warns(digits, capfd):
    class Fixed(nn.Module):
        """Without parameters upstream finds no device, and says so on stdout."""

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :10]

    attack(Fixed(), digits.x[:3], digits.y[:3], Linf(0.1), "PGD")
    attack(Fixed(), digits.x[:3], digits.y[:3], L2(0.1), "EADEN", binary_search_steps=1, max_iterations=10)
    assert capfd.readouterr() == ("", "")


def test_trap_nan_gradients_are_counted_and_are_not_a_success(digits):
    class Poisoned(nn.Module):
        """Its gradient is NaN where the first feature exceeds 0.5, its logits never."""

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            first = x.flatten(1)[:, :1]
            return self.linear(x.flatten(1)) + 0 * torch.sqrt(torch.where(first > 0.5, first - first.detach(), 1.0))

    torch.manual_seed(0)
    model, x = Poisoned(), 0.3 + 0.1 * torch.rand(6, 1, 8, 8)
    x[4:, 0, 0, 0] = 0.9
    y = model(x).argmax(dim=1)
    attempt = attack(model, x, y, Linf(0.01), "PGD")
    assert attempt.nonfinite.tolist() == [False] * 4 + [True] * 2
    assert not attempt.claimed[4:].any()
    assert attempt.inputs.isfinite().all()


@pytest.mark.parametrize("name", ["PGD", "APGD", "Square"])
@pytest.mark.parametrize("shape", [(64,), (4, 16), (1, 2, 4, 8)])
def test_trap_inputs_that_are_no_images_and_no_float32(mlp, digits, shape, name):
    model = nn.Sequential(nn.Flatten(), mlp).double()
    try:
        x, y = digits.x[:5].double().reshape(-1, *shape), digits.y[:5]
        attempt = attack(model, x, y, Linf(0.9), name, **({"alpha": 0.3} if name == "PGD" else {}))
        assert (attempt.inputs.shape, attempt.inputs.dtype) == (x.shape, torch.float64)
        assert attempt.claimed.all()
    finally:
        mlp.float()


def test_trap_attacks_for_three_channels_say_so_on_one(mlp, digits):
    with pytest.raises(UserError, match=r"torchattacks TIFGSM fails on images of shape \(1, 8, 8\)"):
        attack(mlp, digits.x[:2], digits.y[:2], Linf(0.1), "TIFGSM")


def test_evaluations_are_counted(mlp, digits):
    x, y = digits.x[:7], digits.y[:7]
    pgd = attack(mlp, x, y, Linf(0.1), "PGD", steps=6, batch_size=4)
    assert pgd.forwards.tolist() == pgd.backwards.tolist() == [6] * 7
    spsa = attack(mlp, x, y, Linf(0.1), "SPSA", nb_sample=8)
    assert spsa.forwards.tolist() == [16] * 7
    assert spsa.backwards.tolist() == [0] * 7


def test_minimal_attacks_beyond_the_budget_claim_nothing(mlp, digits):
    x, y = right(mlp, digits, 6)
    attempt = attack(mlp, x, y, L2(1e-4), "DeepFool")
    assert not attempt.claimed.any()
    assert L2(1e-4).contains(x, attempt.inputs).all()
    assert math.isfinite(float(attempt.inputs.sum()))


def test_trap_deepfool_stops_on_the_boundary_where_rounding_decides(mlp, digits):
    x, y = right(mlp, digits, 8)
    proposed = torchattacks.DeepFool(mlp)(x, y)
    with torch.no_grad():
        near = margins(mlp(proposed), y).abs() < 1e-4
    assert near.sum() >= 4  # its last steps are cut at the walls of [0, 1]
    attempt = attack(mlp, x, y, L2(3.0), "DeepFool")
    assert torch.equal(check(mlp, x, y, attempt.inputs, L2(3.0)).broken, attempt.claimed)
    assert attempt.claimed.sum() < 8 == attack(mlp, x, y, L2(3.0), "DeepFool", overshoot=0.5).claimed.sum()


def test_its_absence_is_said_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    with pytest.raises(UserError, match=r"torchattacks cannot be imported.*\npip install --no-deps torchattacks"):
        complete_parameters("PGD", {}, Linf(0.1))
