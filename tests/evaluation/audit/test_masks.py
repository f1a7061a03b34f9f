"""Deliberately masked networks: the audit fails or warns, and says why."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robust_lowrank.evaluation import BPDA, L1, L2, PGD, Attempt, HopSkipJump, Linf, Square, Suite, evaluate
from robust_lowrank.evaluation.attacks.fgsm import fgsm
from robust_lowrank.evaluation.attacks.pgd import pgd
from robust_lowrank.evaluation.audit import Evidence, audit, plant, probe
from robust_lowrank.evaluation.audit.probes import FEW
from robust_lowrank.evaluation.clean import examine
from robust_lowrank.threat import frozen_eval


class Masked(nn.Module):
    """A network behind something that hides its gradients or its weakness."""

    def __init__(self, model: nn.Module, change: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.model, x)


class Batch(nn.Module):
    """Normalises by the statistics of the batch, in evaluation mode as well."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.norm = model, nn.BatchNorm2d(1, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(0.4 * self.norm(x) + 0.3)


class Stubborn(nn.Sequential):
    """Stays in training mode."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(True)


def judged(model, digits, budget=Linf(0.1)) -> dict:  # noqa: B008
    with frozen_eval(model):
        clean = examine(model, digits.x[:50], digits.y[:50], twice=True)
        probes = probe(model, digits.x, digits.y, budget, seed=0)
    found = audit(Evidence(clean, 10, [], True, probes))
    assert all(finding.remedy or finding.status == "pass" for finding in found)
    return {finding.check: finding for finding in found}


@pytest.mark.parametrize("budget", [Linf(0.1), Linf(1 / 255), L2(0.5), L1(4.0)], ids=str)
def test_an_honest_network_passes_every_check(cnn, digits, budget):
    assert [finding.check for finding in judged(cnn, digits, budget).values() if finding.status != "pass"] == []


MASKS = {
    "quantised input": (lambda m, x: m((x * 8).round() / 8), ["zero gradients", "smooth in the input", "eps to the limit"]),
    "quantised layer": (lambda m, x: (4 * m(x)).round() / 4, ["zero gradients", "smooth in the input"]),
    "saturated logits": (lambda m, x: 1e4 * m(x), ["zero gradients", "saturated gradients", "logit scale", "eps to the limit"]),
    "temperature": (lambda m, x: m(x) / 1e-3, ["saturated gradients", "logit scale"]),
    "noise": (lambda m, x: m(x + 0.1 * torch.randn_like(x)), ["deterministic"]),
    "dropout": (lambda m, x: m(functional.dropout(x, 0.3, training=True)), ["deterministic"]),
    "root of 0": (lambda m, x: m(x + 0 * (x - x).sqrt()), ["finite"]),
    "0 times infinity": (lambda m, x: m(x) + 0 * torch.where(x > 0.5, torch.inf, x).sum(), ["finite"]),
    "softmax": (lambda m, x: m(x).softmax(dim=1), ["logits"]),
    "blind": (lambda m, x: m(0 * x), ["inputs", "zero gradients", "eps to the limit"]),
    "detached": (lambda m, x: m(x.detach()) + 0 * x.sum(), ["zero gradients", "gradient direction", "eps to the limit"]),
    "shattered": (lambda m, x: m(x + 0.05 * torch.sin(1000 * x)), ["gradient direction", "eps to the limit"]),
    "expects bytes": (lambda m, x: m(x / 255), ["inputs"]),
}  # fmt: skip


@pytest.mark.parametrize("name", MASKS)
def test_a_masked_network_fails_for_the_right_reason(cnn, digits, name):
    change, reasons = MASKS[name]
    found = judged(Masked(cnn, change), digits)
    assert {reason: found[reason].status for reason in reasons} == dict.fromkeys(reasons, "fail")


def test_statistics_of_the_batch_fail(cnn, digits):
    found = judged(Batch(cnn), digits)
    assert found["batch"].status == "fail"
    assert found["deterministic"].status == "pass"


def test_a_module_that_stays_in_training_mode_fails(cnn, digits):
    finding = judged(nn.Sequential(Stubborn(nn.Dropout(0.0)), cnn), digits)["evaluation mode"]
    assert finding.status == "fail"
    assert finding.message.startswith("2 modules") and ": 0, 0.0" in finding.message


def test_a_rugged_layer_is_seen_by_transfer_from_the_smoothed_network(cnn, digits):
    found = judged(Masked(cnn, lambda m, x: m(x + 0.04 * torch.sin(200 * x))), digits)
    assert found["PGD against transfer"].status != "pass"


PURIFIERS = {
    "all but a tenth": lambda m, x: m(0.9 * x.detach() + 0.1 * x),
    "half": lambda m, x: m(0.5 * x.detach() + 0.5 * x),
    "what is smooth": lambda m, x: m(0.5 * functional.avg_pool2d(x, 3, 1, 1).detach() + 0.5 * x),
    "the upper half": lambda m, x: m(torch.cat([x[:, :, :4].detach(), x[:, :, 4:]], dim=2)),
}


@pytest.mark.parametrize("budget", [Linf(0.1), Linf(1 / 255), L2(0.5), L1(4.0)], ids=str)
@pytest.mark.parametrize("name", PURIFIERS)
def test_a_partly_detached_purifier_has_slopes_that_its_gradient_does_not_know(cnn, digits, name, budget):
    finding = judged(Masked(cnn, PURIFIERS[name]), digits, budget)["gradient slope"]
    assert finding.status == "fail"


HONEST = {
    "clamped": lambda m, x: m(BPDA(lambda x: x.clamp(0, 1))(x)),
    "tiny logits": lambda m, x: m(x) / 1000 + 1,
}


@pytest.mark.parametrize("search", [Square(queries=300, name="mine"), HopSkipJump(steps=4, name="mine")])
def test_a_search_without_gradients_is_known_under_any_name(cnn, digits, search):
    suite = Suite(name="s", norm="L2", eps=(1.5,), attacks=(PGD(steps=5), search))
    result = evaluate(Masked(cnn, MASKS["quantised input"][0]), digits.x[:40], digits.y[:40], suite=suite)
    gains = [finding for finding in result.audit if finding.check.endswith("'s gain")]
    assert [finding.status for finding in gains] == ["fail"]


@pytest.mark.parametrize("budget", [Linf(0.05), Linf(0.3), Linf(1e-4), L2(0.5), L2(3.0), L1(0.01), L1(12.0)], ids=str)
@pytest.mark.parametrize("name", HONEST)
def test_neither_walls_nor_rounding_nor_large_radii_bend_slopes(cnn, digits, name, budget):
    assert judged(Masked(cnn, HONEST[name]), digits, budget)["gradient slope"].status == "pass"


def test_gradients_of_the_wrong_sign_lose_against_noise(cnn, digits):
    def flip(m: nn.Module, x: Tensor) -> Tensor:
        straight = x.detach()
        return m(straight - (x - straight))

    found = judged(Masked(cnn, flip), digits, Linf(0.5))
    assert found["gradient direction"].status == "fail"
    assert found["PGD against noise"].status != "pass"


def test_inputs_of_a_narrow_range_are_reported(cnn, digits):
    class Narrow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return cnn((x - 0.4) / 0.2)

    finding = judged(Narrow(), digits._replace(x=0.4 + 0.2 * digits.x))["inputs"]
    assert finding.status == "warn" and "[0.4, 0.6]" in finding.message


def test_probes_are_the_same_in_any_batches_and_bounded_in_cost(cnn, digits):
    rows: list[int] = []
    handle = cnn.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    whole = probe(cnn, digits.x, digits.y, Linf(0.1), seed=0, count=6)
    handle.remove()
    assert sum(rows) <= 6 * 300
    parts = probe(cnn, digits.x, digits.y, Linf(0.1), seed=0, count=6, batch_size=4)
    assert all(torch.equal(one, other) for one, other in zip(whole.attacked, parts.attacked, strict=True))


def test_without_correct_examples_only_the_look_ups_are_judged(cnn, digits):
    wrong = digits._replace(y=(cnn(digits.x).argmax(dim=1) + 1) % 10)
    found = judged(cnn, wrong)
    assert {"inputs", "batch", "evaluation mode", "planted examples"} <= set(found)
    assert "logit scale" not in found and "eps to the limit" not in found


def test_the_runner_hands_over_its_probes(cnn, digits):
    suite = Suite(name="s", eps=(0.05, 0.1), attacks=(PGD(steps=3),))
    result = evaluate(Masked(cnn, MASKS["temperature"][0]), digits.x[:60], digits.y[:60], suite=suite)
    assert next(finding for finding in result.audit if finding.check == "logit scale").status == "fail"


def climb(model, x, y, threat) -> Attempt:
    return pgd(model, x, y, threat, starts=[x], steps=FEW, step_size=2.5 * threat.eps / FEW)


@pytest.mark.parametrize("engine", [fgsm, climb])
@pytest.mark.parametrize("budget", [Linf(8 / 255), Linf(1.0), L2(0.5)], ids=str)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 7), (20,)], ids=str)
@pytest.mark.parametrize("classes", [2, 10])
def test_what_can_be_broken_is_and_nothing_else(engine, budget, shape, classes, device):
    case = plant("it", engine, torch.rand(2, *shape, device=device), classes, budget)
    assert (case.broken, case.breakable, case.claimed, case.safe) == (6, 6, 0, 6)


def test_an_engine_that_finds_nothing_or_lies_fails_on_planted_examples(cnn, digits):
    def idle(model, x, y, threat) -> Attempt:
        none = torch.zeros_like(y, dtype=torch.bool)
        return Attempt(x, none, none, torch.zeros_like(y), torch.zeros_like(y))

    def liar(model, x, y, threat) -> Attempt:
        attempt = climb(model, x, y, threat)
        return attempt._replace(claimed=torch.ones_like(attempt.claimed))

    for engine, message in ((idle, "idle broke 0 of 6"), (liar, "and 6 of 6 that cannot")):
        probes = probe(cnn, digits.x, digits.y, Linf(0.1), seed=0, count=5, engines={engine.__name__: engine})
        clean = examine(cnn, digits.x[:5], digits.y[:5], twice=False)
        finding = next(one for one in audit(Evidence(clean, 10, [], True, probes)) if one.check == "planted examples")
        assert finding.status == "fail" and message in finding.message
