"""What the audit reads from ledgers, made by hand, and from probes near their limits."""

import pytest
import torch

from robust_lowrank.evaluation import evaluate
from robust_lowrank.evaluation.audit import Evidence, Planted, Probes, audit
from robust_lowrank.evaluation.audit.fidelity import published
from robust_lowrank.evaluation.audit.probes import Attacked
from robust_lowrank.evaluation.clean import Clean
from robust_lowrank.evaluation.ledger import Ledger

COUNT = 100


def clean() -> Clean:
    labels, no, yes = torch.zeros(COUNT, dtype=torch.int64), torch.zeros(COUNT).bool(), torch.ones(COUNT).bool()
    return Clean(labels, labels.clone(), torch.ones(COUNT).double(), yes, yes, no, False, True)


def ledger(attack: str, broken: int, *, eps: float = 0.1, square: int = 0, engine: str = "native") -> Ledger:
    """Return a ledger in which the first examples are broken, the last of these by Square."""
    made = Ledger(attack, engine, eps, True, clean())
    made.broken[:broken] = True
    for row in range(broken):
        made.flags[row].append("by=square" if row >= broken - square else "by=apgd-ce")
    return made


def found(*ledgers: Ledger, classes: int = 10, probes: Probes | None = None) -> dict:
    return {finding.check: finding for finding in audit(Evidence(clean(), classes, ledgers, True, probes))}


def test_checks_with_nothing_to_look_at_are_left_out():
    assert set(found()) == {"finite", "zero gradients", "logits", "deterministic", "unchanged weights", "claims"}


@pytest.mark.parametrize("blind", ["random-noise-100", "transfer"])
def test_attacks_with_gradients_find_what_attacks_without_do(blind):
    assert found(ledger("pgd-20", 30), ledger(blind, 29))["gradients against none"].status == "pass"
    finding = found(ledger("fgsm", 5), ledger("pgd-20", 30), ledger(blind, 40))["gradients against none"]
    assert finding.status == "fail"
    assert f"{blind} leaves 60, the best of them 70 at eps 0.1" in finding.message
    assert "gradients against none" not in found(ledger("pgd-20", 30), ledger(blind, 40, eps=0.2))
    assert "gradients against none" not in found(ledger("square", 30), ledger(blind, 40))


@pytest.mark.parametrize(("gain", "status"), [(0, "pass"), (1, "pass"), (3, "warn"), (5, "fail")])
def test_gain_of_square(gain, status):
    for ledgers in (
        [ledger("autoattack", 40, square=gain, engine="pyautoattack")],
        [ledger("aa-native", 40, square=gain)],
        [ledger("pgd-20", 40 - gain), ledger("square", 40)],
        [ledger("pgd-20", 40, eps=0.2), ledger("pgd-20", 40 - gain), ledger("square", 40)],
    ):
        finding = found(*ledgers)["Square's gain"]
        assert finding.status == status
        assert f"{gain} examples at eps 0.1" in finding.message


def test_gain_of_square_needs_both():
    assert "Square's gain" not in found(ledger("square", 40))
    assert "Square's gain" not in found(ledger("pgd-20", 40))
    assert "Square's gain" not in found(ledger("apgd-ce+apgd-t+fab-t", 40, engine="pyautoattack"))
    assert "Square's gain" in found(ledger("apgd-ce+fab-t+square", 40, engine="pyautoattack"))


def test_what_another_ledger_takes_over_from_square_is_still_square_s():
    first, late = ledger("autoattack", 40, square=10), ledger("pgd-20-on-survivors", 0)
    first.inputs = {row: torch.zeros(1) for row in range(40)}
    late.inherit(first, "by=autoattack")
    assert found(first, late)["Square's gain"].status == "fail"
    assert found(first, ledger("pgd-20", 40))["Square's gain"].status == "pass"


@pytest.mark.parametrize(
    ("name", "classes", "forwards", "backwards", "status"),
    [
        ("autoattack", 10, 7888, 1910, "pass"),  # counted with pyautoattack 0.2.0
        ("autoattack-4-targets", 5, 6363, 905, "pass"),
        ("aa-native", 100, 7888, 1910, "pass"),
        ("autoattack", 10, 7888, 1000, "fail"),
        ("autoattack", 10, 2888, 1910, "fail"),
        ("aa-native", 10, 6363, 905, "fail"),
    ],
)
def test_what_bears_the_name_cost_what_it_implies(name, classes, forwards, backwards, status):
    made = ledger(name, 40)
    made.forwards[40:], made.backwards[40:] = forwards, backwards
    assert found(made, classes=classes)["pass counts"].status == status


def test_pass_counts_of_other_attacks_are_their_own():
    assert "pass counts" not in found(ledger("pgd-20", 40), ledger("apgd-ce+fab-t+square", 40))
    assert "pass counts" not in found(ledger("autoattack", COUNT))
    assert "pass counts" not in found(ledger("aa-fast", 40))
    assert published(10).backwards == 1910


@pytest.mark.parametrize("classes", [2, *(pytest.param(each, marks=pytest.mark.slow) for each in (3, 4))])
def test_an_honest_network_of_few_classes_costs_what_is_implied(classes):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, classes)).eval()
    x = torch.rand(3, 1, 4, 4)
    result = evaluate(net, x, net(x).argmax(1), suite="aa-native", eps=1e-4)  # which breaks none of them
    assert float(result.robust_accuracy) == 1
    (counts,) = [check for check in result.audit if check.check == "pass counts"]
    assert counts.status == "pass", counts.message


def honest(**changes: torch.Tensor) -> Probes:
    yes, no = torch.ones(50).bool(), torch.zeros(50).bool()
    attacked = Attacked(yes, yes, yes, yes, yes, yes, no, yes, yes, yes, no, no, no)._replace(**changes)
    return Probes(0.1, 1.0, attacked, 50, {"as they are": 50}, 0.0, 1.0, False, 0.0, (), (Planted("pgd", 6, 6, 6, 0),))


def without(count: int) -> torch.Tensor:
    return torch.arange(50) >= count


@pytest.mark.parametrize(("count", "status"), [(0, "pass"), (2, "pass"), (5, "warn"), (10, "fail")])
@pytest.mark.parametrize(
    ("check", "field"),
    [
        ("monotone in steps", "few"),
        ("restarts", "restarted"),
        ("logit scale", "rescaled"),
        ("PGD against transfer", "transferred"),
        ("PGD against noise", "noise"),
    ],
)
def test_a_weaker_attack_that_finds_more_is_reported(check, field, count, status):
    finding = found(probes=honest(**{field: without(count)}))[check]
    assert finding.status == status
    assert f"{count} of 50" in finding.message


@pytest.mark.parametrize(
    ("check", "field", "value", "status"),
    [
        ("eps to the limit", "far", ~without(1), "warn"),
        ("eps to the limit", "far", ~without(5), "fail"),
        ("gradient direction", "downhill", without(2), "pass"),
        ("gradient direction", "downhill", without(6), "warn"),
        ("gradient slope", "along", without(4), "pass"),
        ("gradient slope", "along", without(11), "warn"),
        ("gradient slope", "aside", without(17), "fail"),
        ("saturated gradients", "saturated", ~without(30), "warn"),
        ("saturated gradients", "saturated", ~without(20), "pass"),
        ("saturated gradients", "vanished", ~without(20), "fail"),
        ("smooth in the input", "flat", ~without(2), "pass"),
        ("smooth in the input", "flat", ~without(5), "warn"),
    ],
)
def test_limits_of_the_other_probes(check, field, value, status):
    assert found(probes=honest(**{field: value}))[check].status == status
