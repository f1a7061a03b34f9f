"""States load at other ranks, by torch's own `load_state_dict`: early stopping, resumed trainings, the best of several."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robust_lowrank import DLRT, TDLRT, GeoLoRA, LowRankOptimizer, UserError, Vanilla, compress, load, save
from robust_lowrank.layers import FactoredLayer, named_factored_layers
from robust_lowrank.methods import Method

METHODS = [GeoLoRA(tol=0.3), DLRT(tol=0.3), TDLRT(tol=0.3), Vanilla()]
each_method = pytest.mark.parametrize("method", METHODS, ids=[method.name for method in METHODS])


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 20), nn.GRU(20, 16)
    )


class Training:
    """A network, its optimizer, and steps on one batch."""

    def __init__(self, method: Method, rank: float = 1.0, optimizer=torch.optim.AdamW, step: str = "exact") -> None:
        torch.manual_seed(0)
        self.model = net()
        compress(self.model, method=method, rank=rank)
        self.x, self.y = torch.rand(64, 16), torch.randint(0, 4, (64,))
        self.opt = LowRankOptimizer(self.model, optimizer, lr=0.01, step=step)

    def logits(self) -> Tensor:
        return self.model(self.x)[0][:, :4]

    def steps(self, count: int) -> list[float]:
        def closure() -> Tensor:
            self.opt.zero_grad()
            loss = cross_entropy(self.logits(), self.y)
            loss.backward()
            return loss.detach()

        return [float(self.opt.step(closure)) for _ in range(count)]

    def ranks(self) -> dict[str, tuple[int, ...]]:
        return {name: layer.ranks() for name, layer in named_factored_layers(self.model)}


@each_method
@pytest.mark.parametrize("step", ["exact", "amortised"])
def test_back_to_an_earlier_state_and_on_as_if_nothing_had_happened(method: Method, step: str) -> None:
    training = Training(method, step=step)
    training.steps(3)
    state, optimizer = copy.deepcopy(training.model.state_dict()), copy.deepcopy(training.opt.state_dict())
    ranks, logits = training.ranks(), training.logits().detach()
    due = training.steps(6)
    training.model.load_state_dict(state)
    training.opt.load_state_dict(optimizer)
    assert training.ranks() == ranks
    assert torch.equal(training.logits(), logits)
    assert training.steps(6) == due


@each_method
@pytest.mark.parametrize("order", ["network first", "optimizer first"])
def test_a_fresh_training_takes_up_the_state_of_another(method: Method, order: str) -> None:
    training = Training(method)
    training.steps(4)
    states = copy.deepcopy((training.model.state_dict(), training.opt.state_dict()))
    due = training.steps(3)
    fresh = Training(method, rank=0.3)
    loads = [lambda: fresh.model.load_state_dict(states[0]), lambda: fresh.opt.load_state_dict(states[1])]
    for load_one in loads if order == "network first" else loads[::-1]:
        load_one()
    assert fresh.steps(3) == due


@each_method
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_a_network_that_goes_back_without_its_optimizer_trains_on(method: Method, optimizer) -> None:
    training = Training(method, optimizer=optimizer, step="amortised")
    best, logits = copy.deepcopy(training.model.state_dict()), training.logits().detach()
    training.steps(5)
    training.model.load_state_dict(best)
    assert torch.equal(training.logits(), logits)
    losses = training.steps(8)
    assert losses[-1] < losses[0]
    training.model.load_state_dict(Training(method, rank=0.3).model.state_dict())
    losses = training.steps(8)
    assert losses[-1] < losses[0]


def test_a_state_that_does_not_fit_is_refused_with_the_name() -> None:
    training = Training(GeoLoRA(tol=0.3))
    state = training.model.state_dict()
    wide = {key: torch.zeros(len(value) + 1, *value.shape[1:]) if key == "4.U" else value for key, value in state.items()}
    with pytest.raises(RuntimeError, match=r"4\.U"):
        training.model.load_state_dict(wide)
    odd = {key: torch.zeros(value.shape[0], 1) if key == "4.V" else value for key, value in state.items()}
    with pytest.raises(RuntimeError, match=r"4\.V"):
        training.model.load_state_dict(odd)
    training.steps(2)


def test_a_file_is_cut_at_its_leading_directions(tmp_path) -> None:
    training = Training(DLRT())
    training.steps(3)
    save(training.model, tmp_path / "net.safetensors")
    for rank, due in ((0.5, None), (3, 3)):
        cut = load(net(), tmp_path / "net.safetensors", rank=rank)
        for name, layer in named_factored_layers(cut):
            full: FactoredLayer = dict(named_factored_layers(training.model))[name]
            kept = due or -(-full.rank // 2)
            torch.testing.assert_close(layer.singular_values(), full.singular_values()[:kept])
    for rank in (0, 1.5, True):
        with pytest.raises(UserError, match="neither an integer from 1 nor a fraction"):
            load(net(), tmp_path / "net.safetensors", rank=rank)


def test_a_file_of_another_network_is_refused(tmp_path) -> None:
    training = Training(DLRT())
    save(training.model, tmp_path / "net.safetensors")
    other = net()
    other[5] = nn.GRU(20, 12)
    with pytest.raises(UserError, match="does not fit this network"):
        load(other, tmp_path / "net.safetensors")
    other[5] = nn.Identity()
    with pytest.raises(UserError, match=r"it has no parameter '5\.weight_ih_l0'"):
        load(other, tmp_path / "net.safetensors")
