"""Goals, randomised and non-differentiable defences, radii and masks of each example, and losses of one's own."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import (
    APGD,
    BPDA,
    FAB,
    FGSM,
    L1,
    L2,
    PGD,
    AutoAttack,
    Expected,
    KeyedNoise,
    Linf,
    Masked,
    RandomNoise,
    Toward,
    Transfer,
    apgd,
    attack_each,
    evaluate,
    pgd,
    verify,
)

PATCH = torch.zeros(1, 8, 8, dtype=torch.bool)
PATCH[:, 2:5, 3:7] = True


def linear(classes: int = 4) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    model[1].bias.data = -model[1].weight.data.sum(dim=1) / 2
    return model


def examples(model: nn.Module, count: int = 40) -> tuple[Tensor, Tensor]:
    x = 0.5 + 0.05 * torch.randn(count, 1, 8, 8)
    return x, model(x).argmax(dim=1)


def test_a_goal_is_reached_where_the_closed_form_says_so() -> None:
    model = linear(2)
    x, y = examples(model)
    others = y != 1
    goal, x, y = Toward(model, 1), x[others], y[others]
    weight, logits = model[1].weight.detach(), model(x).detach()
    distance = (logits[:, 0] - logits[:, 1]) / (weight[1] - weight[0]).norm()
    eps = float(distance.median()) * 1.0001
    result = evaluate(goal, x, goal.labels(y), suite="quick", norm="L2", eps=eps)
    broken = result.verdicts[result.verdicts["attack"] == "pgd-20"]["verdict"] == "broken"
    clear = (distance / eps - 1).abs() > 0.02
    assert torch.tensor(broken.to_numpy())[clear].tolist() == (distance < eps)[clear].tolist()
    assert 3 < int(broken.sum()) < len(y) - 3
    assert verify(goal, x, goal.labels(y), result.record, result.verdicts, result.adversarial, result.closest).sound


@pytest.mark.slow
def test_a_goal_is_harder_than_any_other_class(cnn: nn.Module, digits: Any) -> None:
    x, y = digits.x[:60], digits.y[:60]
    rows = y != 3
    goal = Toward(cnn, 3)
    result = evaluate(goal, x[rows], goal.labels(y[rows]), suite="aa-native", eps=0.15, audit=False)
    for found in result.adversarial.values():
        assert (cnn(found.inputs).argmax(dim=1) == 3).all()
    free = evaluate(cnn, x[rows], y[rows], suite="aa-native", eps=0.15, audit=False)
    assert float(free.robust_accuracy) < float(result.robust_accuracy) < 1
    with pytest.raises(UserError, match="leave those out"):
        goal.labels(y)
    with pytest.raises(UserError, match="classes 0 to 9"):
        Toward(cnn, 10)(x)


class Noisy(nn.Module):
    def __init__(self, network: nn.Module, size: float) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + self.size * torch.randn_like(x) + self.size * random.random())


@pytest.mark.slow
def test_a_randomised_network_is_judged_by_its_mean(cnn: nn.Module, digits: Any) -> None:
    x, y = digits.x[:24], digits.y[:24]
    mean = Expected(Noisy(cnn, 0.2), draws=8)
    states = torch.get_rng_state(), random.getstate()
    logits = mean(x)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert torch.equal(mean(x[5:6]), logits[5:6])  # whatever else is in the batch, and each time
    result = evaluate(mean, x, y, suite="quick", eps=0.1)
    assert {finding.check: finding.status for finding in result.audit}["batch"] == "pass"
    assert not [finding.message for finding in result.audit if finding.status == "fail"]
    assert float(result.robust_accuracy) < float(result.clean_accuracy)
    assert verify(mean, x, y, result.record, result.verdicts, result.adversarial, result.closest).sound
    with pytest.raises(UserError, match="at least 1"):
        Expected(cnn, draws=0)


def test_the_gradient_of_a_mean_is_the_mean_of_gradients() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + torch.randn_like(x)) ** 2

    x = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(Expected(Square(), draws=20_000)(x).sum(), x)
    assert float(gradient.abs().max()) < 0.06  # 2 E[noise], whose deviation is 0.014


def test_a_layer_that_rounds_is_attacked_through_a_stand_in(cnn: nn.Module, digits: Any) -> None:
    x, y = digits.x[:40], digits.y[:40]

    def levels(x: Tensor) -> Tensor:
        return (8 * x).round() / 8

    plain = nn.Sequential(BPDA(levels), cnn)
    point = x.clone().requires_grad_()
    assert torch.equal(plain(point), cnn(levels(x)))
    (gradient,) = torch.autograd.grad(plain(point).sum(), point)
    rounded = levels(x).requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(cnn(rounded).sum(), rounded)[0])
    doubled = BPDA(levels, lambda x: x**2)
    (gradient,) = torch.autograd.grad(doubled(point).sum(), point)
    torch.testing.assert_close(gradient, 2 * x)

    class Rounded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = cnn

        def forward(self, x: Tensor) -> Tensor:
            return self.network(levels(x))

    masked, seen = (evaluate(model, x, y, suite="quick", eps=0.15) for model in (Rounded(), plain))
    assert float(seen.robust_accuracy) < float(masked.robust_accuracy) - 0.2
    assert any(finding.status == "fail" for finding in masked.audit)
    statuses = {finding.check: finding.status for finding in seen.audit}
    assert statuses["gradient direction"] != "fail"


@pytest.mark.parametrize("attack", [FGSM(), PGD(steps=40), APGD(steps=30), RandomNoise(draws=10)], ids=lambda attack: attack.label)
@pytest.mark.parametrize("base", [Linf(0.3), L2(0.5), L1(2.0)], ids=lambda base: base.norm)
def test_what_the_mask_forbids_stays_as_it_is(attack: Any, base: Any, cnn: nn.Module, digits: Any) -> None:
    x, y = digits.x[:20], digits.y[:20]
    masked = Masked(base, PATCH)
    found = attack.attempt(cnn, x, y, masked, KeyedNoise(0, attack.purpose, torch.arange(20))).inputs
    assert masked.contains(x, found).all()
    assert torch.equal(found[:, ~PATCH], x[:, ~PATCH])
    assert not torch.equal(found[:, PATCH], x[:, PATCH])


def test_each_example_has_its_own_radius_and_mask() -> None:
    model = linear()
    x, y = examples(model, 30)
    masks = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.3
    weight, logits = model[1].weight.detach(), model(x).detach()
    slopes = ((weight[y][:, None] - weight) * masks.flatten(1)[:, None]).abs().sum(dim=2)
    every = (logits.gather(1, y[:, None]) - logits) / slopes
    distance = every.scatter(1, y[:, None], torch.inf).amin(dim=1).double()
    near = torch.where(torch.arange(30) % 2 == 0, 0.97, 1.03) * distance
    assert (near < 0.3).all()  # no face of [0, 1] is met
    each = attack_each(model, x, y, PGD(steps=40, loss="margin"), norm="Linf", eps=near, masks=masks)
    assert each.broken[1::2].double().mean() > 0.9
    assert not each.broken[::2].any()
    assert (each.distance <= near).all()
    assert torch.equal(each.inputs[~masks], x[~masks])
    one = attack_each(model, x, y, PGD(steps=5), norm="Linf", eps=0.05)
    same = evaluate(model, x, y, suite=suite_of(PGD(steps=5)), eps=0.05, audit=False)
    assert one.broken.tolist() == (same.verdicts["verdict"] == "broken").tolist()
    torch.testing.assert_close(one.margin, torch.tensor(same.verdicts["margin"].to_numpy()))


def suite_of(attack: Any) -> Any:
    from robust_lowrank.evaluation import Suite

    return Suite(name="one", eps=(0.1,), attacks=(attack,))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"eps": torch.ones(3) / 9}, "one for each of 4"),
        ({"eps": 2.0}, "outside the range of Linf"),
        ({"eps": 0.1, "masks": torch.ones(2, 2, dtype=torch.bool)}, "masks have shape"),
        ({"eps": 0.1, "masks": torch.zeros(1, 8, 8, dtype=torch.bool)}, "somewhere at least"),
        ({"eps": 0.1, "masks": torch.ones(1, 8, 8)}, "bool tensor"),
        ({"eps": 0.1, "masks": PATCH, "attack": FAB()}, "keeps to no mask"),
        ({"eps": 0.1, "attack": Transfer()}, "take a native attack"),
        ({"eps": 0.1, "attack": AutoAttack()}, "take a native attack"),
        ({"eps": "8/x"}, "is not a number"),
    ],
)
def test_radii_and_masks_that_do_not_fit_are_refused(options: dict[str, Any], said: str) -> None:
    model = linear()
    x, y = examples(model, 4)
    with pytest.raises(UserError, match=said):
        attack_each(model, x, y, options.pop("attack", PGD(steps=2)), norm="Linf", **options)


def test_what_is_wrong_already_is_broken_and_radii_may_be_told_in_any_form() -> None:
    model = linear()
    x, y = examples(model, 6)
    y[:2] = (y[:2] + 1) % 4
    for eps in (0.01, "1/100", [0.01] * 6, torch.full((6,), 0.01)):
        with torch.inference_mode():
            each = attack_each(model, x.clone(), y.clone(), RandomNoise(draws=1), norm="Linf", eps=eps)
        assert each.broken[:2].all()


def test_wrappers_take_what_evaluations_take() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.sub_(0.5))

    model, x = InPlace(), torch.rand(3, 4)
    logits = Expected(Toward(model, 1), draws=3)(x.clone())
    torch.testing.assert_close(logits[:, 1], model(x.clone()).squeeze(1))
    assert (logits[:, 0] == 0).all()


def test_losses_by_name_and_of_ones_own(cnn: nn.Module, digits: Any) -> None:
    x, y = digits.x[:40], digits.y[:40]
    noise = KeyedNoise(0, "pgd", torch.arange(40))
    assert PGD(loss="margin").label == "pgd-20-margin"
    named = PGD(loss="margin", random_start=False).attempt(cnn, x, y, Linf(0.1), noise)

    def own(logits: Tensor, y: Tensor) -> Tensor:
        others = logits.scatter(1, y[:, None], -torch.inf)
        return others.amax(dim=1) - logits.gather(1, y[:, None]).squeeze(1)

    mine = pgd(cnn, x, y, Linf(0.1), starts=[x], steps=20, step_size=2.5 * 0.1 / 20, loss=own)
    assert torch.equal(named.inputs, mine.inputs)
    with pytest.raises(UserError, match="gives each of 40 examples a number"):
        apgd(cnn, x, y, Linf(0.1), noise=noise, loss=lambda logits, y: own(logits, y).mean())
    assert apgd(cnn, x, y, Linf(0.1), noise=noise, steps=20, loss=own).claimed.double().mean() > 0.3


def test_the_best_input_of_what_is_not_broken_is_kept_and_proved(cnn: nn.Module, digits: Any, tmp_path: Any) -> None:
    from robust_lowrank.evaluation import read_adversarial

    x, y = digits.x[:50], digits.y[:50]
    result = evaluate(cnn, x, y, suite="quick", eps=0.08, audit=False, offset=10)
    result.save(tmp_path)
    stored = read_adversarial(tmp_path / "closest.safetensors")
    assert stored.keys() == result.adversarial.keys()
    for key, found in stored.items():
        attack, _, eps = key.rpartition("/")
        part = result.verdicts[(result.verdicts["attack"] == attack) & (result.verdicts["eps"] == float(eps))]
        robust = part[part["verdict"] == "robust"]
        assert found.examples.tolist() == robust["example"].tolist()
        rows = found.examples - 10
        assert Linf(0.08).contains(x[rows], found.inputs).all()
        logits = cnn(found.inputs)
        margin = logits.gather(1, y[rows][:, None]).squeeze(1) - logits.scatter(1, y[rows][:, None], -torch.inf).amax(dim=1)
        torch.testing.assert_close(margin.detach().double(), torch.tensor(robust["margin"].to_numpy()), rtol=1e-4, atol=1e-5)
    given = (cnn, x, y, result.record, result.verdicts, result.adversarial)
    assert verify(*given, stored).sound
    assert any("no verdict is of" in fault for fault in verify(*given, stored | {"other/0.1": stored["pgd-20/0.08"]}).faults)
    broken = result.verdicts["verdict"] == "broken"
    forged = result.verdicts.assign(verdict=result.verdicts["verdict"].where(~broken, "robust"))
    assert any("its margin is negative" in fault for fault in verify(*given[:4], forged, given[5], stored).faults)
    key = "pgd-20/0.08"
    for change in (stored[key].inputs + 0.2, x[stored[key].examples - 10]):
        edited = stored | {key: stored[key]._replace(inputs=change.clamp(0, 1))}
        assert any("the most harmful input of example" in fault for fault in verify(*given, edited).faults)
