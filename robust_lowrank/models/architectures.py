"""Architectures without weights come from users' functions, torchvision, timm and this package."""

import difflib
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.extras import needed
from robust_lowrank.models.catalogue import MODELS, build


class Architecture(NamedTuple):
    """A network and where its architecture comes from; one of ours normalises by itself."""

    model: nn.Module
    kind: str
    normalises: bool = False


def architecture(source: str, *, input_shape: tuple[int, ...], num_classes: int | None) -> Architecture:
    """Make the network that a name stands for: one of ours, `torchvision:NAME` or that name alone, `timm:NAME`, `module:function`.

    Example:
        >>> architecture("torchvision:resnet18", input_shape=(3, 64, 64), num_classes=10).kind
        'torchvision'

    Raises:
        UserError: nothing bears this name, or what does makes no network.
    """
    family, colon, name = source.rpartition(":")
    classes = {} if num_classes is None else {"num_classes": num_classes}
    if not colon and name in MODELS:
        if num_classes is None:
            raise UserError(f"{name} is made for a number of classes: say how many")
        model = build(name, input_shape=input_shape, num_classes=num_classes)  # pyright: ignore[reportArgumentType] that it checks
        return Architecture(model, "robust-lowrank", normalises=True)
    if not colon or family == "torchvision":
        return Architecture(_torchvision(name, classes), "torchvision")
    if family == "timm":
        return Architecture(_timm(name, classes), "timm")
    return Architecture(_call(family, name, {"input_shape": input_shape, "num_classes": num_classes}), f"function of {family}")


def _torchvision(name: str, classes: dict[str, int]) -> nn.Module:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise _unknown_model(name, [*MODELS, *names])
    return models.get_model(name, weights=None, **classes)


def _timm(name: str, classes: dict[str, int]) -> nn.Module:
    with needed("timm", f"timm:{name}"):
        import timm  # pyright: ignore[reportMissingImports]
    if not timm.is_model(name):
        raise _unknown_model(f"timm:{name}", [f"timm:{other}" for other in timm.list_models()])
    return timm.create_model(name, pretrained=False, **classes)  # pyright: ignore[reportArgumentType]


def _call(module: str, name: str, offered: dict[str, Any]) -> nn.Module:
    source, here = f"{module}:{name}", str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function = _attribute(module, name)
        if isinstance(function, nn.Module):
            return function
        arguments = _arguments(source, function, offered)
        try:
            model = function(**arguments)
        except Exception as error:
            raise UserError(f"{source} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)
    if not isinstance(model, nn.Module):
        raise UserError(f"{source} returned a {type(model).__name__}: it must return the network, a torch.nn.Module")
    return model


def _attribute(module: str, name: str) -> Any:
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise UserError(f"there is no module {module}, neither installed nor in {Path.cwd()}") from error
        raise UserError(f"module {module} cannot be imported, as it needs {error.name}: install that") from error
    except Exception as error:
        raise UserError(f"module {module} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(imported, name):
        raise UserError(f"module {module} ({getattr(imported, '__file__', 'built in')}) has no function {name}")
    return getattr(imported, name)


def _arguments(source: str, function: Any, offered: dict[str, Any]) -> dict[str, Any]:
    """Return those of the arguments on offer that a function takes, after making sure that it asks for no others."""
    if not callable(function):
        raise UserError(f"{source} is a {type(function).__name__}: give a function that returns the network")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        parameters = ()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = {p.name for p in parameters if p.default is p.empty and p.kind not in variable}
    if alien := sorted(required - set(offered)):
        raise UserError(
            f"{source} asks for {', '.join(alien)}: give a function that takes no arguments, or only {', '.join(offered)}"
        )
    takes = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {name: offered[name] for name in takes if name in offered}


def _unknown_model(name: str, names: list[str]) -> UserError:
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return UserError(
        f"there is no model {name!r}: {hint}Give one of {', '.join(MODELS)},\n"
        "torchvision:NAME, timm:NAME or module:function; what is attacked may be a file too (.pt, .ts, .pt2, .onnx)"
    )
