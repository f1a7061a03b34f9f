"""Layers of equal shapes that are computed together move as they do one by one."""

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import DLRT, RGD, TDLRT, CondLR, GeoLoRA, LowRankOptimizer, RobustDLRT, compress, linalg
from robust_lowrank.layers import trained_layers
from robust_lowrank.methods import Method
from robust_lowrank.optim import together as module
from robust_lowrank.optim.together import together

F64 = torch.float64
METHODS = {
    "condlr": CondLR(),
    "condlr polar": CondLR(retraction="polar"),
    "condlr tau=inf": CondLR(tau=float("inf")),
    "rgd": RGD(),
    "geolora": GeoLoRA(tol=0.05),
    "geolora cond": GeoLoRA(tol=0.05, cond=2.0),
    "dlrt": DLRT(),
    "dlrt tol": DLRT(tol=0.05),
    "tdlrt": TDLRT(tol=0.05),
    "robust-dlrt": RobustDLRT(),
}
INNER = {"sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), "adamw": (torch.optim.AdamW, {"lr": 0.02, "amsgrad": True})}


def network(method: Method) -> nn.Module:
    torch.manual_seed(0)
    layers = [part for _ in range(5) for part in (nn.Linear(12, 12), nn.Tanh())]
    net = nn.Sequential(nn.Conv2d(1, 12, 2), *(nn.Conv2d(12, 12, 3, padding=1) for _ in range(3)), nn.Flatten(2), *layers)
    compress(net, method=method, rank=3, exclude=[r"0"], init="kaiming")
    return net.to(F64)


def trained(method: Method, inner: str, device: torch.device | str, steps: int = 6) -> list[Tensor]:
    net = network(method).to(device)
    kind, options = INNER[inner]
    opt = LowRankOptimizer(net, kind, **options)
    x, target = torch.rand(8, 1, 4, 5, dtype=F64, device=device), torch.rand(8, 12, 12, dtype=F64, device=device)

    def closure() -> Tensor:
        opt.zero_grad()
        loss = (net(x) - target).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        opt.step(closure)
    return [layer.dense_weight().detach() for _, layer in trained_layers(net)]


DEFAULT = {
    ("condlr", "adamw"),
    ("condlr", "sgd"),
    ("geolora", "adamw"),
    ("rgd", "adamw"),
    ("dlrt tol", "adamw"),
    ("tdlrt", "adamw"),
}
CASES = [
    pytest.param(method, inner, marks=() if (method, inner) in DEFAULT else pytest.mark.slow, id=f"{method}-{inner}")
    for method in METHODS
    for inner in INNER
]


@pytest.mark.parametrize(("method", "inner"), CASES)
def test_a_training_is_that_of_layers_one_by_one(
    method: str, inner: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks: list[int] = []
    real = torch.func.vmap
    monkeypatch.setattr(
        torch.func, "vmap", lambda function: lambda *stack: (stacks.append(len(stack[0])), real(function)(*stack))[1]
    )
    found = trained(METHODS[method], inner, device)
    assert max(stacks, default=0) >= module.FEWEST
    monkeypatch.setattr(module, "FEWEST", 1000)
    stacks.clear()
    expected = trained(METHODS[method], inner, device)
    assert not stacks
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and float((one - other).abs().max()) < 1e-9


def test_what_one_layer_of_a_stack_needs_is_done_for_it() -> None:
    """A long step is retracted by Householder's QR, and the short ones beside it by Cholesky's."""
    bases = {str(i): linalg.orth(torch.randn(9, 3, dtype=F64)) for i in range(4)}
    moved = {name: (basis + (10.0 if name == "2" else 0.1) * torch.randn(9, 3, dtype=F64),) for name, basis in bases.items()}
    for name, q in together(lambda a: linalg.retract(a, "qr"), moved).items():
        assert float((q - linalg.qf(*moved[name])).abs().max()) < 1e-13


def test_a_layer_that_fails_is_named() -> None:
    calls = {f"layer{i}": (torch.eye(3, dtype=F64) * (float("nan") if i == 3 else 1.0),) for i in range(5)}
    with pytest.raises(linalg.FactorisationError, match="'layer3'"):
        together(linalg.svd, calls)


def test_what_is_no_tensor_parts_stacks() -> None:
    """Scalars may be looked at, so that layers of other values are computed for themselves."""
    calls = {str(i): ({"step": torch.tensor(float(i // 3)), "a": torch.full((2,), float(i))}, i % 2 == 0) for i in range(6)}

    def looking(state: dict[str, Tensor], even: bool) -> dict[str, Tensor]:
        return {"step": state["step"] + 1, "a": state["a"] * (float(state["step"]) + 1) * (2 if even else 1)}

    for name, found in together(looking, calls).items():
        state, even = calls[name]
        assert torch.equal(found["a"], state["a"] * (int(name) // 3 + 1) * (2 if even else 1))
        assert torch.equal(found["step"], state["step"] + 1)
