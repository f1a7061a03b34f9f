"""Networks that are odd: what is shared stays shared, what fails changes nothing, and what cannot be followed is refused."""

import copy
import threading

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import robust_lowrank as rlr
from robust_lowrank import UserError
from robust_lowrank.layers import ChainLayer, named_factored_layers


def step(net: nn.Module, opt: torch.optim.Optimizer, x: Tensor) -> None:
    def closure() -> Tensor:
        opt.zero_grad()
        y = net(x)
        loss = (y[0] if isinstance(y, tuple) else y).square().sum()
        loss.backward()
        return loss.detach()

    opt.step(closure)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x))


class Head(nn.Module):
    """As in BERT: the bias of a layer has a second name."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder, self.bias = nn.Linear(16, 40), nn.Parameter(torch.zeros(40))
        self.decoder.bias = self.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(x)


class Looking(nn.Module):
    """Its pass depends on the types of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x) if isinstance(layer, nn.Linear) else layer(x)
        return x


class Keeping(nn.Module):
    """It keeps its layers in a list of its own too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.order = [self.first, self.second]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.order:
            x = layer(x)
        return x


def test_a_file_loaded_into_a_network_that_trains_lets_it_train_on(tmp_path) -> None:
    net, x = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.GRU(16, 12)), torch.randn(8, 16)
    rlr.compress(net, method=rlr.DLRT(tol=0.1), rank=6)
    opt = rlr.LowRankOptimizer(net, torch.optim.SGD, lr=0.01)
    rlr.save(net, tmp_path / "before.safetensors")
    ranks = {name: layer.ranks() for name, layer in named_factored_layers(net)}
    for _ in range(3):
        step(net, opt, x)
    rlr.load(net, tmp_path / "before.safetensors")
    before = {name: layer.dense_weight().detach().clone() for name, layer in named_factored_layers(net)}
    assert {name: layer.ranks() for name, layer in named_factored_layers(net)} == ranks
    step(net, opt, x)
    assert not any(torch.equal(layer.dense_weight(), before[name]) for name, layer in named_factored_layers(net))


def test_an_optimizer_whose_layers_were_replaced_says_so() -> None:
    net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
    rlr.compress(net, method="dlrt", rank=3, exclude=["2"])
    opt, x = rlr.LowRankOptimizer(net, torch.optim.SGD, lr=0.1), torch.randn(8, 16)
    step(net, opt, x)
    rlr.compress(net, method="dlrt", rank=2)
    with pytest.raises(UserError, match="another when layers have been replaced"):
        step(net, opt, x)


def test_parameters_that_were_assigned_are_new_to_the_optimizer() -> None:
    net, x = nn.Sequential(nn.Linear(16, 16)), torch.randn(8, 16)
    rlr.compress(net, method="geolora", rank=3)
    opt = rlr.LowRankOptimizer(net, torch.optim.SGD, lr=0.1)
    step(net, opt, x)
    net.load_state_dict({key: value.half() for key, value in net.state_dict().items()}, assign=True)
    assert net[0].S.dtype == torch.float32
    with pytest.raises(UserError, match="make another"):
        step(net, opt, x)


def test_a_state_of_something_else_than_tensors_is_not_written(tmp_path) -> None:
    class Noted(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"note": 1}

    with pytest.raises(UserError, match="is no tensor"):
        rlr.save(nn.Sequential(Noted(2, 2)), tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    "build", [lambda: nn.Conv2d(6, 6, 3, padding=1, groups=2), lambda: nn.Linear(5, 5)], ids=["merged", "chain"]
)
@pytest.mark.parametrize("method", ["condlr", "geolora"])
def test_a_module_under_two_names(build, method: str) -> None:
    shared = build()
    net, x = nn.Sequential(shared, nn.Tanh(), shared), torch.randn(2, 6, 5, 5)
    before, twin = net(x).detach(), copy.deepcopy(net)
    rlr.adapt(net, method=method, rank=1)
    torch.testing.assert_close(net(x), before)
    assert net[0] is net[2]
    rlr.compress(twin, method="svd", rank=1.0)
    torch.testing.assert_close(twin(x), before, rtol=1e-4, atol=1e-5)
    step(net, rlr.LowRankOptimizer(net, torch.optim.SGD, lr=0.01), x)
    torch.testing.assert_close(rlr.export(net, to="dense")(x), net(x), rtol=1e-4, atol=1e-5)


def test_tied_weights_stay_tied(tmp_path) -> None:
    net, x = Tied(), torch.arange(6)
    rlr.compress(net, method="dlrt", rank=4, include=".*")
    rlr.save(net, tmp_path / "net.safetensors")
    for loaded in (rlr.load(net, tmp_path / "net.safetensors"), rlr.load(Tied(), tmp_path / "net.safetensors")):
        assert loaded.table.parametrizations.weight[0] is loaded.head.parametrizations.weight[0]
        dense = rlr.export(loaded, to="dense")
        assert dense.table.weight is dense.head.weight
        torch.testing.assert_close(dense(x), loaded(x))
    adapted = Tied()
    before = adapted(x).detach()
    rlr.adapt(adapted, method="geolora", rank=2, include=".*")
    torch.testing.assert_close(adapted(x), before)
    opt = rlr.LowRankOptimizer(adapted, torch.optim.SGD, lr=0.1)
    step(adapted, opt, x)
    dense = rlr.export(adapted, to="dense")
    torch.testing.assert_close(dense(x), adapted(x))
    assert dense.table.weight is dense.head.weight


def test_biases_stay_the_parameters_that_they_are() -> None:
    net, x = nn.Sequential(nn.Linear(16, 16), Head()), torch.randn(4, 16)
    net[0].bias.register_hook(torch.zeros_like)
    rlr.compress(net, method="dlrt", rank=2)
    assert net[1].decoder.bias is net[1].bias
    net(x).sum().backward()
    assert net[1].bias.grad.abs().max() > 0 and net[0].bias.grad.abs().max() == 0
    dense = rlr.export(net, to="dense")
    assert dense[1].decoder.bias is dense[1].bias


def test_biases_that_are_to_train_beside_adapters_do() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.GRU(8, 8))
    rlr.adapt(net, rank=2, trainable=[r".*bias.*"])
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad and "update" not in name}
    assert trained == {"0.base.bias", "2.bias_ih_l0", "2.bias_hh_l0"}
    everything = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.GRU(8, 8))
    rlr.adapt(everything, rank=2, trainable=[r".*"])
    assert not everything[0].base.weight.requires_grad and not everything[2].parametrizations.weight_hh_l0.original.requires_grad


def test_threads_share_no_weights_of_a_pass() -> None:
    net, x = nn.Sequential(nn.GRU(16, 16, batch_first=True)), torch.randn(4, 5, 16)
    rlr.compress(net, method="dlrt", rank=2)
    long, stop = torch.randn(2, 100, 16), threading.Event()

    def answer() -> None:
        with torch.no_grad():
            while not stop.is_set():
                net(long)

    other = threading.Thread(target=answer)
    other.start()
    try:
        for _ in range(20):
            net.zero_grad()
            net(x)[0].square().sum().backward()
            assert all(factor.grad is not None for _, layer in named_factored_layers(net) for factor in layer.all_factors())
    finally:
        stop.set()
        other.join()


@pytest.mark.parametrize(("build", "message"), [(Looking, "looked at the types"), (Keeping, "something else kept it")])
def test_a_network_that_would_compute_something_else_is_refused_and_left(build, message: str) -> None:
    net, x = build(), torch.randn(2, 8)
    before, state = net(x), {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(UserError, match=message):
        rlr.compress(net, method="dlrt", rank=1.0, example_input=x)
    assert torch.equal(net(x), before) and list(net.state_dict()) == list(state)
    assert not any(isinstance(module, ChainLayer) for module in net.modules())


class Routing(nn.Module):
    """Experts of which a token sees one: some see none."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(16, 4), nn.ModuleList([nn.Linear(16, 16) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        choice, out = self.router(x).argmax(1), torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            if (choice == index).any():
                out[choice == index] = expert(x[choice == index])
        return out


class Unstable(nn.Module):
    """Rounding becomes everything."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(60):
            x = torch.sin(6 * self.layer(x))
        return x


class Counting(nn.Module):
    """Each of its answers is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(8, 8), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) + self.calls


NOTHING = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32, elementwise_affine=False), nn.Unflatten(1, (1, 32)), nn.AvgPool1d(32))


@pytest.mark.parametrize(
    "build", [Routing, Unstable, Counting, lambda: NOTHING], ids=["routing", "unstable", "counting", "nothing"]
)
@pytest.mark.parametrize("seed", range(3))
def test_networks_that_are_hard_to_compare_are_taken(build, seed: int) -> None:
    torch.manual_seed(seed)
    net = copy.deepcopy(build())
    x = torch.randn(8, 16 if build is Routing else 8)
    rlr.compress(net, method="dlrt", rank=0.25, example_input=x)
    net(x)


@pytest.mark.parametrize("answer", [lambda y: {"logits": [y]}, lambda y: y.argmax(1), lambda y: (y, None)])
def test_every_kind_of_answer_is_compared(answer) -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> object:
            y = self.layer(x)
            return answer(y if isinstance(self.layer, nn.Linear) or not self.training else -y)

    with pytest.raises(UserError, match="looked at the types"):
        rlr.compress(Turned(), method="dlrt", rank=2, example_input=torch.randn(4, 8))


class Closed(nn.Module):
    """A class of which no other can be derived, and so no parametrized one."""

    def __init_subclass__(cls, *, name: str, **options: object) -> None:
        super().__init_subclass__(**options)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.parametrize("how", ["compress", "geolora", "condlr"])
def test_factors_that_cannot_be_put_in_leave_the_network_as_it_was(how: str) -> None:
    shared = nn.Linear(8, 8)
    net, x = nn.ModuleList([shared, nn.GRU(8, 8), shared, nn.Conv1d(8, 8, 3, groups=2), Closed()]), torch.randn(4, 8)
    parameters, kinds = dict(net.named_parameters(remove_duplicate=False)), [type(module) for module in net.modules()]
    values = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    before = net[1](x)[0]
    with pytest.raises(UserError, match="cannot be put into the network"):
        rlr.compress(net, method="dlrt", rank=2) if how == "compress" else rlr.adapt(net, method=how, rank=2)
    assert [(name, id(each)) for name, each in net.named_parameters(remove_duplicate=False)] == [
        (name, id(each)) for name, each in parameters.items()
    ]
    assert [type(module) for module in net.modules()] == kinds and all(each.requires_grad for each in parameters.values())
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach(), values[name], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(net[1](x)[0], before)
    net[1](x)[0].sum().backward()
    assert net[1].weight_hh_l0.grad is not None


def test_a_shared_layer_loads_at_another_rank(tmp_path) -> None:
    def shared() -> nn.Sequential:
        layer, rnn = nn.Linear(16, 16), nn.GRU(16, 16)
        return nn.Sequential(layer, nn.ReLU(), layer, nn.ModuleList([rnn, rnn]))

    first, second = shared(), shared()
    rlr.compress(first, method="dlrt", rank=4)
    rlr.compress(second, method="dlrt", rank=2)
    rlr.save(first, tmp_path / "net.safetensors")
    rlr.load(second, tmp_path / "net.safetensors")
    assert {layer.rank for _, layer in named_factored_layers(second)} == {4} and second[0] is second[2]


def test_subclasses_that_add_anything_are_merged() -> None:
    class Attending(nn.Linear):
        def attend(self, x: Tensor) -> Tensor:
            return x @ self.weight.mT

    class Called(nn.Linear):
        def __call__(self, x: Tensor) -> Tensor:
            return 2 * super().__call__(x)

    class Named(nn.Linear):
        def __init__(self, size: int) -> None:
            super().__init__(size, size)

    net = nn.Sequential(Attending(8, 8), Called(8, 8), Named(8))
    net[2]._register_state_dict_hook(lambda *args: None)
    x = torch.randn(2, 8)
    before = net(x)
    merged = rlr.compress(net, method="svd", rank=1.0).merged
    assert "attend" in merged["0.weight"] and "__call__" in merged["1.weight"] and "hooks" in merged["2.weight"]
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)
    net[0].attend(x)
    assert not rlr.compress(nn.Sequential(Named(8)), method="svd", rank=1.0).merged


def test_a_load_of_other_parts_is_none_of_the_factors() -> None:
    net, x = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(4, 16)
    rlr.compress(net, method="rgd", rank=2, exclude=["2"])
    opt = rlr.LowRankOptimizer(net, torch.optim.SGD, lr=0.01, step="amortised", window=2)
    step(net, opt, x)
    open_state = copy.deepcopy(net.state_dict())
    net.load_state_dict({"2.weight": net[2].weight.detach().clone()}, strict=False)
    for _ in range(9):
        step(net, opt, x)
    opt.finish()
    assert net[0].ranks() == (2, 2)
    step(net, opt, x)
    net.load_state_dict(open_state)  # of a window, without its optimizer: the directions that it had added go
    for _ in range(4):
        step(net, opt, x)
    opt.finish()
    assert net[0].ranks() == (2, 2)


def test_a_load_that_fails_changes_nothing(tmp_path) -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.GRU(8, 8))
    rlr.compress(net, method="dlrt", rank=2)
    rlr.save(net, tmp_path / "net.safetensors")
    for last in (nn.GRU(8, 6), nn.Identity()):
        other = nn.Sequential(nn.Linear(8, 8), last)
        state = {key: value.clone() for key, value in other.state_dict().items()}
        with pytest.raises(UserError, match="does not fit this network"):
            rlr.load(other, tmp_path / "net.safetensors")
        assert list(other.state_dict()) == list(state) and type(other[0]) is nn.Linear
        assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    with pytest.raises(UserError, match="meta device"):
        rlr.load(nn.Sequential(nn.Linear(8, 8), nn.GRU(8, 8)).to("meta"), tmp_path / "net.safetensors")


def test_copies_are_factored_each_on_its_own() -> None:
    net, x = nn.Sequential(nn.LSTM(8, 8)), torch.randn(2, 3, 8)
    rlr.compress(net, method="dlrt", rank=2, include=[".*hh.*"])
    before = net(x)[0].detach()
    twin = copy.deepcopy(net)
    rlr.compress(twin, method="dlrt", rank=2)
    assert len(list(named_factored_layers(twin))) == 2 and len(list(named_factored_layers(net))) == 1
    torch.testing.assert_close(net(x)[0], before)
    twin(x)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op:UserWarning")
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning")
def test_what_no_factors_can_be_made_of_is_named() -> None:
    sparse = nn.Linear(8, 8)
    sparse.weight = nn.Parameter(torch.eye(8).to_sparse())
    odd = nn.ModuleDict(
        {
            "sparse": sparse,
            "empty": nn.Conv2d(0, 8, 3),
            "complex": nn.Linear(8, 8).to(torch.complex64),
            "lazy": nn.LazyLinear(8),
            "plain": nn.Linear(8, 8),
            "table": nn.Embedding(30, 8, sparse=True),
        }
    )
    rlr.plan(odd, rank=2)
    kept = rlr.compress(odd, method="dlrt", rank=2, include=".*").kept_dense
    assert {name: kept[name].split()[-1] for name in kept} == kept | {
        "sparse": "factored", "empty": "3)", "complex": "factored", "lazy": "first", "lazy.bias": "first", "table": "sparse"
    }  # fmt: skip
    for refused, message in ((nn.Sequential(nn.Linear(8, 8)).to("meta"), "meta device"), (nn.Sequential(), "no parameter of two")):
        with pytest.raises(UserError, match=message):
            rlr.compress(refused, method="dlrt", rank=2)
    with torch.inference_mode(), pytest.raises(UserError, match="inference mode"):
        rlr.compress(nn.Sequential(nn.Linear(8, 8)), rank=2)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own decompositions
def test_forward_derivatives_outside_of_torch_func() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    rlr.compress(net, method="dlrt", rank=2)
    dense, x, v = rlr.export(net, to="dense"), *torch.randn(2, 3, 8, dtype=torch.float64)
    with forward_ad.dual_level():
        found, due = (forward_ad.unpack_dual(each(forward_ad.make_dual(x, v))).tangent for each in (net, dense))
    torch.testing.assert_close(found, due)


def test_states_of_other_kinds_are_refused() -> None:
    def training(method: str, optimizer, rank: int) -> tuple[nn.Module, rlr.LowRankOptimizer]:
        net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
        rlr.compress(net, method=method, rank=rank, exclude=["2"])
        opt = rlr.LowRankOptimizer(net, optimizer, lr=0.01)
        step(net, opt, torch.randn(8, 16))
        return net, opt

    _, adam = training("dlrt", torch.optim.Adam, 4)
    with pytest.raises(UserError, match="is one of Adam"):
        training("dlrt", torch.optim.SGD, 4)[1].load_state_dict(adam.state_dict())
    net, other = training("dlrt", torch.optim.Adam, 2)
    other.load_state_dict(copy.deepcopy(adam.state_dict()))
    with pytest.raises(UserError, match=r"ranks \(4, 4\) of layer '0', which has \(2, 2\)"):
        step(net, other, torch.randn(8, 16))
    with pytest.raises(UserError, match=r"ranks \(4, 4\)"):
        other.finish()
    net = nn.Sequential(nn.Linear(8, 8))
    rlr.compress(net, method="dlrt", rank=2)
    for columns in (0, 9):
        state = {key: value[:, :0] if columns == 0 and value.dim() == 2 else value for key, value in net.state_dict().items()}
        state["0.S"] = torch.zeros(columns, columns)
        with pytest.raises(RuntimeError, match="size mismatch"):
            net.load_state_dict(state)


def test_whole_files_and_compiled_networks(tmp_path) -> None:
    net, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(2, 8)
    compiled = torch.compile(net, backend="eager")
    assert set(rlr.compress(compiled, method="dlrt", rank=2, exclude=["2"]).ranks) == {"0"}
    rlr.save(compiled, tmp_path / "net.safetensors")
    fresh = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    torch.testing.assert_close(rlr.load(fresh, tmp_path / "net.safetensors")(x), net(x))
    assert type(rlr.export(compiled, to="dense")) is nn.Sequential


def test_an_adapter_file_freezes_what_was_frozen_and_knows_its_base(tmp_path) -> None:
    def base() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

    net = base()
    other = copy.deepcopy(net)
    rlr.adapt(net, method="geolora", rank=2, exclude=["2"])
    rlr.save(net, tmp_path / "adapter.safetensors", frozen=False)
    rlr.load(other, tmp_path / "adapter.safetensors")
    for each in (net, other):
        assert {name for name, parameter in each.named_parameters() if parameter.requires_grad} == {
            "0.update.S",
            "0.update.U",
            "0.update.V",
        }
    with pytest.warns(UserWarning, match="made for other frozen weights"):
        rlr.load(base(), tmp_path / "adapter.safetensors")


def test_attributes_that_decide_what_is_computed_cannot_be_changed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 8))
    rlr.compress(net, method="dlrt", rank=2)
    with pytest.raises(UserError, match="the padding of a factored layer cannot be changed"):
        net[0].padding = (1, 1)
    with pytest.raises(UserError, match="the weight of a factored layer cannot be changed"):
        net[1].weight = nn.Parameter(torch.zeros(8, 8))
    net[0].note = "mine"
    assert net[1].in_features == 8 and isinstance(rlr.export(net, to="factors")[1], nn.Sequential)  # looking decides nothing


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": "1"}, "must be a positive number"),
        ({"alpha": True}, "must be a positive number"),
        ({"trainable": "0.*"}, "must be a list"),
        ({"trainable": [5]}, "not a regular expression"),
        ({"exclude": lambda name, module: 1 / 0}, "failed at '0'"),
        ({"rank": rlr.Rank, "exclude": [3]}, "no regular expression, type"),
    ],
)
def test_bad_arguments_of_adapt_are_user_errors(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rlr.adapt(nn.Sequential(nn.Linear(8, 8)), **{"rank": 2, **options})
    for wrong in (lambda: rlr.Rank(overrides={5: 2}), lambda: rlr.Rank(overrides=["a"]), lambda: rlr.Budget(params="x")):
        with pytest.raises(UserError):
            wrong()
