"""Networks of Hugging Face's transformers are written with their factors to a directory, and read again."""

from pathlib import Path
from typing import Any

from torch import nn

from robust_lowrank import checkpoint
from robust_lowrank.errors import UserError, first_line

WEIGHTS = "factors.safetensors"  # no name that transformers would load by itself, as weights without factors


def save_pretrained(model: Any, folder: str | Path) -> None:
    """Write a factored network of transformers: its configuration, and its weights with methods and ranks.

    A dense export needs none of this: `export(model, to="dense").save_pretrained(folder)`.

    Example:
        >>> save_pretrained(model, "compressed")  # doctest: +SKIP

    Raises:
        UserError: it is no network of transformers.
    """
    if not hasattr(getattr(model, "config", None), "save_pretrained"):
        raise UserError(f"a {type(model).__name__} is no network of transformers, with a configuration: take rlr.save")
    for part in (model.config, getattr(model, "generation_config", None)):
        if part is not None:
            part.save_pretrained(folder)
    checkpoint.save(model, Path(folder) / WEIGHTS)


def from_pretrained(kind: Any, folder: str | Path, *, rank: int | float | None = None) -> Any:
    """Return the network that `save_pretrained` wrote, in evaluation mode, its layers factored as they were.

    Args:
        kind: the class of the network, such as `transformers.BertModel`, or an auto class.
        folder: a directory on this machine.
        rank: as in `load`.

    Example:
        >>> from_pretrained(transformers.AutoModel, "compressed")  # doctest: +SKIP

    Raises:
        UserError: there is no such directory, or it does not fit the network.
    """
    from transformers import AutoConfig, GenerationConfig  # pyright: ignore[reportMissingImports]

    folder = Path(folder)
    for name in ("config.json", WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no {name}: give a directory that rlr.save_pretrained wrote")
    try:
        config = AutoConfig.from_pretrained(folder)
        model: nn.Module = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
        if (folder / "generation_config.json").is_file():
            vars(model)["generation_config"] = GenerationConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: a {kind.__name__} cannot be made of config.json: {first_line(error)}") from error
    return checkpoint.load(model, folder / WEIGHTS, rank=rank).eval()
