"""A skeleton has the layers of a network whose weights alone are known: spectra, but no forward pass."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robust_lowrank import checkpoint
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.layers import ChainLayer, LowRankConv, LowRankLinear
from robust_lowrank.layers.forms import FORMS, Dense
from robust_lowrank.models.weights import bare, is_safetensors, read_weights
from robust_lowrank.submodules import put

FACTORED = {layer.core_name: layer for form in FORMS.values() for layer in form.layers if issubclass(layer, ChainLayer)}
DENSE: dict[int, type[ChainLayer]] = {
    2: LowRankLinear,
    3: LowRankConv,
    4: LowRankConv,
    5: LowRankConv,
}  # by dimensions of the weight


def skeleton(path: Path) -> nn.Module:
    """Return a module with the linear layers and convolutions of a file of weights, under their names, and all its other tensors.

    Every floating-point `weight` of two dimensions is taken for a linear layer (an embedding too: a file does not tell them apart),
    one of four for a convolution. In files that this package wrote, factored layers are what they were, a matricised kernel as the
    matrix that it is.

    Example:
        >>> torch.save({"fc.weight": torch.eye(2), "fc.bias": torch.zeros(2)}, "/tmp/net.pth")
        >>> skeleton(Path("/tmp/net.pth")).fc
        Linear(in_features=2, out_features=2, bias=True)

    Raises:
        UserError: there is no such file, it is not one of weights alone, or it holds no such weight.
    """
    tensors = read_weights(path)
    described = checkpoint.described(path) if is_safetensors(path) else None
    tensors = bare(tensors) if described is None else tensors
    root = nn.Module()
    try:
        factored = _factored(tensors, described or {})
        for name, layer in (_dense(tensors, set(factored)) | factored).items():
            _place(root, name, layer)
        for key in tensors.keys() - root.state_dict().keys():
            if not any(key.startswith(f"{name}.") for name in factored):
                parent, _, name = key.rpartition(".")
                _reach(root, parent).register_buffer(name, tensors[key])
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, StopIteration) as error:
        reason = first_line(error)
        raise UserError(f"{path} holds names that no network has, or factors that do not fit one another: {reason}") from error
    if not any(isinstance(module, Dense) for module in root.modules()):
        raise UserError(f"{path} holds no weight of a linear layer or convolution: there is no spectrum to report")
    return root if described is None else checkpoint.load(root, path)


def _dense(tensors: Mapping[str, Tensor], factored: set[str]) -> dict[str, nn.Module]:
    """Return the layers whose weights are whole, by name, with the tensors of the file."""
    layers = {}
    for key, tensor in tensors.items():
        name, _, last = key.rpartition(".")
        inside = any(f"{name}.".startswith(f"{place}.") for place in factored)
        if last == "weight" and name and tensor.ndim in DENSE and tensor.numel() and tensor.is_floating_point() and not inside:
            layers[name] = _layer(tensor, tensors.get(f"{name}.bias"))
    return layers


def _factored(tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> dict[str, nn.Module]:
    """Return dense layers of the shapes that the factors of a file multiply to, by name; `checkpoint.load` replaces them."""
    layers = {}
    for name, entry in described.items():
        place = name.rpartition(".")[0] if "alpha" in entry else name
        if "alpha" in entry:
            layers[place] = _layer(tensors[f"{place}.base.weight"], tensors.get(f"{place}.base.bias"))
        else:
            layers[place] = _layer(_shape(tensors, name), tensors.get(f"{name}.bias"))
    return layers


def _shape(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Return an empty weight of the shape that a layer's factors multiply to."""
    factors = {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
    layer = next(FACTORED[core] for core in FACTORED if core in factors)
    return torch.empty(layer.shape_of(factors))


def _layer(weight: Tensor, bias: Tensor | None) -> nn.Module:
    bias = bias if bias is not None and bias.shape == weight.shape[:1] else None
    return DENSE[weight.ndim].torch_layer(weight, bias).requires_grad_(False)


def _place(root: nn.Module, name: str, layer: nn.Module) -> None:
    _reach(root, name.rpartition(".")[0])
    put(root, name, layer)


def _reach(root: nn.Module, path: str) -> nn.Module:
    """Return the module at a path, made where it is missing."""
    module = root
    for part in path.split(".") if path else []:
        if part not in dict(module.named_children()):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    return module
