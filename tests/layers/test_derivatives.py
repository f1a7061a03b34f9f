"""All derivatives are those of the dense layer with the merged weight, and arrive at factors as projected ones."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

from robust_lowrank import TDLRT, Rank, compress, export, linalg
from robust_lowrank.layers import named_factored_layers
from robust_lowrank.layers.merging import merge
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import Method

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:FutureWarning"
)  # torch's own, of its decompositions


class Recurrent(nn.Module):
    """Its weights are merged; cells, because no backend has second derivatives of a whole LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.attention = nn.GRUCell(6, 8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 8)
        steps = [h := self.cell(each, h) for each in x.unbind(1)]
        together = torch.stack(steps, 1)
        return self.attention(together, together, together, need_weights=True)[0].mean(
            1
        )  # weights: the fused kernel has no second derivative


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)), (6,)),
    "signals": (lambda: nn.Sequential(nn.Conv1d(2, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(30, 4)), (2, 5)),
    "images": (lambda: nn.Sequential(nn.Conv2d(2, 6, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 4)), (2, 5, 5)),
    "volumes": (lambda: nn.Sequential(nn.Conv3d(2, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 4)), (2, 4, 4, 4)),
    "merged": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(72, 4)), (4, 5, 5)),
    "recurrent": (Recurrent, (3, 6)),
}
CASES = [
    *((network, method) for network in NETWORKS for method in ("condlr", "vanilla")),
    ("images", TDLRT(modes="all")),
]
each_case = pytest.mark.parametrize(("network", "method"), CASES, ids=[f"{net}-{getattr(how, 'name', how)}" for net, how in CASES])


def pair(network: str, method: str | Method = "condlr") -> tuple[nn.Module, nn.Module, Tensor]:
    """Return a factored network, its dense form, and a batch of inputs."""
    build, shape = NETWORKS[network]
    model = build().double()
    compress(model, method=method, rank=Rank(overrides={".*": 0.5}))
    for _, layer in named_factored_layers(model):
        if layer.bases():
            layer.core.data = torch.randn_like(layer.core)
    return model, export(model, to="dense"), torch.randn(3, *shape, dtype=torch.float64)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def loss_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: nn.functional.cross_entropy(model(x), torch.zeros(len(x), dtype=torch.long))


@each_case
def test_gradient_penalties_are_those_of_the_dense_network(network: str, method: str | Method) -> None:
    model, dense, x = pair(network, method)
    gradients = []
    for net in (model, dense):
        z = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss_of(net)(z), z, create_graph=True)
        penalty = slope.square().sum()
        assert penalty.item() > 0
        penalty.backward()
        gradients.append(z.grad)
    close(*gradients)
    due = {name: parameter.grad for name, parameter in dense.named_parameters()}
    for name, layer in model.named_children():
        if not hasattr(layer, "bases") or not layer.bases():
            continue
        g = due[f"{name}.weight"]
        if layer.kind == "tucker":
            close(layer.core.grad, linalg.multi_product(g, [basis.T for basis in layer.bases()]))
        else:
            (u, v), g = layer.bases(), g.flatten(1)
            close(u.grad, g @ v)
            close(layer.core.grad, u.T @ g @ v)
            close(v.grad, g.T @ u)


@each_case
def test_hessian_vector_products_are_those_of_the_dense_network(network: str, method: str | Method) -> None:
    model, dense, x = pair(network, method)
    v = torch.randn_like(x)
    found, due = (torch.autograd.functional.hvp(loss_of(net), x, v)[1] for net in (model, dense))
    assert due.norm() > 0
    close(found, due)


@each_case
def test_torch_func_gives_what_it_gives_of_the_dense_network(network: str, method: str | Method) -> None:
    model, dense, x = pair(network, method)
    if network == "recurrent":
        model.eval(), dense.eval()
    v = torch.randn_like(x)

    def one(net: nn.Module) -> Callable[[Tensor], Tensor]:
        return lambda z: net(z[None])[0]

    close(*(grad(loss_of(net))(x) for net in (model, dense)))
    close(*(vmap(jacrev(one(net)))(x) for net in (model, dense)))
    close(*(jvp(net, (x,), (v,))[1] for net in (model, dense)))
    close(*(jacfwd(one(net))(x[0]) for net in (model, dense)))
    close(*(hessian(lambda z, net=net: one(net)(z).square().sum())(x[0]) for net in (model, dense)))


@pytest.mark.parametrize("network", ["linear", "images", "merged"])
def test_gradients_of_single_examples_are_the_projected_ones(network: str) -> None:
    model, _, x = pair(network)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, parameters, (x[None],)).square().sum()

    each = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        close(each[name].sum(0), parameter.grad)


@pytest.mark.parametrize("shape", [(5, 4), (4, 3, 2, 2)], ids=str)
def test_a_merged_weight_is_an_affine_chart(shape: tuple[int, ...]) -> None:
    """Its derivatives forward and backward are adjoint, and its second derivatives are zero."""
    bases = tuple(linalg.orth(torch.randn(n, 2, dtype=torch.float64)).requires_grad_() for n in shape[:2])
    core = torch.randn(2, 2, *shape[2:], dtype=torch.float64, requires_grad=True)
    factors = Factors(core, bases)
    g = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    slots = torch.autograd.grad(merge(factors), (core, *bases), g, create_graph=True)
    moves = tuple(torch.randn_like(slot) for slot in slots)
    _, moved = jvp(lambda *each: merge(Factors(each[0], each[1:])), (core, *bases), moves)
    pairing = sum((slot * move).sum() for slot, move in zip(slots, moves, strict=True))
    close((g * moved).sum(), pairing)
    (through,) = torch.autograd.grad(pairing, g)
    close(through, moved)


def test_a_second_derivative_of_factors_is_the_dense_one_between_them() -> None:
    """Of <dK, A> the slots receive H[A V^T] projected, H being the dense Hessian of the layer's weight."""
    model, dense, x = pair("linear")
    layer = model[0]
    direction = torch.randn_like(layer.U)
    (k,) = torch.autograd.grad(loss_of(model)(x), layer.U, create_graph=True)
    (k * direction).sum().backward()
    weight = dense[0].weight
    (g,) = torch.autograd.grad(loss_of(dense)(x), weight, create_graph=True)
    (h,) = torch.autograd.grad((g * (direction @ layer.V.detach().T)).sum(), weight)
    close(layer.U.grad, h @ layer.V.detach())
    close(layer.V.grad, h.T @ layer.U.detach())


def test_copies_of_a_network_have_derivatives_of_their_own() -> None:
    model, _, x = pair("merged")
    other = copy.deepcopy(model)
    other(x).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for parameter in other.parameters())
