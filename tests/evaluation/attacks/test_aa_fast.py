"""The bounded ensemble finds what `aa-native` finds on its sample, and its limit holds for what that finds elsewhere."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import (
    APGD,
    FAB,
    PGD,
    AAFast,
    AANative,
    Square,
    Suite,
    completed,
    evaluate,
    load_suite,
    verify,
)
from robust_lowrank.evaluation.attacks.aa_fast import _nearest_classes
from robust_lowrank.evaluation.attacks.gradients import probability_margin
from robust_lowrank.evaluation.attacks.search import Search
from robust_lowrank.evaluation.run import Run
from robust_lowrank.evaluation.sample import Account, hidden_by, hidden_in_worst
from robust_lowrank.statistics import most_in_population

EPS = 0.12
PARTS = (APGD(steps=8), APGD(loss="targeted-dlr", steps=6, targets=3), FAB(steps=3, targets=3), Square(queries=40))
WEAK = AAFast(steps=1, targets=1, share=0.3)  # so that the parts on its sample find something


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(AANative, "parts", staticmethod(lambda classes, norm: PARTS))


@pytest.fixture(scope="module")
def defended(digits) -> nn.Module:
    """A network that is trained on what single steps find."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(8):
        for rows in torch.randperm(len(digits.train_x)).split(64):
            x, y = digits.train_x[rows], digits.train_y[rows]
            leaf = (x + EPS * (2 * torch.rand_like(x) - 1)).clamp(0, 1).requires_grad_()
            (gradient,) = torch.autograd.grad(functional.cross_entropy(model(leaf), y), leaf)
            moved = torch.clamp(leaf.detach() + EPS * gradient.sign(), x - EPS, x + EPS).clamp(0, 1)
            optimizer.zero_grad()
            functional.cross_entropy(model(moved), y).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def suite(*attacks) -> Suite:
    return Suite(name="s", eps=(EPS,), attacks=attacks)


def held(result, attack: str) -> Tensor:
    frame = result.verdicts[result.verdicts["attack"] == attack]
    return torch.tensor((frame["verdict"] == "robust").to_numpy())


def flagged(result, flag: str) -> Tensor:
    return torch.tensor([flag in flags.split(",") for flags in result.verdicts["flags"][: len(result.clean.examples)]])


def test_the_sample_is_attacked_by_all_of_the_ensemble_and_the_others_are_not(defended, digits):
    x, y = digits.x[:60], digits.y[:60]
    fast = evaluate(defended, x, y, suite=suite(WEAK), audit=False)
    full = evaluate(defended, x, y, suite=suite(AANative()), audit=False)
    sampled, left = flagged(fast, "sampled"), held(fast, "aa-fast")
    assert 0 < sampled.sum() < left.sum()
    assert torch.equal(left[sampled], held(full, "aa-native")[sampled])  # the same noise, the same verdicts
    spent = torch.tensor(fast.verdicts["forwards"].to_numpy())
    assert spent[~sampled].max() < spent[sampled & left].min()


@pytest.mark.slow
def test_the_limit_covers_what_the_ensemble_finds(defended, digits, monkeypatch):
    x, y = digits.x[:150], digits.y[:150]
    stands = held(evaluate(defended, x, y, suite=suite(AANative()), audit=False), "aa-native")

    def known(self, search, chosen, model, threat, noise):
        search.broken |= chosen & ~stands[noise.rows]
        search.best[chosen & ~stands[noise.rows]] = 1 - x[noise.rows[chosen & ~stands[noise.rows]]]

    monkeypatch.setattr(AANative, "search", known)
    monkeypatch.setattr("robust_lowrank.evaluation.run.check", _believing)
    covered, missed = 0, 0
    for seed in range(100):
        found = evaluate(defended, x, y, suite=suite(WEAK), audit=False, seed=seed)
        worst, left = found.record.accuracies[-1], held(found, "aa-fast")
        assert worst.hidden is not None
        would_break = int((left & ~stands).sum())
        covered += worst.hidden >= would_break
        missed += would_break
    assert covered >= 95
    assert missed > 100  # there is something to bound


def _believing(model, x, candidates_of, candidates, threat):
    """Return a check that takes inputs outside the threat model for what they claim: nothing is attacked here."""
    from robust_lowrank.evaluation.verdict import check

    found = check(model, x, candidates_of, candidates, threat)
    return found._replace(broken=found.broken | ((candidates - x).flatten(1).abs().amax(dim=1) > 2 * threat.eps))


def test_completing_finds_what_the_ensemble_finds_and_tries_nothing_again_that_is_broken(defended, digits, tmp_path, monkeypatch):
    x, y = digits.x[:60], digits.y[:60]
    fast = evaluate(defended, x, y, suite=suite(WEAK), audit=False, store=tmp_path, batch_size=20)
    full = evaluate(defended, x, y, suite=suite(AANative()), audit=False)
    tried: dict[str, list[int]] = {}
    find = Run.find

    def counted(run, unit, rows, *rest):
        tried.setdefault(unit.name, []).extend(rows.tolist())
        return find(run, unit, rows, *rest)

    monkeypatch.setattr(Run, "find", counted)
    whole = evaluate(defended, x, y, suite=completed(suite(WEAK)), audit=False, store=tmp_path, batch_size=20)
    assert list(tried) == ["aa-native-on-survivors"]
    assert sorted(tried["aa-native-on-survivors"]) == held(fast, "aa-fast").nonzero().flatten().tolist()
    assert torch.equal(held(whole, "aa-native-on-survivors"), held(fast, "aa-fast") & held(full, "aa-native"))
    assert whole.record.accuracies[-1].hidden is None
    assert whole.record.accuracies[1] == fast.record.accuracies[1]


def test_a_result_says_its_limit_and_is_verified(defended, digits):
    x, y = digits.x[:40], digits.y[:40]
    found = evaluate(defended, x, y, suite=suite(PGD(steps=3), WEAK), audit=False)
    pgd, fast, worst = found.record.accuracies[1:]
    assert pgd.hidden is None
    assert worst.hidden is not None
    assert worst.hidden == fast.hidden
    assert worst.least == (worst.correct - worst.hidden) / 40
    assert verify(defended, x, y, found.record, found.verdicts, found.adversarial, found.closest).sound
    other = [entry.model_copy(update={"hidden": 0}) if entry == fast else entry for entry in found.record.accuracies]
    lying = found.record.model_copy(update={"accuracies": other})
    faults = verify(defended, x, y, lying, found.verdicts, found.adversarial, found.closest).faults
    assert any("the sample gives a limit" in fault for fault in faults)


def test_the_sample_at_one_eps_says_nothing_of_that_at_another(defended, digits):
    several = Suite(name="s", eps=(0.04, 0.05), attacks=(WEAK,))
    found = evaluate(defended, digits.x[:60], digits.y[:60], suite=several, audit=False).verdicts
    small, large = (set(part.loc[part["flags"].str.contains("sampled"), "example"]) for _, part in found.groupby("eps"))
    assert small != large


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_networks_of_few_classes(classes):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, classes)).eval()
    x = torch.rand(12, 1, 8, 8)
    found = evaluate(net, x, net(x).argmax(1), suite=suite(AAFast(steps=3, share=0.5)), audit=False)
    assert found.record.accuracies[-1].hidden is not None


def test_the_nearest_class_comes_first_on_a_linear_network():
    w = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.5, 0.5], [-9.0, 9.0]])
    linear = nn.Linear(2, 4, bias=False)
    linear.load_state_dict({"weight": w})
    net = nn.Sequential(nn.Flatten(), linear).eval()
    x, y = torch.tensor([[[[0.6, 0.4]]]]), torch.tensor([0])
    search = Search(x, y)
    order = _nearest_classes(net, search, torch.tensor([0]), "Linf")
    logits = net(x)[0].detach()
    distance = {k: float((logits[0] - logits[k]) / (w[0] - w[k]).abs().sum()) for k in (1, 2, 3)}
    assert order[0].tolist() == sorted(distance, key=distance.__getitem__)
    assert order[0].tolist() != logits[1:].argsort(descending=True).add(1).tolist()
    assert (int(search.forwards[0]), int(search.backwards[0])) == (2, 3)


def test_the_margin_of_probabilities():
    logits, y = torch.tensor([[1.0, 2.0, 0.0], [5.0, 1.0, 1.0]]), torch.tensor([0, 0])
    p = logits.double().exp() / logits.double().exp().sum(dim=1, keepdim=True)
    torch.testing.assert_close(probability_margin(logits, y), torch.stack([p[0, 1] - p[0, 0], p[1, 1] - p[1, 0]]))


def test_counts_of_the_limit():
    robust, flags = [True] * 20 + [False] * 3, [["sampled"]] * 10 + [[]] * 10 + [["sampled"], ["by=apgd-pm"], []]
    assert hidden_by(Account("aa-fast", robust, flags, 0)) == 5  # 1 of 11 in a population of 21: at most 6
    claimed = [*flags[:19], ["claim-rejected"], *flags[20:]]  # it could not be drawn: the population is one smaller
    assert hidden_by(Account("aa-fast", robust, claimed, 0)) == most_in_population(1, 11, 20) - 1 + 1
    assert hidden_by(Account("aa-fast", robust, flags, 1)) is None
    assert hidden_by(Account("pgd", robust, flags, 0)) is None
    fast = Account("aa-fast", robust, flags, 0)
    assert hidden_in_worst(3, [fast]) == 3
    assert hidden_in_worst(20, [fast, fast._replace(kind="pgd")]) == 5
    assert hidden_in_worst(20, [fast, fast._replace(kind="aa-native")]) is None


def test_its_name_never_claims_autoattack():
    (attack,) = load_suite("aa-fast").attacks
    assert attack.label == "aa-fast"
    with pytest.raises(ValueError, match="belongs to the upstream attack"):
        AAFast(name="autoattack-fast")
    with pytest.raises(UserError, match="no attack on a sample"):
        completed(load_suite("quick"))
