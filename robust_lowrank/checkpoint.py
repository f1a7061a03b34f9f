"""Weights live in safetensors; ranks and method travel in the header, and nothing in a file is executed."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from robust_lowrank.compression import install
from robust_lowrank.errors import UserError
from robust_lowrank.layers import Adapter, named_factored_layers
from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.layers.forms import Dense, build, form_of
from robust_lowrank.methods import Method, Vanilla, named
from robust_lowrank.provenance import digest_tensors
from robust_lowrank.records import replacing

HEADER = "robust_lowrank"
UPDATE = ".update"


def save(model: nn.Module, path: str | Path) -> None:
    """Write a network's weights, its factored layers at their present ranks.

    Example:
        >>> save(nn.Linear(2, 2), "/tmp/net.safetensors")
    """
    modules = dict(model.named_modules())
    layers = {}
    for name, layer in named_factored_layers(model):
        layers[name] = {"method": _described(layer), "ranks": layer.ranks()}
        if isinstance(adapter := modules.get(name.removesuffix(UPDATE)), Adapter):
            layers[name]["alpha"] = adapter.alpha
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items()}
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={HEADER: json.dumps({"version": 1, "layers": layers})})


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """Read weights into a network of the same architecture, dense or factored, and return it.

    Layers that the file holds as factors are replaced in place.

    Raises:
        UserError: there is no such file, it is not one that `save` wrote, or it does not fit the network.
    """
    path = Path(path)
    header, tensors = _read(path)
    for name, entry in header["layers"].items():
        _admit(model, name, entry, path)
    expected = model.state_dict()
    wrong = sorted(expected.keys() ^ tensors.keys()) or [
        key for key, tensor in tensors.items() if expected[key].shape != tensor.shape
    ]
    if wrong:
        raise UserError(f"{path} does not fit this network: {', '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}")
    model.load_state_dict(tensors)
    return model


def described(path: str | Path) -> dict[str, Any] | None:
    """Return what a file says of its factored layers, by name; None if this package did not write it.

    Raises:
        UserError: another version of this package wrote it.
    """
    with safe_open(path, framework="pt") as file:
        written_here = HEADER in (file.metadata() or {})
    return _read(Path(path))[0]["layers"] if written_here else None


def digest(model: nn.Module) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of a network's state."""
    return digest_tensors(model.state_dict())


def _described(layer: FactoredLayer) -> dict[str, Any]:
    method: Method = Vanilla() if layer.method is None else layer.method
    return {"name": method.name, **asdict(method)}  # pyright: ignore[reportArgumentType]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[HEADER])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: there are no weights to load") from error
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not a file of weights that robust-lowrank wrote ({type(error).__name__})") from error
    if not isinstance(header, dict) or header.get("version") != 1 or not isinstance(header.get("layers"), dict):
        raise UserError(f"{path} was written by another version of robust-lowrank")
    return header, tensors


def _admit(model: nn.Module, name: str, entry: Any, path: Path) -> None:
    """Put a layer with the file's method and ranks, its factors still to be filled, in the place of the network's."""
    modules = dict(model.named_modules())
    place = name.removesuffix(UPDATE) if "alpha" in entry else name
    layer = modules.get(place)
    if isinstance(layer, Adapter):
        layer = layer.base
    elif isinstance(layer, FactoredLayer):
        layer = layer.dense_layer()
    if not isinstance(layer, Dense):
        raise UserError(f"{path} does not fit this network: it has no linear layer or convolution {place!r}")
    try:
        options = dict(entry["method"])
        method = named(options.pop("name"))(**options)
        factors = form_of(method).blank(layer, tuple(int(rank) for rank in entry["ranks"]))
        alpha = float(entry.get("alpha", 1.0))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the description of layer {name!r} does not fit this network") from error
    built = build(layer, factors, method, bias="alpha" not in entry)
    install(model, place, Adapter(layer, built, alpha=alpha) if "alpha" in entry else built)
