"""Spectra hold all layers' singular values, and figures of them."""

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from robust_lowrank import linalg
from robust_lowrank.errors import UserError
from robust_lowrank.layers import Adapter, FactoredLayer
from robust_lowrank.layers.forms import Dense, kind_of, matrix_of
from robust_lowrank.layers.merged import merged_parameters
from robust_lowrank.layers.network import shown_name
from robust_lowrank.records import SPECTRA, applied

if TYPE_CHECKING:
    import pandas as pd

Layer = FactoredLayer | Dense
COLUMNS = tuple(column for column in SPECTRA if column != "epoch")


@torch.no_grad()
def spectra(model: nn.Module) -> "pd.DataFrame":
    """Return the spectrum of every factored layer, and of every linear layer and convolution that stayed dense, a row a layer.

    What is merged has a row for each block of the parameter, under its name. An adapter has three rows: the merged weight under its
    own name, and its base and its update under theirs.

    Example:
        >>> spectra(nn.Sequential(nn.Linear(4, 3)))[["layer", "rows", "columns", "rank"]].values.tolist()
        [['0', 3, 4, 3]]

    A convolution is seen as the matrix of its filters, `(F, Cin * kh * kw)`. Its condition number is not that of the
    convolution as an operator, of whose norm it only gives a bound: `sqrt(kh * kw) * sigma_max` at stride 1.

    Columns: those of `records.SPECTRA` but the epoch. Singular values are those of the weight that the layer applies, in float64,
    also where factors were averaged, cast or edited and the bases are orthonormal no more; `orthonormality` says how far they are
    from it. `rank` counts the singular values; `cond` is infinite when the last one is zero.

    Raises:
        UserError: a weight holds NaN or infinity.
    """
    import pandas as pd

    rows = []
    for name, layer in layers_of(model):
        rows.append(_measured(name, layer.dense_layer() if isinstance(layer, Adapter) else layer))
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def layers_of(model: nn.Module) -> Iterator[tuple[str, Layer | Adapter]]:
    """Yield the layers whose weights have spectra, under their names for people: factored ones, dense ones, and adapters.

    A dense layer whose weight is merged of blocks is left out: its blocks stand for it.
    """
    for path, module in model.named_modules():
        if isinstance(module, FactoredLayer | Adapter):
            yield shown_name(path), module
        elif isinstance(module, Dense) and not any(not each.adapter for each in merged_parameters(module).values()):
            yield path, module


def certificate_product(frame: "pd.DataFrame") -> float:
    """Return the product of the layers' condition numbers: a certificate quantity, not "the network's condition number".

    It bounds the condition number of the network from above only where every weight is injective on what reaches it, and
    leaves out biases, normalisation, pooling and skip connections (methods (11) and its caveats). Of an adapter the
    merged weight counts.

    Args:
        frame: what `spectra` returns, or the rows of one epoch of it.
    """
    return math.prod(frame["cond"][[name in applied(frame["layer"]) for name in frame["layer"]]])


def row(name: str, layer: Layer, sigma: Tensor, defects: Iterable[float]) -> dict[str, Any]:
    """Return what the singular values `sigma` (r,) of a layer and the defects of its bases say, in the columns of `spectra`."""
    if isinstance(layer, FactoredLayer):
        kind, (rows, columns) = layer.kind, layer.weight_shape
        params, params_dense = layer.weight_parameters(), layer.dense_parameters()
    else:
        kind, (rows, columns) = kind_of(layer), matrix_of(layer).shape
        params = params_dense = rows * columns
    largest, smallest = float(sigma[0]), float(sigma[-1])
    return {
        "layer": name,
        "kind": kind,
        "factored": isinstance(layer, FactoredLayer),
        "rows": rows,
        "columns": columns,
        "rank": len(sigma),
        "sigma_max": largest,
        "sigma_min": smallest,
        "cond": math.inf if smallest == 0 else largest / smallest,
        "stable_rank": 0.0 if largest == 0 else float(sigma.square().sum()) / largest**2,
        "orthonormality": max(defects, default=math.nan),
        "params": params,
        "params_dense": params_dense,
        "singular_values": sigma.tolist(),
    }


def _measured(name: str, layer: Layer) -> dict[str, Any]:
    if not all(bool(torch.isfinite(parameter).all()) for parameter in layer.parameters()):
        raise UserError(f"layer {name!r} holds NaN or infinity: it has no spectrum")
    if isinstance(layer, FactoredLayer):
        bases = layer.factors().bases
        return row(name, layer, layer.singular_values().cpu(), [float(linalg.gram_defect(basis.double().cpu())) for basis in bases])
    return row(name, layer, linalg.svd(matrix_of(layer).double().cpu()).sigma, [])
