"""LoRA adapters of PEFT are read as data: a JSON file and tensors."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from robust_lowrank.containers import check_safetensors
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.peft.naming import CONFIG, PREFIX, WEIGHTS, matching

LARGEST_CONFIG = 4 << 20  # bytes
FACTORS = {  # ends of keys, and which factor of an update they hold
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_embedding_A": "a",
    ".lora_embedding_B": "b",
    ".lora_A": "a",
    ".lora_B": "b",
    ".lora_E": "values",
}
REFUSED = {  # fields whose values other than false, empty or None change what an adapter computes, and what they are
    "use_dora": "DoRA, which also scales the columns of weights",
    "lora_bias": "a bias of the updates",
    "alora_invocation_tokens": "activated LoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "use_qalora": "QALoRA",
    "layer_replication": "replicated layers",
    "target_parameters": "updates of single parameters",
    "trainable_token_indices": "trained tokens",
    "megatron_config": "Megatron",
}


class Product(NamedTuple):
    """What an adapter adds to a weight: left right^T."""

    left: Tensor  # (n, r), scaled
    right: Tensor  # (m, r), of a convolution m = Cin * prod(kernel)
    scaling: float
    kernel: torch.Size  # (Cin, ...) of a convolution; empty otherwise
    table: bool  # whether it is that of an embedding, n its rows


@dataclass
class PeftFile:
    """An adapter: its updates by the names of their modules, and other tensors by the names of the network's."""

    products: dict[str, Product]
    beside: dict[str, Tensor] = field(default_factory=dict)


class _Config(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")
    peft_type: str
    r: int = 8
    lora_alpha: float = 8.0
    rank_pattern: dict[str, Any] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    init_lora_weights: Any = True


def read_peft(path: str | Path) -> PeftFile:
    """Return what a directory holds that PEFT's `save_pretrained` wrote: LoRA, also rank-stabilised, or AdaLoRA.

    Example:
        >>> read_peft("adapters/german").products["model.layers.0.self_attn.q_proj"].left.shape  # doctest: +SKIP
        torch.Size([512, 8])

    Raises:
        UserError: it is none, it is damaged, or it computes something else than a low-rank update.
    """
    path = Path(path)
    text, tensors = _config_of(path), _tensors_of(path)
    try:
        config = _Config.model_validate(text)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise UserError(
            f"{path / CONFIG} is no configuration of PEFT: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
        ) from error
    if config.peft_type not in ("LORA", "ADALORA"):
        raise UserError(f"{path} is an adapter of the type {config.peft_type[:40]!r}: LORA and ADALORA can be read")
    for key, what in REFUSED.items():
        if text.get(key) not in (None, False, [], {}):
            raise UserError(f"{path} is {what} ({key}), which is no low-rank update of a weight alone: merge it with peft first")
    if config.init_lora_weights in ("pissa", "corda", "olora", "loftq", "lora_ga") or str(config.init_lora_weights).startswith(
        "pissa_"
    ):
        raise UserError(
            f"{path} began with a part of the weights ({str(config.init_lora_weights)[:40]}), which they lack under it: write it "
            "as plain LoRA with peft's save_pretrained(path_initial_model_for_weight_conversion=...)"
        )
    factors: dict[str, dict[str, Tensor]] = {}
    beside: dict[str, Tensor] = {}
    tables: set[str] = set()
    for key, tensor in tensors.items():
        if not key.startswith(PREFIX):
            raise UserError(
                f"{path} has the tensor {key[:80]!r}, whose name does not begin with {PREFIX}: it is no file of PEFT's LoRA"
            )
        name = key.removeprefix(PREFIX)
        end = next((end for end in FACTORS if name.endswith(end)), None)
        if end is not None:
            factors.setdefault(name.removesuffix(end), {})[FACTORS[end]] = tensor
            if "embedding" in end:
                tables.add(name.removesuffix(end))
        elif "lora_" in name:
            raise UserError(f"{path} has the tensor {key[:80]!r}, which is no factor of a low-rank update")
        else:
            beside[name.replace(".base_layer.", ".")] = tensor
    if not factors:
        raise UserError(f"{path} holds no updates")
    products = {name: _product(path, name, parts, config, table=name in tables) for name, parts in factors.items()}
    return PeftFile(products, beside)


def _config_of(path: Path) -> dict[str, Any]:
    file = path / CONFIG
    try:
        if file.exists() and not file.is_file():
            raise UserError(f"{file} is no regular file")
        if file.stat().st_size > LARGEST_CONFIG:
            raise UserError(f"{file} is larger than any configuration")
        text = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} holds no {CONFIG}: give a directory that peft's save_pretrained wrote") from error
    except UserError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {first_line(error)}") from error
    if not isinstance(text, dict):
        raise UserError(f"{file} is no configuration of PEFT")
    return text


def _tensors_of(path: Path) -> dict[str, Tensor]:
    file = path / WEIGHTS
    if not file.is_file() and (path / "adapter_model.bin").is_file():
        raise UserError(
            f"{path} holds adapter_model.bin, whose reading could run any code. Where you trust it, load it with peft and write it "
            "anew: PeftModel.from_pretrained(...).save_pretrained(...)"
        )
    try:
        check_safetensors(file)
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"{path} holds no {WEIGHTS}: give a directory that peft's save_pretrained wrote") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is damaged, or no file of tensors: {first_line(error)}") from error


def _product(path: Path, name: str, parts: Mapping[str, Tensor], config: _Config, *, table: bool) -> Product:
    if not {"a", "b"} <= parts.keys() or ("values" in parts) != (config.peft_type == "ADALORA"):
        raise UserError(
            f"{path} lacks a factor of the update of {name[:80]!r}, which has {', '.join(sorted(parts))}: it was cut off"
        )
    if not all(tensor.is_floating_point() and bool(torch.isfinite(tensor).all()) for tensor in parts.values()):
        raise UserError(f"{path} has factors of {name[:80]!r} that are no finite numbers")
    a, b = (parts[key].to(torch.promote_types(parts[key].dtype, torch.float32)) for key in "ab")
    rank = b.shape[1] if b.dim() > 1 else 0
    if a.dim() < 2 or rank < 1 or a.shape[0] != rank or b[0].numel() != rank:
        raise UserError(f"{path} has factors of {name[:80]!r} that do not fit: {tuple(a.shape)} and {tuple(b.shape)}")
    try:
        alpha = matching(config.alpha_pattern or {}, name)
    except ValueError as error:
        raise UserError(f"{path / CONFIG}: alpha_pattern: {error}") from error
    alpha = config.lora_alpha if alpha is None else alpha
    if config.peft_type == "ADALORA":
        a = a * parts["values"].to(a.dtype).reshape(-1, *[1] * (a.dim() - 1))
        scaling = (alpha if alpha > 0 else rank) / (rank + 1e-5)
    else:
        scaling = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    if not 0 < abs(scaling) < math.inf:
        raise UserError(f"{path / CONFIG}: alpha = {alpha} of {name[:80]!r} is no factor of an update")
    left, right = b.flatten(1), a.flatten(1).T
    if table:
        left, right = right, left
    return Product(scaling * left, right, scaling, a.shape[1:] if a.dim() > 2 else torch.Size(), table)
