import copy
import logging
import math
import sys

import pyautoattack
import pytest
import torch
from torch import nn

from robust_lowrank.evaluation import AutoAttack, Suite, evaluate
from robust_lowrank.evaluation.attacks.gradients import input_gradient
from robust_lowrank.evaluation.attacks.upstream.autoattack import autoattack, parameters, plan
from robust_lowrank.evaluation.attacks.upstream.counted import CountedModel
from robust_lowrank.evaluation.attacks.view import square_tiles
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.evaluation.verdict import check
from robust_lowrank.threat import L1, L2, Linf, threat


def by_hand(model, x, y, budget, *, seed, batch_size):
    """Return upstream's own verdicts: its labels for what it returns."""
    upstream = pyautoattack.AutoAttack(model, norm=budget.norm, eps=budget.eps, seed=seed, device="cpu")
    upstream.verbose = False
    logging.getLogger("auto-attack").disabled = True
    try:
        with torch.random.fork_rng():
            inputs, labels = upstream.run_standard_evaluation(x, y, batch_size=batch_size)
    finally:
        logging.getLogger("auto-attack").disabled = False
    return inputs, labels


def assert_same_as_by_hand(model, x, y, budget, *, seed, batch_size):
    inputs, labels = by_hand(model, x, y, budget, seed=seed, batch_size=batch_size)
    result = evaluate(model, x, y, norm=budget.norm, eps=budget.eps, seed=seed, batch_size=batch_size)
    frame = result.verdicts
    assert (frame["attack"] == "autoattack").all()
    held = torch.tensor((frame["verdict"] == "robust").to_numpy())
    assert torch.equal(held, labels == y)
    assert 0 < int(held.sum()) < int((frame["verdict"] != "misclassified").sum())
    found = result.adversarial[f"autoattack/{budget.eps!r}"]
    torch.testing.assert_close(found.inputs, budget.project(x, inputs)[found.examples], rtol=0, atol=1e-6)
    return frame


@pytest.mark.slow
def test_verdicts_are_those_of_upstream_run_by_hand(mlp, digits):
    frame = assert_same_as_by_hand(mlp, digits.x[:24], digits.y[:24], Linf(0.07), seed=3, batch_size=250)
    assert not frame["flags"].str.contains("rejected").any()


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.08), ("L2", 0.6)])
def test_verdicts_are_those_of_upstream_over_several_batches(mlp, digits, norm, eps):
    budget = threat(norm, eps, features=64)
    assert_same_as_by_hand(mlp, digits.x[:20], digits.y[:20], budget, seed=0, batch_size=8)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_linear_model_of_ten_classes_gets_its_exact_robust_accuracy(norm, device):
    torch.manual_seed(1)
    model = nn.Linear(20, 10).to(device)
    x = 0.5 + 0.05 * torch.randn(24, 20, device=device)
    with torch.no_grad():
        logits = model(x)
        y = logits.argmax(dim=1)
        weight = model.weight
        gaps = logits.gather(1, y[:, None]) - logits
        sizes = torch.linalg.vector_norm(weight[y][:, None] - weight, ord=1 if norm == "Linf" else 2, dim=2)
    critical = (gaps / sizes).scatter(1, y[:, None], torch.inf).amin(dim=1).double()
    ordered = critical.sort().values
    wide = int((ordered[5:18] - ordered[4:17]).argmax()) + 4  # eps in the widest gap between neighbours
    eps = float((ordered[wide] + ordered[wide + 1]) / 2)
    result = evaluate(model, x, y, eps=eps, norm=norm)
    held = torch.tensor((result.verdicts["verdict"] == "robust").to_numpy())
    assert torch.equal(held, (critical > eps).cpu())
    assert (result.verdicts["flags"].str.contains("by=") == ~held.numpy()).all()


def subset(digits, classes):
    rows = digits.y < classes
    return digits.x[rows][:24], digits.y[rows][:24]


@pytest.mark.parametrize(
    ("classes", "name", "parts"),
    [
        (2, "apgd-ce+fab-t+square", 3),
        (3, "apgd-ce+apgd-dlr+fab-t+square", 4),
        pytest.param(4, "autoattack-3-targets", 4, marks=pytest.mark.slow),
    ],
)
def test_few_classes_run_under_another_name_and_find_the_same_as_the_closed_form(digits, classes, name, parts):
    torch.manual_seed(0)
    x, y = subset(digits, classes)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    x = 0.4 + 0.2 * x  # away from the walls of [0, 1]
    with torch.no_grad():
        y = model(x).argmax(dim=1)
        gaps = model(x).gather(1, y[:, None]) - model(x)
        weight = model[1].weight
        sizes = (weight[y][:, None] - weight).abs().sum(dim=2)
    critical = (gaps / sizes).scatter(1, y[:, None], torch.inf).amin(dim=1)
    ordered = critical.sort().values
    wide = int((ordered[1:] - ordered[:-1]).argmax())
    eps = float((ordered[wide] + ordered[wide + 1]) / 2)
    result = evaluate(model, x, y, eps=eps)
    assert result.verdicts["attack"].unique().tolist() == [name]
    assert (result.verdicts["flags"].str.contains(f"targets={classes - 1}")).all()
    held = torch.tensor((result.verdicts["verdict"] == "robust").to_numpy())
    assert torch.equal(held, critical > eps)
    definition = result.record.definition["attacks"][0]
    assert (definition["targets"], len(definition["parts"])) == (classes - 1, parts)
    finding = next(finding for finding in result.audit if finding.check == "targets")
    assert finding.status == "warn"
    assert name in finding.message


def test_the_standard_is_what_was_published():
    scheme = plan(10, (3, 32, 32), Linf(0.1))
    assert scheme.name == "autoattack"
    assert scheme.view == (3, 32, 32)
    assert not scheme.remarks
    published = {
        "parts": ["apgd-ce", "apgd-t", "fab-t", "square"],
        "targets": 9,
        "apgd_steps": 100,
        "fab_steps": 100,
        "square_queries": 5000,
        "restarts": [1, 1, 1, 1],
    }
    assert published.items() <= parameters(scheme).items()
    assert plan(1000, (3, 8, 8), L2(0.1)).name == "autoattack"


@pytest.mark.parametrize("height", range(1, 40))
@pytest.mark.parametrize("width", [5, 8, 12, 28])
def test_images_that_square_cannot_tile_are_known(height, width):
    """Upstream's first tiling for L2, run on a model that is wrong at once."""

    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.zeros(len(x)), torch.ones(len(x))], dim=1)

    attack = pyautoattack.autoattack.SquareAttack(Wrong(), norm="L2", eps=0.1, n_queries=1, seed=0, device="cpu")
    attack.init_hyperparam(torch.zeros(1, 1, height, width))
    with torch.random.fork_rng():
        try:
            attack.attack_single_run(torch.full((1, 1, height, width), 0.5), torch.tensor([0]))
            works = True
        except (RuntimeError, ZeroDivisionError):
            works = False
    assert square_tiles(height, width) == works


def test_inputs_are_shown_to_square_in_a_shape_that_it_takes():
    assert plan(10, (64,), Linf(0.1)).view == (1, 8, 8)
    assert plan(10, (7,), Linf(0.1)).view == (1, 1, 7)
    assert plan(10, (14, 56), Linf(0.1)).view == (1, 14, 56)
    assert plan(10, (4, 16), L2(0.1)).view == (1, 8, 8)
    assert plan(10, (1, 12, 12), Linf(0.1)).view == (1, 12, 12)
    assert plan(10, (1, 12, 12), L2(0.1)).view == (1, 9, 16)
    assert plan(10, (7,), L2(0.1)).name == "apgd-ce+apgd-t+fab-t"


@pytest.mark.parametrize("shape", [(64,), (4, 16), (1, 2, 4, 8)])
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_inputs_of_any_shape_and_type_are_attacked(mlp, digits, shape, norm):
    model = copy.deepcopy(mlp).double()
    x, y = digits.x[:6].double().reshape(-1, *shape), digits.y[:6]
    budget = threat(norm, 0.9 if norm == "Linf" else 6.0, features=64)
    result = evaluate(model, x, y, eps=budget.eps, norm=norm)
    assert set(result.verdicts["verdict"]) <= {"broken", "misclassified"}
    found = result.adversarial[f"autoattack/{budget.eps!r}"]
    assert found.inputs.shape[1:] == shape
    with torch.no_grad():
        assert (model(found.inputs).argmax(dim=1) != y[found.examples]).all()
    assert budget.contains(x[found.examples], found.inputs).all()


def test_successes_that_the_check_rejects_stay_in_play():
    class Tied(nn.Module):
        """Upstream takes the tie beyond 0.55 for a success, as the largest logit comes first; beyond 0.59 it is a real one."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            t = x.flatten(1).mean(dim=1)
            other = torch.where(t > 0.55, 1.0, t).where(t < 0.59, 2.0)
            return torch.stack([other + 0 * t, torch.ones_like(t), *[t - 9] * 8], dim=1)

    x, y = torch.full((3, 1, 8, 8), 0.5), torch.ones(3, dtype=torch.int64)
    tied = autoattack(Target(Tied(), x), x, y, Linf(0.08), seed=0, batch_size=10)
    assert not tied.check.broken.any()
    assert tied.rejected.all()
    real = autoattack(Target(Tied(), x), x, y, Linf(0.2), seed=0, batch_size=10)
    assert (real.rejected | real.check.broken).all()
    result = evaluate(Tied(), x, y, eps=0.08)
    assert (result.verdicts["flags"].str.contains("claim-rejected")).all()
    assert next(finding for finding in result.audit if finding.check == "claims").status == "warn"


class Poisoned(nn.Module):
    """A linear model whose gradient is NaN wherever the first feature exceeds 0.5, its logits never."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        first = x[:, :1]
        root = torch.sqrt(torch.where(first > 0.5, first - first.detach(), 1.0))
        return self.linear(x) + 0 * root


@pytest.mark.slow
def test_nan_gradients_never_count_as_robust():
    torch.manual_seed(0)
    model = Poisoned()
    x = 0.3 + 0.1 * torch.rand(8, 1, 8, 8)
    x[4:, 0, 0, 0] = 0.9
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    assert input_gradient(model, x, y).gradient.isfinite().flatten(1).all(dim=1).tolist() == [True] * 4 + [False] * 4
    result = evaluate(model, x, y, eps=1e-5)
    assert result.verdicts["verdict"].tolist() == ["robust"] * 4 + ["nonfinite"] * 4
    assert result.robust_accuracy.value == 0.5
    assert next(finding for finding in result.audit if finding.check == "finite").status == "fail"


def test_values_that_are_not_finite_are_charged_to_their_example():
    clean = torch.tensor([[0.2, 0.2], [0.8, 0.8], [0.5, 0.9]])
    counted = CountedModel(Target(nn.Linear(2, 2), clean), Linf(0.1), (2,))
    counted.watch(clean)
    bad, good = torch.tensor([math.nan, 0.0]), torch.zeros(2)
    counted.notice(clean + 0.05, torch.stack([good, bad, good]))
    assert counted.nonfinite.tolist() == [False, True, False]
    counted.watch(clean)
    counted.notice(torch.tensor([[0.45, 0.85]]), bad[None])
    assert counted.nonfinite.tolist() == [False, False, True]
    counted.watch(clean)
    counted.notice(torch.full((1, 2), math.nan), bad[None])
    assert not counted.nonfinite.any()  # the attack's own NaN is not the model's fault


def test_tracing_logging_and_outputs_are_left_alone(mlp, digits, capfd):
    def tracer(frame, event, argument):
        return None

    logger, previous = logging.getLogger("auto-attack"), sys.gettrace()
    sys.settrace(tracer)
    try:
        evaluate(mlp, digits.x[:4], digits.y[:4], eps=0.9)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(previous)
    assert not logger.disabled
    assert not logger.handlers
    assert capfd.readouterr() == ("", "")


def test_upstream_may_write_into_the_logits_of_a_model_that_shares_them(digits):
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.arange(10.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.logits.expand(len(x), -1)

    model, x = Constant(), digits.x[:3]
    counted = CountedModel(Target(model, x), Linf(0.3), (1, 8, 8))
    attack = pyautoattack.autoattack.SquareAttack(counted, eps=0.3, n_queries=20, seed=0, device="cpu")
    with torch.random.fork_rng(), torch.no_grad():
        adversarial = attack.perturb(x, torch.full((3,), 9))
    assert torch.equal(adversarial, x)
    assert torch.equal(model.logits.detach(), torch.arange(10.0))
    assert counted(x[:0]).shape == (0, 10)


def test_broken_examples_pass_the_check_again(mlp, digits):
    x, y = digits.x[:12], digits.y[:12]
    result = evaluate(mlp, x, y, eps=0.3)
    found = result.adversarial["autoattack/0.3"]
    assert len(found.examples) > 6
    assert check(mlp, x[found.examples], y[found.examples], found.inputs, Linf(0.3)).broken.all()


@pytest.mark.parametrize(
    ("version", "classes", "name", "parts"),
    [
        ("plus", 10, "autoattack-plus", ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]),
        ("plus", 4, "autoattack-plus-3-targets", ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]),
        ("plus", 3, "plus-apgd-ce+apgd-dlr+fab+square+fab-t", ["apgd-ce", "apgd-dlr", "fab", "square", "fab-t"]),
        ("plus", 2, "plus-apgd-ce+fab+square+fab-t", ["apgd-ce", "fab", "square", "fab-t"]),
        ("rand", 10, "autoattack-rand", ["apgd-ce", "apgd-dlr"]),
        ("rand", 3, "autoattack-rand", ["apgd-ce", "apgd-dlr"]),
        ("rand", 2, "rand-apgd-ce", ["apgd-ce"]),
    ],
)
def test_only_the_standard_is_called_autoattack(version, classes, name, parts):
    scheme = plan(classes, (1, 8, 8), Linf(0.1), version)
    assert (scheme.name, list(scheme.parts)) == (name, parts)
    assert scheme.remarks == (() if classes == 10 or version == "rand" else (f"targets={classes - 1}",))


def test_versions_are_what_was_published():
    plus, rand = (parameters(plan(10, (1, 8, 8), Linf(0.1), version)) for version in ("plus", "rand"))
    assert plus["restarts"] == [5, 5, 5, 1, 1, 1]
    assert (plus["targets"], plus["apgd_targets"], plus["apgd_draws"], plus["square_queries"]) == (9, 9, 1, 5000)
    assert (rand["restarts"], rand["apgd_draws"], rand["apgd_steps"]) == ([1, 1], 20, 100)


def test_l1_is_what_was_published():
    scheme = plan(10, (1, 8, 8), Linf(0.1))._replace(norm="L1")
    for classes, targets, apgd_targets in ((10, 9, 5), (5, 4, 4)):
        published = {"targets": targets, "apgd_targets": apgd_targets, "apgd_from_larger_eps": True, "restarts": [5, 1, 1, 1]}
        assert published.items() <= parameters(scheme._replace(targets=min(9, classes - 1))).items()


@pytest.mark.parametrize("version", ["plus", "rand"])
def test_versions_break_what_upstream_breaks(mlp, digits, version):
    suite = Suite(name="v", eps=(0.3,), attacks=(AutoAttack(version=version),))
    result = evaluate(mlp, digits.x[:6], digits.y[:6], suite=suite, batch_size=6)
    assert suite.attacks[0].label == f"autoattack-{version}"
    assert result.verdicts["attack"].unique().tolist() == [f"autoattack-{version}"]
    upstream = pyautoattack.AutoAttack(mlp, norm="Linf", eps=0.3, seed=0, version=version, device="cpu")
    upstream.verbose, upstream.logger.disabled = False, True
    try:
        with torch.random.fork_rng():
            _, labels = upstream.run_standard_evaluation(digits.x[:6], digits.y[:6], batch_size=6)
    finally:
        upstream.logger.disabled = False
    assert torch.equal(torch.tensor((result.verdicts["verdict"] == "robust").to_numpy()), labels == digits.y[:6])


def test_l1_budgets_hold_and_large_ones_break_everything(mlp, digits):
    x, y = digits.x[:4], digits.y[:4]
    budget = L1(12.0)
    outcome = autoattack(Target(mlp, x), x, y, budget, seed=0, batch_size=4)
    assert outcome.check.broken.all()
    assert budget.contains(x, outcome.check.inputs).all()


def test_trap_fewer_than_ten_classes_crash_upstream(digits):
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), digits.x[:2], torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        model[1].bias[0] = 100.0  # nothing breaks it, so that every part runs
    upstream = pyautoattack.AutoAttack(model, norm="Linf", eps=1e-3, seed=0, device="cpu")
    upstream.verbose, upstream.logger.disabled, upstream.attacks_to_run = False, True, ["apgd-t"]
    try:
        with torch.random.fork_rng(), pytest.raises(IndexError):
            upstream.run_standard_evaluation(x, y)
    finally:
        upstream.logger.disabled = False
    assert plan(3, (1, 8, 8), Linf(1e-3)).parts == ("apgd-ce", "apgd-dlr", "fab-t", "square")


def test_trap_square_depends_on_the_batch_so_that_a_result_names_it(mlp, digits):
    x, y = digits.x[:4], digits.y[:4]
    attack = pyautoattack.autoattack.SquareAttack(mlp, eps=0.4, n_queries=60, seed=0, device="cpu")
    with torch.random.fork_rng(), torch.no_grad():
        whole = attack.perturb(x, y)
        single = torch.cat([attack.perturb(x[i : i + 1], y[i : i + 1]) for i in range(4)])
    assert not torch.equal(whole, single)
    suite = Suite(name="s", eps=(0.9,), attacks=(AutoAttack(),))
    definitions = [evaluate(mlp, x[:2], y[:2], suite=suite, batch_size=size).record.definition["attacks"][0] for size in (1, 2)]
    assert [definition["batch_size"] for definition in definitions] == [1, 2]


def test_trap_random_states_are_left_as_found(mlp, digits):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    evaluate(mlp, digits.x[:2], digits.y[:2], eps=0.9)
    assert torch.equal(torch.get_rng_state(), before)
