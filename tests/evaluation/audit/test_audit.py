import pytest
import torch
from torch import nn

from robust_lowrank.evaluation import FGSM, PGD, Linf, Suite, evaluate
from robust_lowrank.evaluation.audit import probe


def findings(model, digits, **options) -> dict:
    options = {"suite": "quick", "eps": 0.1} | options
    result = evaluate(model, digits.x[:50], digits.y[:50], **options)
    assert all(finding.remedy or finding.status == "pass" for finding in result.audit)
    return {finding.check: finding for finding in result.audit}


def test_an_honest_network_passes(cnn, digits):
    statuses = {name: finding.status for name, finding in findings(cnn, digits, eps=(0.02, 0.05)).items()}
    assert set(statuses.values()) == {"pass"}
    assert set(statuses) == {
        "finite",
        "zero gradients",
        "logits",
        "deterministic",
        "unchanged weights",
        "claims",
        "PGD against FGSM",
        "monotone in eps",
        "saturated gradients",
        "logit scale",
        "monotone in steps",
        "restarts",
        "PGD against transfer",
        "PGD against noise",
        "eps to the limit",
        "gradient direction",
        "gradient slope",
        "smooth in the input",
        "inputs",
        "batch",
        "evaluation mode",
        "planted examples",
    }


def test_probabilities_instead_of_logits_fail(cnn, digits):
    assert findings(nn.Sequential(cnn, nn.Softmax(dim=1)), digits)["logits"].status == "fail"


def test_saturated_logits_have_zero_gradients(cnn, digits):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = cnn

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1e4 * self.model(x)

    finding = findings(Scaled(), digits)["zero gradients"]
    assert finding.status == "fail"
    assert "blind" in finding.message


def test_quantised_inputs_have_zero_gradients(cnn, digits):
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = cnn

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model((x * 16).round() / 16)

    assert findings(Quantised(), digits)["zero gradients"].status == "fail"


def test_a_randomised_network_fails(cnn, digits):
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = cnn

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.model(x + 0.1 * torch.randn_like(x))

    assert findings(Noisy(), digits)["deterministic"].status == "fail"


def test_a_network_that_changes_itself_fails(cnn, digits):
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = cnn
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.model(x)

    assert findings(Counting(), digits)["unchanged weights"].status == "fail"


def test_pgd_that_finds_less_than_fgsm_is_reported(cnn, digits):
    suite = Suite(name="s", eps=(0.1,), attacks=(FGSM(), PGD(steps=1, relative_step=0.01, random_start=False)))
    finding = findings(cnn, digits, suite=suite, eps=None)["PGD against FGSM"]
    assert finding.status == "warn"
    assert "at eps 0.1" in finding.message


def test_single_steps_that_overshoot_are_reported(digits):
    class Wave(nn.Module):
        """Wrong in a narrow shell around the inputs only, so that a longer step jumps over it."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            t = x.flatten(1)[:, 0] - 0.5
            right = (t - 0.05).abs() - 0.02
            return torch.stack([right, -right], dim=1)

    x, y = torch.full((20, 4), 0.5), torch.zeros(20, dtype=torch.int64)
    suite = Suite(name="s", eps=(0.05, 0.2), attacks=(FGSM(),))
    result = evaluate(Wave(), x, y, suite=suite)
    assert result.accuracy("fgsm", 0.05).value == 0
    assert result.accuracy("fgsm", 0.2).value == 1
    finding = next(finding for finding in result.audit if finding.check == "monotone in eps")
    assert finding.status == "warn"
    assert "fgsm from 0 at 0.05 to 20 at 0.2" in finding.message


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("eps", [1e-9, 1e-6])
def test_an_eps_within_rounding_fails_no_honest_network(norm, eps):
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 30), nn.ReLU(), nn.Linear(30, 4)).eval()
    x = torch.rand(40, 3, 4, 4)
    result = evaluate(net, x, net(x).argmax(1), suite="quick", eps=eps, norm=norm)
    assert not [finding.check for finding in result.audit if finding.status != "pass"]


class BlindToNoise(nn.Module):
    """Gives no answer where the first two features are not what they are in the given images."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__()
        self.first, self.linear = images[:, 0, 0, :2], nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        known = (x[:, 0, 0, None, :2] == self.first).all(-1).any(-1)
        return torch.where(known[:, None], self.linear(x.flatten(1)), torch.nan)


def test_an_input_without_an_answer_is_not_broken_by_noise():
    x = torch.rand(16, 1, 8, 8)
    net = BlindToNoise(x).eval()
    y = net(x).argmax(1)
    assert bool(probe(net, x, y, Linf(0.1), seed=0).attacked.noise.all())
