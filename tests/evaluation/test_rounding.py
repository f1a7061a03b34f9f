import pytest
import torch
from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import Adversarial, recompute


class Cancelling(nn.Module):
    """Right on an input as far as its precision keeps a small number beside a large one; alone in a batch it is always right."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Parameter(torch.tensor(1e8))

    def forward(self, x):
        small = (x + self.large) - self.large
        small = small + (len(x) == 1)
        return torch.cat([small - 0.1, torch.zeros_like(small)], dim=1)


LOST, KEPT = 0.5, 64.0  # float32 has steps of 8 at 1e8
X = torch.tensor([[LOST], [KEPT], [LOST], [KEPT]])


def test_verdicts_are_formed_again_in_every_way():
    threads = torch.get_num_threads()
    inputs = {
        "pgd/0.1": Adversarial(X[:2], torch.tensor([0, 1])),
        "pgd/0.2": Adversarial(X[:0], torch.tensor([], dtype=torch.int64)),
    }
    closest = {"pgd/0.1": Adversarial(X[2:], torch.tensor([2, 3]))}
    model = Cancelling().train()
    found = recompute(model, X, torch.zeros(4, dtype=torch.int64), [inputs, closest], {"merged": Cancelling().double()})
    changed = {(each.way, each.attack, each.eps): each.changed for each in found}
    others = {"reversed", "batches of 256", "1 thread" if threads > 1 else "2 threads"}
    assert {way for way, *_ in changed} == others | {"batches of 1", "float64", "bfloat16", "merged"}
    for way in others:
        assert changed[way, "clean", 0.0] == changed[way, "pgd", 0.1] == ()
    for way in ("batches of 1", "float64", "merged"):
        assert changed[way, "clean", 0.0] == changed[way, "pgd", 0.1] == (0, 2)
    assert changed["bfloat16", "pgd", 0.1] == (1, 3)
    assert {each.tried for each in found if each.attack == "pgd"} == {4, 0}
    assert model.training and model.large.requires_grad and torch.get_num_threads() == threads


def test_inputs_of_other_examples_are_refused():
    with pytest.raises(UserError, match="of other examples"):
        recompute(Cancelling(), X, torch.zeros(4, dtype=torch.int64), [{"pgd/0.1": Adversarial(X[:1], torch.tensor([4]))}])
