"""Adapted networks are written as LoRA adapters that stock PEFT loads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from robust_lowrank.choices import joined
from robust_lowrank.errors import UserError
from robust_lowrank.layers import Adapter, FactoredLayer, adapted_parts, named_factored_layers
from robust_lowrank.layers.conv import CONVS
from robust_lowrank.layers.halves import halves_of
from robust_lowrank.layers.linear import is_transposed
from robust_lowrank.layers.merged import MergedParameter
from robust_lowrank.layers.network import WHOLE, owner_of, shown_name
from robust_lowrank.peft.naming import CONFIG, PREFIX, WEIGHTS, by_name, saved_whole, target_modules
from robust_lowrank.records import replacing_directory
from robust_lowrank.submodules import uncompiled


class Pair(NamedTuple):
    """The product B A of a LoRA update, and its name in a file."""

    b: Tensor  # (n, r)
    a: Tensor  # (r, m), or (r, Cin, ...) of a convolution
    table: bool = False  # whether it is that of an embedding


@torch.no_grad()
def to_peft(model: nn.Module, path: str | Path) -> None:
    """Write the active updates of an adapted network as a LoRA adapter of PEFT, a directory of a configuration and safetensors.

    `peft.PeftModel.from_pretrained(base, path)` reads it, where `base` is the network before `adapt`. What scales an update is a
    part of B, so that PEFT scales by 1 whatever the rank; several active updates of a layer are one there, and so is an update and
    what it began with. Parameters that train beside the updates are written too, with the modules that have them, and running
    statistics of normalisations, which move in training.

    Args:
        model: a network after `adapt`, which stays as it is.
        path: a directory that is new or empty, or has an adapter of the same layers, which is replaced.

    Example:
        >>> to_peft(model, "adapters/german")  # doctest: +SKIP

    Raises:
        UserError: PEFT has nothing for one of the updates, which is named with the reason; or the directory holds something else.
    """
    model = uncompiled(model)
    pairs = {name: pair for name, pair in _pairs(model) if name is not None}
    if not pairs:
        raise UserError("the network has no active updates to write for PEFT: call adapt first, or rlr.set_adapter")
    tensors: dict[str, Tensor] = {}
    for name, (b, a, table) in pairs.items():
        keys = ("lora_embedding_A", "lora_embedding_B") if table else ("lora_A.weight", "lora_B.weight")
        tensors |= {f"{PREFIX}{name}.{key}": tensor for key, tensor in zip(keys, (a, b), strict=True)}
    biases, whole = _beside(model, set(pairs))
    for name in biases:
        tensors[f"{PREFIX}{name}.base_layer.bias"] = model.get_submodule(name).get_parameter("base.bias")
    state = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, _NormBase):
            tensors |= {f"{PREFIX}{name}.{key}": value for key, value in module.named_buffers()}
    for name in whole:
        tensors |= {f"{PREFIX}{key}": value for key, value in state.items() if key.startswith(f"{name}.")}
    config = _config(model, pairs, bool(biases), sorted(whole))
    _require_room(Path(path), set(tensors))
    with replacing_directory(Path(path)) as temporary:
        stored = {key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
        save_file(stored, temporary / WEIGHTS, metadata={"format": "pt"})
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _pairs(model: nn.Module) -> Iterator[tuple[str, Pair]]:
    """Yield the product of each module's active updates."""
    inside = {id(layer) for _, part in adapted_parts(model) for name in part.names for layer in part.layers_of(name)}
    for name, layer in named_factored_layers(model):
        if id(layer) not in inside:
            _refuse(name, "it is compressed, and PEFT knows updates of dense weights only", "export(to='dense') writes it as it is")
    places: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        places.setdefault(id(module), []).append(name)
    for path, part in adapted_parts(model):
        if not part.active:
            continue
        layers = [layer for name in part.active for layer in part.layers_of(name)]
        if len(places[id(part)]) > 1:
            _refuse(shown_name(path), "it is shared, and PEFT adapts one place alone")
        if isinstance(part, Adapter):
            if reason := _no_lora(model, path, part):
                _refuse(path, reason)
            yield path, _pair(layers, part.base.weight.shape if part.base.weight.dim() > 2 else None)
        elif isinstance(part, MergedParameter):
            owner, parameter = owner_of(path)
            table = model.get_submodule(owner)
            if part.labels != (WHOLE,) or parameter != "weight" or not _is_table(table):
                kind = type(table).__mro__[1].__name__
                _refuse(joined(owner, parameter), f"it is a parameter of a {kind}, and PEFT adds to the outputs of whole layers")
            pair = _pair(layers, None)
            yield owner, Pair(b=pair.a.T, a=pair.b.T, table=True)


def _is_table(module: nn.Module) -> bool:
    """Return whether a module, whose class is torch's for parametrized ones, is an embedding as PEFT knows it."""
    return type(module).__mro__[1] is nn.Embedding and getattr(module, "max_norm", None) is None


def _no_lora(model: nn.Module, path: str, adapter: Adapter) -> str:
    """Return why PEFT has nothing for an adapter; empty if it has."""
    base, parent = adapter.base, model.get_submodule(path.rpartition(".")[0])
    if not path:
        return "it is the whole network"
    if isinstance(parent, nn.MultiheadAttention) or any(update.read for update in adapter.taking_part()):
        return f"the {type(parent).__name__} around it reads its weight, and PEFT adds to what a layer returns"
    if any(update.kind == "tucker" for update in adapter.taking_part()):
        return "its update is in Tucker form, and PEFT's is a product of two"
    if isinstance(base, nn.Linear) or is_transposed(base):
        return ""
    if type(base) not in CONVS.values():
        return f"PEFT has no layer for a {type(base).__name__}"
    if set(base.dilation) != {1}:
        return f"PEFT's update of a convolution has no dilation, and it has {base.dilation}"
    if base.weight.dim() == 5 and base.weight.shape[2:4] == (1, 1):
        return "PEFT does not merge updates of kernels that are 1 deep and 1 high"
    return ""


def _refuse(
    name: str, reason: str, remedy: str = "leave it out of adapt (exclude), or merge the updates with export(to='dense')"
) -> NoReturn:
    raise UserError(f"layer {name!r} cannot be written for PEFT: {reason}.\n{remedy[0].upper()}{remedy[1:]}")


def _pair(layers: list[FactoredLayer], kernel: torch.Size | None) -> Pair:
    """Return the product that is the sum of updates, each less what it began with, and scaled."""
    halves = [half for layer in layers for half in halves_of(layer)]
    b = torch.cat([left for left, _ in halves], 1)
    a = torch.cat([right for _, right in halves], 1).T
    if kernel is None:
        return Pair(b, a)
    return Pair(b[(..., *[None] * (len(kernel) - 2))], a.reshape(-1, *kernel[1:]))


def _beside(model: nn.Module, targets: set[str]) -> tuple[set[str], set[str]]:
    """Return the targets whose biases train, and the modules that are to be written whole, as others of their parameters train.

    Raises:
        UserError: PEFT cannot write one of them.
    """
    updates = {
        id(each)
        for _, part in adapted_parts(model)
        for name in part.names
        for layer in part.layers_of(name)
        for each in layer.parameters()
    }
    biases, wanted = set(), set()
    for name, module in model.named_modules():
        trained = [each for each, parameter in module._parameters.items() if parameter is not None and parameter.requires_grad]
        if all(id(module._parameters[each]) in updates for each in trained):
            continue
        place = name.removesuffix(".base")
        if place in targets:
            biases.add(place)
        elif name and not name.rpartition(".")[2].startswith("parametrizations"):
            wanted.add(name)
        else:
            _refuse(
                f"{name}.{trained[0]}".strip("."),
                "it trains beside the updates, and PEFT saves whole modules alone",
                "leave it out of trainable",
            )
    modules = [name for name, _ in model.named_modules() if name and not any(name.startswith(f"{target}.") for target in targets)]
    found, reason = saved_whole(wanted, targets, modules)
    if reason:
        names = ", ".join(sorted(wanted)[:4])
        raise UserError(
            f"{names} cannot be written for PEFT beside the updates: {reason}.\nLeave them out of trainable, or exclude that layer"
        )
    return biases, found


def _config(model: nn.Module, pairs: dict[str, Pair], biases: bool, whole: list[str]) -> dict[str, Any]:
    ranks = {name: pair.a.shape[0] for name, pair in pairs.items()}
    rank = max(ranks.values())
    patterns = {} if len(set(ranks.values())) == 1 else by_name(ranks)
    modules = [name for name, _ in model.named_modules() if name and not any(name.startswith(f"{target}.") for target in pairs)]
    place = getattr(getattr(model, "config", None), "_name_or_path", None)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": place if isinstance(place, str) and place else None,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": patterns,
        "alpha_pattern": patterns,
        "target_modules": target_modules(pairs, modules),
        "fan_in_fan_out": any(is_transposed(getattr(model.get_submodule(name), "base", None)) for name in pairs),
        "bias": "lora_only" if biases else "none",
        "modules_to_save": whole or None,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _require_room(path: Path, keys: set[str]) -> None:
    """Raise a `UserError` if a directory holds something else than an adapter of the same layers."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir():
        raise UserError(f"{path} is a file: give a directory for the adapter")
    found = {each.name for each in path.iterdir()}
    try:
        with safe_open(path / WEIGHTS, framework="pt") as file:
            same = set(file.keys()) == keys
    except (SafetensorError, OSError):
        same = False
    if not same or found != {CONFIG, WEIGHTS}:
        raise UserError(
            f"{path} holds something else than an adapter of the same layers ({', '.join(sorted(found)[:4])}): give a new directory"
        )
