import random

import numpy as np
import pytest
import torch
from torch import nn

from robust_lowrank.evaluation import evaluate
from robust_lowrank.threat import frozen_eval


def network() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(256, 10)
    )
    model.train()
    model[1].eval()  # frozen statistics in a network under training
    model[0].weight.requires_grad_(False)
    model(torch.rand(3, 1, 8, 8)).sum().backward()
    return model


def snapshot(model: nn.Module) -> list:
    return [
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        {name: value.clone() for name, value in model.state_dict().items()},
        random.getstate(),
        np.random.get_state(),  # noqa: NPY002
        torch.get_rng_state(),
        [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    ]


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor | np.ndarray):
        return bool((a == b).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize(("suite", "eps"), [("quick", 0.1), ("standard", 1.0)])
def test_everything_is_left_as_found(digits, suite, eps, device, capfd):
    model = network().to(device)
    gradients = [parameter.grad for parameter in model.parameters()]
    before = snapshot(model)
    evaluate(model, digits.x[:6], digits.y[:6], suite=suite, eps=eps)
    assert same(snapshot(model), before)
    assert all(a is b for a, b in zip(gradients, [p.grad for p in model.parameters()], strict=True))
    assert capfd.readouterr() == ("", "")


def test_everything_is_left_as_found_after_an_error(digits):
    model = network()
    before = snapshot(model)
    with pytest.raises(KeyError), frozen_eval(model):
        torch.manual_seed(99)
        random.random()
        raise KeyError
    assert same(snapshot(model), before)


def test_the_model_is_attacked_in_evaluation_mode_without_parameter_gradients(digits):
    model = network()
    seen = set()
    model.register_forward_hook(
        lambda module, args, output: seen.add(
            (
                any(part.training for part in module.modules()),
                any(parameter.requires_grad for parameter in module.parameters()),
            )
        )
    )
    evaluate(model, digits.x[:6], digits.y[:6], suite="quick")
    assert seen == {(False, False)}


@pytest.mark.parametrize("suite", ["quick", "standard"])
def test_random_states_of_the_caller_do_not_change_verdicts(mlp, digits, suite):
    frames = []
    for state in (1, 2):
        torch.manual_seed(state)
        frames.append(evaluate(mlp, digits.x[:10], digits.y[:10], suite=suite, eps=0.5).verdicts.drop(columns="seconds"))
    assert frames[0].equals(frames[1])
