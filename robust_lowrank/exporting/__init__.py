"""Networks are taken away: as ordinary torch layers, or as files that other programs run."""

from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, overload

import torch
from safetensors.torch import save_file
from torch import nn

from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.exporting.inference import fastest
from robust_lowrank.exporting.plain import Choice, always, never, plain
from robust_lowrank.exporting.programs import write_int8, write_onnx, write_program
from robust_lowrank.exporting.timing import LayerTimes, faster, time_layers
from robust_lowrank.peft import to_peft
from robust_lowrank.records import replacing

Form = Literal["dense", "factors", "auto"]
FileForm = Literal["onnx", "torch-export", "int8", "peft"]
SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2", "int8": ".onnx"} | dict.fromkeys(get_args(Form), ".safetensors")
PEFT = "peft"  # a directory, of updates alone
WRITERS = {"onnx": write_onnx, "torch-export": write_program, "int8": write_int8}
CHOICES: dict[str, Choice] = {"dense": never, "factors": always}  # all other forms are of the faster layers


@overload
def export(model: nn.Module, *, to: Form = ..., path: str | Path | None = ..., example_input: Any = ...) -> nn.Module: ...


@overload
def export(model: nn.Module, *, to: FileForm, path: str | Path, example_input: Any = ...) -> Path: ...


def export(
    model: nn.Module, *, to: Form | FileForm = "auto", path: str | Path | None = None, example_input: Any = None
) -> nn.Module | Path:
    """Return a copy of the network in ordinary torch layers, or write it to a file that runs without this package.

    Args:
        model: the network, which stays as it is.
        to: `dense` merges the factors, `factors` makes a chain of thin layers of each, and `auto` takes for each layer the form
            that is faster on `example_input`, or without one the form with fewer parameters. With an example, without a path and
            in evaluation mode, `auto` also folds batch normalisations into the layers beside them, keeps weights channels last
            where that is faster, and merges all layers where that is: a network for inference, not for training. What is no layer
            of its own, such as a recurrent weight, or is read by somebody who computes with it, such as an attention, is always
            merged, and an adapter into its base, which has full rank. `onnx`, `torch-export` and `int8` write a program of the
            faster layers, and `peft` the updates of an adapted network, as `to_peft` does.
        path: the file: `.onnx`, `.pt2` for `torch-export`, a directory for `peft`, and otherwise `.safetensors` with the weights,
            which `load` reads into the dense network.
        example_input: a tensor, a tuple of positional arguments, or a mapping of named ones, on the network's device. The size of
            its batch does not matter; of `int8` the ranges are those of these inputs, so give some hundred typical ones.

    Returns:
        The network of ordinary layers, of the network's precision and of the classes that they had before `compress`; or the path
        of the program. Keys of the state dict are the network's with `dense` alone: that is the form that transformers reads again.
        A file of `auto` has no normalisation folded, so that `load` reads it.

    Example:
        >>> export(nn.Sequential(nn.Linear(2, 2)), to="dense")
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
        )

    Raises:
        UserError: there is no such form, its path or example input is missing, its packages are not installed, or the network
            cannot take it; a file that was there is then as it was.
    """
    if to == PEFT and path is not None:
        to_peft(model, path)
        return Path(path)
    taken = take_away(model, to=to, path=path, example_input=example_input)
    return taken.network if to not in WRITERS or taken.path is None else taken.path


class Taken(NamedTuple):
    """An export: the network in ordinary layers, its file if one was written, and the times that have chosen the form `auto`."""

    network: nn.Module
    path: Path | None
    times: dict[str, LayerTimes]


def take_away(model: nn.Module, *, to: str, path: str | Path | None = None, example_input: Any = None) -> Taken:
    """Do what `export` does, and return all that it has found.

    Raises:
        UserError: as `export`.
    """
    forms = (*get_args(Form), *get_args(FileForm))
    if to not in forms:
        raise unknown_name("form", to, forms)
    if to == PEFT:
        raise UserError("the form 'peft' is a directory: give its path, such as path='adapter'")
    target = None if path is None else Path(path)
    if target is not None and (target.suffix != SUFFIXES[to] or target.is_dir()):
        raise UserError(f"the form {to!r} is written to a file that ends in {SUFFIXES[to]}, not to {target}")
    if to in WRITERS and target is None:
        raise UserError(f"the form {to!r} is a file: give its path, such as path='network{SUFFIXES[to]}'")
    if to in WRITERS and example_input is None:
        raise UserError(f"the form {to!r} is traced on an input: give example_input, such as a batch of images")
    if to == "auto" and target is None and example_input is not None:
        return Taken(fastest(model, example_input), None, {})
    timed = to not in CHOICES and example_input is not None
    times = time_layers(model, example_input) if timed else {}
    network = plain(model, CHOICES.get(to, faster(times)))
    if target is not None and to in WRITERS:
        WRITERS[to](network, example_input, target)
    elif target is not None:
        _write_weights(network, target)
    return Taken(network, target, times)


def _write_weights(model: nn.Module, path: Path) -> None:
    """Write a state dict of tensors, each a copy of its own, under the names that it has in the network."""
    state = model.state_dict()
    if odd := [key for key, value in state.items() if not isinstance(value, torch.Tensor)]:
        raise UserError(f"{odd[0]} of the network's state is no tensor, and a file of safetensors holds nothing else")
    with replacing(path) as temporary:
        save_file({key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}, temporary)
