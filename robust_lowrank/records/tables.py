"""The tables of a run have these columns."""

import re
from collections.abc import Iterable

METRICS = ("epoch", "step", "lr", "train_loss", "train_accuracy", "validation_accuracy", "seconds")

SPECTRA = (
    "epoch",  # 0 is the network before training
    "layer",  # module name
    "kind",  # "linear", "conv" (the filter-wise matricised kernel) or "tucker" (the same matrix)
    "factored",  # False for a layer that stayed dense
    "rows",
    "columns",
    "rank",  # number of singular values
    "sigma_max",
    "sigma_min",
    "cond",  # sigma_max / sigma_min over the rank values; of the matrix, not of the convolution operator
    "stable_rank",  # ||W||_F^2 / sigma_max^2
    "orthonormality",  # largest ||U^T U - I||_F over the bases; NaN without bases
    "params",
    "params_dense",
    "singular_values",  # list of float64, descending
)

MONITOR = (
    "step",  # counted from 1
    "layer",
    "kind",  # as in SPECTRA, and so are the next ones
    "factored",
    "rank",
    "sigma_max",
    "sigma_min",
    "cond",
    "stable_rank",
    "orthonormality",
    "distance",  # to the nearest weight that the layer's bound on cond allows, relative, in the Frobenius norm; NaN without a bound
    "rotation_u",  # largest principal angle, in radians, between the first basis and that of the record before; NaN without one
    "rotation_v",  # the same for the second basis, or the largest of all others
    "cond_product",  # over the factored layers of this step
    "singular_values",
)

OPERATORS = (
    "layer",  # module name
    "kind",  # as in SPECTRA
    "height",  # of the images that reach a convolution; 1 for a linear layer
    "width",
    "sigma_max",  # of the matrix of filters, as in SPECTRA
    "operator_norm",  # of the map with its real stride and padding: an estimate from below
    "residual",  # of that estimate
    "operator_bound",  # a rigorous upper bound of the same norm
    "circular_max",  # largest and smallest singular value of the periodic convolution at stride 1
    "circular_min",
    "circular_cond",  # their ratio
    "folded_bound",  # operator_bound with the batch normalisation that follows folded in; the same without one
    "contribution",  # log10 of folded_bound: what the layer adds to that of the product over the layers
)

CERTIFICATE = (
    "example",  # index within the certified set
    "label",
    "prediction",  # of the network; of smoothing: the class that noise finds most often
    "margin",  # z_label - max of the other logits; of smoothing: the lower limit of the probability of `prediction`, less 1/2
    "radius",  # L2, in the inputs' units: no input within it is of another class; 0 where the prediction is wrong or not sure
    "abstained",  # smoothing alone: the samples do not say which class it is
)

CURVE = ("radius", "certified", "total", "value", "low", "high")  # the share of examples with at least this radius

VERDICTS = (
    "example",  # index within the evaluated set
    "label",
    "clean_prediction",
    "attack",
    "norm",  # "Linf", "L2" or "L1"
    "eps",
    "verdict",  # one of VERDICT
    "adversarial_prediction",
    "margin",  # z_label - max of the other logits at the stored input; negative is broken
    "distance",  # of the adversarial input in the threat model's norm; NaN unless broken
    "forwards",
    "backwards",
    "seconds",
    "engine",
    "seed",
    "flags",  # comma-separated remarks, such as "nonfinite-gradient"
)

REPLAYED = (
    "on",  # "form" or "trained": which of both the other one's input breaks
    "example",
    "attack",  # that found the input
    "eps",
)

TRANSFER = (
    "source",  # label of the network on which the inputs were made
    "source_seed",
    "source_created",  # when its result was
    "source_weights",  # hashes, as in both networks' results
    "target_weights",
    "data",
    "attack_hash",
    "attack",
    "norm",
    "eps",
    "tried",  # examples that broke the source and that this network gets right
    "fooled",  # of them, those that it gets wrong by a strict margin on the source's input
)

ROUNDING = (
    "way",  # in which the verdicts were formed again, such as "batches of 1"
    "attack",  # "clean" for the examples as they are
    "eps",
    "tried",  # stored inputs
    "changed",  # list of the examples of which a verdict is another one, as float64
)

VERDICT = ("robust", "broken", "misclassified", "nonfinite", "unresolved")  # unresolved: the budget ran out before a verdict


def applied(layers: Iterable[str]) -> set[str]:
    """Return the names of the layers of a spectra table that a network applies one after another.

    An adapter's base and update are left out, whose sum stands under the adapter's own name.

    Example:
        >>> sorted(applied(["0", "2", "2.base", "2.update", "2.update_german"]))
        ['0', '2']
    """
    names = set(layers)
    parts = {name for name in names if re.search(r"\.(base|update(_[^.]*)?)$", name)}
    return {name for name in names if name not in parts or name.rpartition(".")[0] not in names}
