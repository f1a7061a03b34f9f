"""Every native attack on networks and examples of unusual shape, type and number."""

import pytest
import torch
from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import (
    APGD,
    FAB,
    FGSM,
    PGD,
    AAFast,
    AANative,
    Curve,
    DeepFool,
    MomentumPGD,
    RandomNoise,
    Square,
    Suite,
    Transfer,
    check,
    evaluate,
    threat,
)
from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.evaluation.network.target import Target

EPS = {"Linf": (0.1, 0.3), "L2": (0.5, 1.5), "L1": (1.0, 8.0)}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    parts = AANative.parts

    def shorter(classes: int, norm: str):
        changes = {"apgd": {"steps": 3}, "fab": {"steps": 2, "targets": 2}, "square": {"queries": 15}}
        return tuple(part.model_copy(update=changes[str(part.attack)]) for part in parts(classes, norm))

    monkeypatch.setattr(AANative, "parts", staticmethod(shorter))


def attacks(classes: int):
    dlr = [APGD(loss="dlr", steps=3)] if classes > 2 else []
    targeted = [APGD(loss="targeted-dlr", steps=3, targets=3)] if classes > 3 else []
    return (
        FGSM(),
        Transfer(steps=2),
        PGD(steps=3, restarts=2),
        MomentumPGD(steps=3),
        RandomNoise(draws=4),
        APGD(steps=4),
        *dlr,
        *targeted,
        DeepFool(steps=2),
        Curve(fmn_steps=3, steps=3),
        FAB(steps=2, targets=2, restarts=2),
        Square(queries=15, restarts=2),
        AAFast(steps=2, targets=2, share=0.6),
        AANative(),
    )


def network(shape: tuple[int, ...], classes: int) -> nn.Module:
    torch.manual_seed(3)
    features = torch.Size(shape).numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, classes)).eval()


def examples(model: nn.Module, count: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32):
    """Return inputs with corners of the cube among them, and labels of which the model gets most right."""
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[::3] = x[::3].round()
    kind = next(model.parameters()).dtype
    with torch.no_grad():
        y = model(x.to(kind)).argmax(dim=1)
    y[1::5] = (y[1::5] + 1) % int(model(x[:1].to(kind)).shape[1])
    return x, y


def evaluated(model, x, y, norm="Linf", eps=None, **options):
    """Evaluate by every attack, and check every verdict and every stored input again."""
    classes = Target(model, x).classes
    suite = Suite(name="all", norm=norm, eps=eps or EPS[norm], attacks=attacks(classes))
    result = evaluate(model, x, y, suite=suite, sources=[model], audit=False, **options)
    frame = result.verdicts
    assert len(frame) == len(x) * len(suite.attacks) * len(suite.eps or ())
    assert set(frame["verdict"]) <= {"robust", "broken", "misclassified"}
    fixed = FixedBatch(Target(model, x))
    for key, found in result.adversarial.items():
        budget = threat(norm, float(key.rpartition("/")[2]), features=x[0].numel())
        clean, labels = x[found.examples], y[found.examples]
        assert found.inputs.dtype == x.dtype
        if len(clean):
            assert budget.contains(clean, found.inputs).all()
            assert torch.equal(budget.project(clean, found.inputs), found.inputs)
            assert check(fixed, clean, labels, found.inputs, budget).broken.all()
    broken = frame["verdict"] == "broken"
    assert sum(len(found.examples) for found in result.adversarial.values()) == broken.sum()
    assert (frame["distance"] <= frame["eps"])[broken].all()
    assert not frame["flags"].str.contains("nonfinite").any()
    assert result.robust_accuracy.value <= result.clean_accuracy.value
    for _, part in frame[~frame["attack"].isin(["fgsm"])].groupby(["example", "attack"]):
        assert (part.sort_values("eps")["verdict"] == "broken").is_monotonic_increasing
    return result


SLOW = pytest.mark.slow
NORMS = [pytest.param("Linf"), *(pytest.param(norm, marks=SLOW) for norm in ("L2", "L1"))]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_few_classes(classes, norm):
    model = network((1, 8, 8), classes)
    result = evaluated(model, *examples(model, 12, (1, 8, 8)), norm)
    assert result.robust_accuracy.value < result.clean_accuracy.value
    names = set(result.verdicts["attack"])
    assert ("apgd-dlr-3" in names) == (classes > 2)
    assert ("apgd-t-3" in names) == (classes > 3)


@pytest.mark.parametrize(("attack", "classes"), [(APGD(loss="dlr", steps=2), 2), (APGD(loss="targeted-dlr", steps=2), 3)])
def test_losses_that_need_more_classes_say_so(attack, classes):
    model = network((4,), classes)
    x, y = examples(model, 4, (4,))
    with pytest.raises(UserError, match=r"needs . classes or more"):
        evaluate(model, x, y, suite=Suite(name="s", eps=(0.1,), attacks=(attack,)))


@pytest.mark.parametrize("shape", [(3, 8, 8), (7,), (1,), (5, 6), (2, 3, 3, 2), (1, 1, 9)], ids=str)
def test_shapes(shape):
    model = network(shape, 4)
    evaluated(model, *examples(model, 8, shape), eps=(0.2,))


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize("shape", [(5,), *(pytest.param(shape, marks=SLOW) for shape in ((1,), (3, 4, 4), (2, 3, 3, 2)))], ids=str)
def test_shapes_for_other_norms(shape, norm):
    model = network(shape, 4)
    evaluated(model, *examples(model, 8, shape), norm, eps=(0.4,))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("weights", "inputs"),
    [
        (torch.float64, torch.float64),
        (torch.float64, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float64),
    ],
    ids=str,
)
def test_types(weights, inputs, norm):
    model = network((1, 6, 6), 5).to(weights)
    result = evaluated(model, *examples(model, 10, (1, 6, 6), inputs), norm, eps=(EPS[norm][1],))
    assert result.robust_accuracy.value < result.clean_accuracy.value


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_other_numbers_of_examples_than_a_batch(batch_size):
    model = network((9,), 4)
    evaluated(model, *examples(model, 6, (9,)), eps=(0.1,), batch_size=batch_size)


def test_one_example():
    model = network((9,), 4)
    x, y = examples(model, 1, (9,))
    result = evaluated(model, x, y, eps=(0.01,))
    assert result.clean_accuracy.value == 1


def test_all_misclassified():
    model = network((9,), 4)
    x, _ = examples(model, 6, (9,))
    result = evaluated(model, x, (model(x).argmax(dim=1) + 1) % 4)
    assert set(result.verdicts["verdict"]) == {"misclassified"}
    assert (result.verdicts[["forwards", "backwards"]] == 0).all(axis=None)
    assert result.robust_accuracy.value == 0


def test_all_broken():
    model = nn.Sequential(network((9,), 4)[:-1], nn.Linear(16, 4))
    x, _ = examples(network((9,), 4), 6, (9,))
    y = model(x).argmax(dim=1)
    result = evaluated(model, x, y, eps=(1.0,))
    frame = result.verdicts
    assert (frame[frame["attack"].isin(["pgd-3x2", "apgd-ce-4", "aa-native"])]["verdict"] == "broken").any()
    assert result.robust_accuracy.value == 0


def test_none_broken():
    class Firm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(9, 4)

        def forward(self, x):
            return self.linear(x) + torch.tensor([50.0, 0, 0, 0])

    x = torch.rand(6, 9)
    result = evaluated(Firm().eval(), x, torch.zeros(6, dtype=torch.int64))
    assert set(result.verdicts["verdict"]) == {"robust"}
    assert result.robust_accuracy.value == result.clean_accuracy.value == 1


@pytest.mark.parametrize("norm", NORMS)
def test_a_thousand_classes(norm):
    model = network((1, 8, 8), 1000)
    result = evaluated(model, *examples(model, 6, (1, 8, 8)), norm, eps=(EPS[norm][1],))
    assert result.robust_accuracy.value < result.clean_accuracy.value


@SLOW
def test_the_largest_budget():
    model = network((2, 3), 4)
    for norm, eps in (("Linf", 1.0), ("L2", 6**0.5), ("L1", 6.0)):
        evaluated(model, *examples(model, 6, (2, 3)), norm, eps=(eps,))


@SLOW
def test_a_tiny_budget():
    model = network((2, 3), 4)
    for norm in EPS:
        result = evaluated(model, *examples(model, 6, (2, 3)), norm, eps=(1e-9,))
        assert "broken" not in set(result.verdicts["verdict"])


@pytest.mark.parametrize("spec", [FAB(steps=20, targets=4), DeepFool(steps=20), Curve()], ids=lambda spec: spec.label)
def test_one_search_finds_for_every_eps_what_a_search_for_it_alone_finds(mlp, digits, spec):
    x, y = digits.x[:40], digits.y[:40]
    curve = evaluate(mlp, x, y, suite=Suite(name="s", eps=(0.06, 0.12, 0.25), attacks=(spec,)), audit=False).verdicts
    for eps in (0.06, 0.12, 0.25):
        alone = evaluate(mlp, x, y, suite=Suite(name="s", eps=(eps,), attacks=(spec,)), audit=False).verdicts
        broken = (alone["verdict"] == "broken").to_numpy()
        assert broken.any()
        assert (curve[curve["eps"] == eps]["verdict"].to_numpy()[broken] == "broken").all()
