"""Weights live in safetensors; ranks and method travel in the header, and nothing in a file is executed."""

import json
import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from robust_lowrank.admission import admit, describe
from robust_lowrank.containers import check_safetensors
from robust_lowrank.errors import UserError, first_line
from robust_lowrank.exporting.thin import take_thin
from robust_lowrank.installation import undoing
from robust_lowrank.layers import ChainLayer, named_factored_layers
from robust_lowrank.layers.base import FactoredLayer
from robust_lowrank.layers.network import UPDATE
from robust_lowrank.methods.bases import decompose, truncate
from robust_lowrank.provenance import digest_tensors
from robust_lowrank.records import replacing
from robust_lowrank.submodules import uncompiled

HEADER = "robust_lowrank"
PLAIN = json.dumps({"version": 1, "layers": {}})  # what the header of a file without one would say


def save(model: nn.Module, path: str | Path, *, frozen: bool = True) -> None:
    """Write a network's weights, its factored layers at their present ranks.

    Args:
        frozen: whether to write frozen parameters too. Without them the file of an adapted network holds its adapters alone, and is
            loaded into the network that they were made for, whose other parameters are then frozen. Adapters that took a part of
            the frozen weight, as those of CondLR do, keep it in their file.

    Example:
        >>> save(nn.Linear(2, 2), "/tmp/net.safetensors")

    Raises:
        UserError: the network's state holds something else than tensors.
    """
    model = uncompiled(model)
    layers = describe(model)
    if odd := [key for key, value in model.state_dict().items() if not isinstance(value, Tensor)]:
        raise UserError(f"{odd[0]} of the network's state is no tensor, and a file of safetensors holds nothing else")
    left_out = set() if frozen else _frozen(model)
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items() if key not in left_out}
    header: dict[str, Any] = {"version": 1, "layers": layers}
    if not frozen:
        header |= {"without": sorted(left_out), "base": _digest_of(model, left_out)}
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={HEADER: json.dumps(header)})


def load(model: nn.Module, path: str | Path, *, rank: int | float | None = None) -> nn.Module:
    """Read weights into a network of the same architecture, dense or factored, and return it.

    Layers that the file holds as factors are put in; those that are there already keep their parameters, and their optimizer. A
    file that `export` wrote makes a network of ordinary layers, some of them chains of thin ones.

    Args:
        rank: cut the factors at fewer leading directions, an int or a fraction of the rank that each layer has in the file.

    Raises:
        UserError: there is no such file, it does not fit the network, another version wrote it, or the rank is below 1.
    """
    path = Path(path)
    number = isinstance(rank, (int, float)) and not isinstance(rank, bool)
    if rank is not None and not (number and (0 < rank <= 1 if isinstance(rank, float) else rank >= 1)):
        raise UserError(f"rank = {rank!r} at which to cut layers is neither an integer from 1 nor a fraction in (0, 1]")
    header, tensors = read(path)
    if "adapter" in header:
        raise UserError(f"{path} holds the adapter {header['adapter']!r} alone: take rlr.load_adapter")
    given, model = model, uncompiled(model)
    try:
        if meta := [key for key, tensor in model.state_dict().items() if isinstance(tensor, Tensor) and tensor.is_meta]:
            raise UserError(f"{meta[0]} is on the meta device: call to_empty first")
        with undoing() as undo:
            admit(model, header["layers"], undo)
            take_thin(model, tensors, undo)
            expected = model.state_dict()
            tensors = {key: expected[key] for key in header["without"] if key in expected} | tensors
            wrong = sorted(expected.keys() ^ tensors.keys()) or misfits(model, expected, tensors)
            if wrong:
                raise UserError(f"{', '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}")
            if (base := header.get("base")) is not None and base != _digest_of(model, header["without"]):
                warnings.warn(f"{path} was made for other frozen weights than those of this network", stacklevel=2)
            model.load_state_dict(tensors)
            for name, parameter in model.named_parameters(remove_duplicate=False):
                if name in header["without"]:
                    parameter.requires_grad_(False)
    except (UserError, RuntimeError, TypeError) as error:
        raise UserError(f"{path} does not fit this network: {first_line(error)}") from error
    if rank is not None:
        _cut(model, rank, path)
    return given


def misfits(model: nn.Module, expected: dict[str, Tensor], tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of tensors that a network cannot take up; factors may have other ranks."""
    wrong = []
    factors: set[str] = set()
    for path, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, FactoredLayer):
            names = [f"{path}.{name}" for name in layer.names()]
            factors.update(names)
            if not layer.fits({name: tensors[key] for name, key in zip(layer.names(), names, strict=True)}):
                wrong += names
    return wrong + [
        key
        for key, tensor in tensors.items()
        if key not in wrong
        and ((key not in factors and expected[key].shape != tensor.shape) or not same_kind(expected[key], tensor))
    ]


def same_kind(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether one tensor's numbers stay what they are, copied into the other: real, complex, integers or truths."""

    def kind(tensor: Tensor) -> tuple[bool, bool, bool]:
        return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype == torch.bool

    return kind(ours) == kind(theirs)


@torch.no_grad()
def _cut(model: nn.Module, rank: int | float, path: Path) -> None:
    """Leave all layers their leading directions: so many, or a fraction of those that each has."""

    def kept(size: int) -> int:
        return min(size, math.ceil(rank * size) if isinstance(rank, float) else rank)

    actions: list[Callable[[], None]] = []
    for name, layer in named_factored_layers(model):
        if not all(bool(torch.isfinite(factor).all()) for factor in layer.all_factors()):
            raise UserError(f"{path}: layer {name!r} holds NaN or infinity, and has no leading directions")
        if layer.bases():
            factors = layer.used_factors()
            actions.append(partial(layer.set_factors, truncate(factors, decompose(factors), tuple(map(kept, layer.ranks())))))
        else:
            actions.append(partial(layer.keep_leading, kept(layer.rank)))
    for act in actions:
        act()


def described(path: str | Path) -> dict[str, Any] | None:
    """Return what a file says of its factored layers, by name; None if this package did not write it.

    Raises:
        UserError: another version of this package wrote it.
    """
    with safe_open(path, framework="pt") as file:
        written_here = HEADER in (file.metadata() or {})
    return read(Path(path))[0]["layers"] if written_here else None


def digest(model: nn.Module) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of a network's state."""
    return digest_tensors(model.state_dict())


def _digest_of(model: nn.Module, names: Iterable[str]) -> str:
    """Return the SHA-256 of those of a network's tensors."""
    state = model.state_dict()
    return digest_tensors({name: state[name] for name in names if name in state})


def _frozen(model: nn.Module) -> set[str]:
    """Return the names of the parameters that an adapted network has from elsewhere."""
    changed = {
        f"{path.removesuffix(f'.{UPDATE}')}.base.weight" if isinstance(layer, ChainLayer) else _original(path)
        for path, layer in model.named_modules()
        if isinstance(layer, FactoredLayer) and layer.method is not None and layer.method.needs_start and layer.start is None
    }  # by adapters that older versions made
    factors = {id(factor) for _, layer in named_factored_layers(model) for factor in layer.all_factors()}
    names = {
        name for name, each in model.named_parameters(remove_duplicate=False) if not each.requires_grad and id(each) not in factors
    }
    return names - changed


def _original(path: str) -> str:
    """Return the name of the frozen parameter beside which a merged update stands."""
    stem, _, rest = path.rpartition("parametrizations.")
    return f"{stem}parametrizations.{rest.partition('.')[0]}.original"


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors of a file that this package wrote.

    Raises:
        UserError: there is none, or it is something else.
    """
    try:
        check_safetensors(path)
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get(HEADER, PLAIN))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: there are no weights to load") from error
    except UserError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a file of weights in safetensors, or it is damaged ({type(error).__name__})") from error
    header = {"without": [], **header} if isinstance(header, dict) else {}
    sound = isinstance(header.get("layers"), dict) and isinstance(header["without"], list)
    if header.get("version") != 1 or not sound or not all(isinstance(key, str) for key in header["without"]):
        raise UserError(f"{path} was written by another version of robust-lowrank")
    return header, tensors
