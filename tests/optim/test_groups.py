"""Groups of parameters with options of their own."""

import pytest
import torch
from torch import nn

from robust_lowrank import LowRankOptimizer, UserError, compress


def net() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    compress(model, method="condlr", rank=4, exclude=["5"])
    return model


def take_steps(model: nn.Module, opt: LowRankOptimizer, count: int = 3) -> None:
    torch.manual_seed(1)
    x, y = torch.randn(32, 12, dtype=torch.float64), torch.randint(0, 3, (32,))
    for _ in range(count):
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        opt.step()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("moments", ["tangent", "elementwise"])
def test_groups_of_equal_options_are_one(optimizer, moments: str) -> None:
    torch.manual_seed(0)
    first = net()
    second = net()
    second.load_state_dict(first.state_dict())
    take_steps(first, LowRankOptimizer(first, optimizer, lr=0.05, moments=moments))
    groups = [{"params": second[0].parameters(), "lr": 0.05}, {"params": [second[3].core]}]
    take_steps(second, LowRankOptimizer(second, optimizer, lr=0.05, moments=moments, groups=groups))
    for key, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[key], value, rtol=1e-12, atol=1e-12)


def test_a_layer_moves_at_its_own_rate_and_norms_do_not_decay() -> None:
    model = net()
    norms = [*model[1].parameters()]
    groups = [{"params": norms, "weight_decay": 0.0, "name": "norms"}, {"params": model[0].all_factors(), "lr": 0.0}]
    opt = LowRankOptimizer(model, torch.optim.SGD, lr=0.1, weight_decay=0.5, groups=groups)
    assert [group["name"] for group in opt.param_groups] == ["norms dense", "cores", "bases", "dense", "cores", "bases"]
    assert [group["weight_decay"] for group in opt.param_groups] == [0.0, 0.5, 0.0, 0.5, 0.5, 0.0]
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.0, 0.0, 0.1, 0.1, 0.1]
    before = [layer.dense_weight().detach().clone() for layer in (model[0], model[3])]
    take_steps(model, opt)
    torch.testing.assert_close(model[0].dense_weight(), before[0], rtol=1e-12, atol=1e-12)
    assert torch.dist(model[3].dense_weight(), before[1]) > 1e-3


def test_named_parameters_and_single_tensors_are_taken() -> None:
    model = net()
    groups = [{"params": list(model[0].named_parameters())}, {"params": model[1].weight, "lr": 0.5}]
    opt = LowRankOptimizer(model, torch.optim.SGD, lr=0.1, groups=groups)
    parameters = [parameter for group in opt.param_groups for parameter in group["params"]]
    assert len(parameters) == len({id(parameter) for parameter in parameters}) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (lambda model: [{"lr": 0.1}], "without params"),
        (lambda model: [list(model.parameters())], "without params"),
        (lambda model: [{"params": model.parameters()}, {"params": [model[0].core]}], "a parameter twice"),
        (lambda model: [{"params": nn.Linear(2, 2).parameters()}], "not the network's"),
        (lambda model: [{"params": [model[0].weight]}], "all_factors"),
        (lambda model: [{"params": [model[0].core], "weight_dacay": 0.0}], "did you mean 'weight_decay'"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups, message: str) -> None:
    model = net()
    with pytest.raises(UserError, match=message):
        LowRankOptimizer(model, torch.optim.SGD, lr=0.1, groups=groups(model))
