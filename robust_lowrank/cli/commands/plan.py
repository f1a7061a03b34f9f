"""`rlr-eval plan`."""

from rich.markup import escape
from rich.table import Table

from robust_lowrank.cli import console
from robust_lowrank.cli.commands.attack import Json
from robust_lowrank.cli.commands.images import Channels, ImageSize, SkipBroken, reading_keys
from robust_lowrank.cli.commands.train import (
    Config,
    Data,
    Exclude,
    LatencyMs,
    Method,
    Model,
    Options,
    Params,
    Rank,
    configuration,
    rank_of,
)


def plan(
    config: Config = None,
    data: Data = None,
    model: Model = None,
    method: Method = None,
    rank: Rank = None,
    params: Params = None,
    latency_ms: LatencyMs = None,
    option: Options = None,
    exclude: Exclude = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    skip_broken: SkipBroken = False,
    json: Json = False,
) -> None:
    """Say what compression would do to a network: which layers it factors, at which rank, with how many parameters.

    Trained are the factors with their cores; stored for inference is what is left when cores are part of their neighbours. Times
    and operations are those of the dense layers in one pass on two inputs, then is the number of operations at that rank.
    Nothing is trained or written.
    """
    from robust_lowrank.cli.progress import Board
    from robust_lowrank.jobs.events import reading
    from robust_lowrank.training.state import plan_layers

    given = {"data": {"name": data, **reading_keys(image_size, channels, skip_broken)}, "model": {"name": model}}
    method_table = {"name": method, "exclude": exclude or None}
    settled = configuration(config, given, method_table, rank_of(rank, params, latency_ms), option)
    with Board() as board:
        images = settled.data.describe(reading("plan", board))
    layers = plan_layers(settled, images)
    if json:
        console.print_json(console.rows(layers))
        return
    table = Table(
        "layer", "form", "shape", "rank", "trained", "stored", "of dense", "ms", "MFLOP", "then", box=None, pad_edge=False
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for row in layers.to_dict("records"):
        shape, share = f"{row['rows']} x {row['columns']}", f"{row['params_inference'] / row['params_dense']:.0%}"
        costs = [f"{row[column]:.2f}" for column in ("milliseconds", "mflops", "mflops_factored")]
        table.add_row(
            escape(row["layer"]),
            row["form"],
            shape,
            str(row["rank"]),
            f"{row['params']:,}",
            f"{row['params_inference']:,}",
            share,
            *costs,
        )
    for remark in images.remarks:
        console.say(remark)
    console.print_table(table)
    for reason, kind in (("kept_dense", "stays dense"), ("why", "is merged")):
        for row in layers[layers[reason] != ""].to_dict("records"):
            console.say(f"{row['layer']} {kind}: {row[reason]}")
    trained, stored, dense = (int(layers[column].sum()) for column in ("params", "params_inference", "params_dense"))
    console.say(
        f"Together {trained:,} of {dense:,} weights are trained, {trained / dense:.1%}; "
        f"{stored:,} are stored for inference, {stored / dense:.1%}"
    )
    if latency := layers.attrs.get("latency"):
        console.say("A pass takes {factors:.3g} ms of {allowed:g}; that of the dense network {dense:.3g} ms".format(**latency))
