"""`rlr-eval train`."""

import shlex
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.elsewhere import numbers_of
from robust_lowrank.cli.commands.images import Channels, ImageSize, SkipBroken, reading_keys
from robust_lowrank.errors import UserError, brief

if TYPE_CHECKING:
    from robust_lowrank.training import TrainConfig


Config = Annotated[Path | None, typer.Option(help="A TOML file; options given beside it take precedence.")]
Data = Annotated[
    str | None,
    typer.Option(help="A data set ('rlr-eval list data'), a directory of images, or a .npz or .safetensors file."),
]
Model = Annotated[
    str | None,
    typer.Option(help="Architecture: see 'rlr-eval list models'; or module:function, torchvision:NAME or timm:NAME."),
]
Method = Annotated[str | None, typer.Option(help="'dense', or a method: see 'rlr-eval list methods'.")]
Rank = Annotated[str | None, typer.Option(help="Rank of the factored layers: an integer, or a fraction such as 0.25.")]
Params = Annotated[
    float | None, typer.Option(help="Instead of a rank: the share of the dense weights' parameters that all factors may take.")
]
LatencyMs = Annotated[
    float | None,
    typer.Option(help="Instead of a rank: the milliseconds that a forward pass of one image may take here, in factors."),
]
Options = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="Any other option of the method: see 'rlr-eval list methods'.")
]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="REGEX", help="Layers that stay dense; the last linear one if not given.")
]


def train(
    out: Annotated[Path | None, typer.Option(help="The run directory to write; runs/NAME if not given.")] = None,
    config: Config = None,
    data: Data = None,
    model: Model = None,
    mean: Annotated[
        str | None, typer.Option(help="What a network of your own expects subtracted, a channel each: 0.49,0.48,0.45")
    ] = None,
    std: Annotated[str | None, typer.Option(help="What it expects divided by, a channel each.")] = None,
    method: Method = None,
    rank: Rank = None,
    params: Params = None,
    latency_ms: LatencyMs = None,
    tau: Annotated[float | None, typer.Option(help="CondLR: condition numbers stay within 1 + tau; inf for no bound.")] = None,
    cond: Annotated[
        float | None, typer.Option(help="The largest condition number allowed, for any method that can hold it.")
    ] = None,
    precond: Annotated[str | None, typer.Option(help="CondLR: exact, repo or none.")] = None,
    reference: Annotated[str | None, typer.Option(help="CondLR: rms, mean or exact.")] = None,
    retraction: Annotated[str | None, typer.Option(help="CondLR: qr or polar.")] = None,
    tol: Annotated[float | None, typer.Option(help="Rank-adaptive methods: relative truncation tolerance.")] = None,
    option: Options = None,
    init: Annotated[str | None, typer.Option(help="How factors are drawn: gaussian or kaiming.")] = None,
    step: Annotated[str | None, typer.Option(help="exact, or amortised: one evaluation a step.")] = None,
    window: Annotated[int | None, typer.Option(help="Core steps between two truncations of amortised steps.")] = None,
    exclude: Exclude = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Largest learning rate.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of SGD.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, adam or adamw.")] = None,
    schedule: Annotated[str | None, typer.Option(help="constant, one-cycle or cosine; multistep needs a TOML file.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, or bf16: autocast, factors stay float32.")] = None,
    adversarial: Annotated[str | None, typer.Option(help="Train on perturbed images: fgsm, pgd or trades.")] = None,
    adversarial_eps: Annotated[str | None, typer.Option(help="How far they are moved, such as 0.1 or 8/255.")] = None,
    train_examples: Annotated[int | None, typer.Option(help="Train on the first so many images.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    skip_broken: SkipBroken = False,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data set's files lie.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set if its files are missing.")] = False,
    monitor_every: Annotated[
        int | None, typer.Option(help="Record the conditioning of the factored layers every so many steps, in monitor.parquet.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and batches.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the run's record as JSON.")] = False,
) -> None:
    """Train one network into a run directory: from options, from a TOML file, or from both.

    A directory that already holds this very run is left as it is; one that was interrupted goes on after its last complete epoch.
    Under torchrun its processes share every batch: torchrun --nproc-per-node 2 --no-python rlr-eval train ...
    """
    from robust_lowrank import jobs
    from robust_lowrank.cli.progress import Board
    from robust_lowrank.jobs.launched import joined
    from robust_lowrank.ranges import FACTORS, SHIFTS
    from robust_lowrank.training.naming import run_name

    given = {
        "seed": seed,
        "data": {
            "name": data,
            "data_dir": None if data_dir is None else str(data_dir),
            "download": download or None,
            "train_examples": train_examples,
            **reading_keys(image_size, channels, skip_broken),
        },
        "model": {"name": model, "mean": numbers_of(mean, "--mean", SHIFTS), "std": numbers_of(std, "--std", FACTORS)},
        "training": {
            "epochs": epochs,
            "batch_size": batch_size,
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "optimizer": optimizer,
            "schedule": schedule,
            "precision": precision,
            "device": device,
            "adversarial": None
            if adversarial is None and adversarial_eps is None
            else {"attack": adversarial, "eps": adversarial_eps},
        },
        "monitor": None if monitor_every is None else {"every": monitor_every},
    }
    named = {"tau": tau, "cond": cond, "precond": precond, "reference": reference, "retraction": retraction, "tol": tol}
    table = {"name": method, **named, "exclude": exclude or None, "init": init, "step": step, "window": window}
    parsed = configuration(config, given, table, rank_of(rank, params, latency_ms), option)
    directory = out or Path("runs") / run_name(parsed)
    with joined() as first:
        if not first:
            console.mute()
        with Board() as board:
            run = jobs.train(parsed, directory, command=console.command_line(), progress=board)
    if json:
        console.print_json(run.record.model_dump())
    else:
        console.say(f"{run.record.label}: test accuracy {run.record.test_accuracy:.1%}, in {directory}")
        console.say(f"Attack it with: rlr-eval attack {shlex.quote(str(directory))} --suite quick")


def configuration(
    config: Path | None,
    given: dict[str, Any],
    method: dict[str, Any],
    rank: Any,
    options: list[str] | None,
) -> "TrainConfig":
    """Return the configuration of a file with the options given beside it, by table; None stands for an option not given."""
    from robust_lowrank.training import load_config, parse_config

    table = {**method, "rank": rank, **dict(_option(text) for text in options or ())}
    base = {} if config is None else load_config(config).model_dump(exclude_unset=True)
    if rank is not None:
        base.get("method", {}).pop("rank", None)  # one way of choosing ranks replaces another, rather than joining it
    values = _overridden(base, {**given, "method": table})
    return parse_config(values, source="options" if config is None else f"{config} with the options")


def rank_of(text: str | None, params: float | None, latency_ms: float | None) -> Any:
    """Return the rank of a configuration that options say; None if none does."""
    if sum(given is not None for given in (text, params, latency_ms)) > 1:
        raise UserError("--rank fixes the ranks, --params and --latency-ms share them out: give one of the three")
    if latency_ms is not None:
        return {"latency_ms": latency_ms}
    if params is not None:
        return {"params": params}
    for kind in (int, float):
        try:
            return None if text is None else kind(text)
        except ValueError:
            continue
    raise UserError(f"rank {brief(text)} is not a number: give an integer such as 8, or a fraction of full rank such as 0.25")


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--option {brief(text)} is not of the form KEY=VALUE, such as modes=all")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key, value


def _overridden(base: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `given` that are not None in their places."""
    merged = dict(base)
    for key, value in given.items():
        if isinstance(value, dict) and isinstance(base.get(key, {}), dict):
            merged[key] = _overridden(base.get(key, {}), value)
        elif value is not None:
            merged[key] = value
    return merged
