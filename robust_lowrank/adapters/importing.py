"""Adapters that PEFT has trained become updates, which any method trains on."""

from pathlib import Path

import torch
from torch import Tensor, nn

from robust_lowrank.adapters.adapting import install_updates, require_none_of_peft, require_ranked, update_from
from robust_lowrank.candidates import Candidate
from robust_lowrank.compression import CompressionReport, Plan, make_plan, report_of
from robust_lowrank.errors import UserError
from robust_lowrank.installation import undoing
from robust_lowrank.layers import FactoredLayer, named_factored_layers
from robust_lowrank.layers.forms import form_of
from robust_lowrank.layers.linear import is_transposed
from robust_lowrank.layers.merged import Block
from robust_lowrank.layers.network import DEFAULT
from robust_lowrank.layers.updates import check_name
from robust_lowrank.linalg import FactorisationError
from robust_lowrank.methods import Method
from robust_lowrank.peft import PeftFile, read_peft
from robust_lowrank.peft.reading import Product
from robust_lowrank.submodules import uncompiled


def from_peft(model: nn.Module, path: str | Path, *, method: str | Method = "geolora", name: str = DEFAULT) -> CompressionReport:
    """Freeze a network and give it the updates of a LoRA adapter of PEFT, in place, as `adapt` would have made and trained them.

    The network then computes what it computes under PEFT: an update B A, scaled, becomes U S V^T by QR and SVD. Other parameters
    in the file (`modules_to_save`, biases) take the places of the network's and train. The package `peft` is not needed.

    Args:
        model: the network that the adapter was made for.
        path: a directory that PEFT's `save_pretrained` wrote, with safetensors: LoRA or AdaLoRA.
        method: what trains the updates from here, a name or an object. Fixed adapters (`lora`, `scaled-lora`, `stella`, `adalora`)
            keep PEFT's factor of the update; where the method bounds its condition number, the update begins at the nearest one
            that it allows, and the difference is subtracted from it.
        name: of the updates, as in `adapt`.

    Example:
        >>> from_peft(model, "adapters/german", method="geolora").ranks  # doctest: +SKIP

    Raises:
        UserError: as `adapt`; also a file that is damaged or does not fit the network, and adapters that are no low-rank updates
            alone, such as DoRA. The network is then as it was.
    """
    model = uncompiled(model)
    check_name(name)
    file = read_peft(path)
    require_ranked(method)
    require_none_of_peft(model)
    _require_modules(model, file, path)
    plan = make_plan(model, method, 1, include=lambda each, _: each in file.products, use="adapter", adding=name)
    updates: dict[str, FactoredLayer] = {}
    for candidate in plan.targets:
        product = file.products.get(_module_of(candidate))
        if product is not None:
            updates[candidate.name] = _update(candidate, product, plan, path)
    _require_all(file, plan, updates, path)
    beside = _beside(model, file, path)
    with undoing() as undo:
        install_updates(model, plan, updates, name, {id(each) for each in beside if isinstance(each, nn.Parameter)}, undo)
        with torch.no_grad():
            for own, value in beside.items():
                own.copy_(value)
    return report_of(model, plan, dict.fromkeys(dict(named_factored_layers(model)), 0.0))


def _module_of(candidate: Candidate) -> str:
    """Return the name of the module whose weight a candidate is."""
    return candidate.name.removesuffix(".weight") if isinstance(candidate.layer, Block) else candidate.name


def _require_modules(model: nn.Module, file: PeftFile, path: str | Path) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, product in file.products.items():
        module = modules.get(name)
        if module is None:
            near = ", ".join(each for each in modules if each.rpartition(".")[2] == name.rpartition(".")[2]) or "none"
            raise UserError(
                f"{path} has an update of {name[:80]!r}, which the network lacks; modules with such an ending: {near[:200]}"
            )
        if not isinstance(getattr(module, "weight", None), Tensor):
            raise UserError(f"{path} has an update of {name[:80]!r}, a {type(module).__name__}, which has no weight")
        if isinstance(module, nn.MultiheadAttention):
            raise UserError(f"{path} has one update for q, k and v of the attention {name!r} together, which have one each here")
        groups, dilation = getattr(module, "groups", 1), set(getattr(module, "dilation", (1,)))
        if product.kernel and (groups != 1 or dilation != {1}):
            raise UserError(
                f"{path}: the convolution {name!r} has groups or a dilation, with which PEFT's update is none of its weight"
            )
        if product.table != isinstance(module, nn.Embedding):
            raise UserError(f"{path}: {name!r} is a {type(module).__name__}, and the update one of another kind of layer")


def _update(candidate: Candidate, product: Product, plan: Plan, path: str | Path) -> FactoredLayer:
    """Return the update that is a product; one of zero as `adapt` makes it."""
    layer, method = candidate.layer, plan.method
    weight = form_of(method).weight(layer)
    module = _module_of(candidate)
    if isinstance(layer, Block) and len({id(place.module) for place in layer.places}) > 1:
        raise UserError(f"{path}: the weight of {module!r} is shared, and PEFT's update one of this place alone")
    if weight.dim() > 2:
        raise UserError(f"{plan.method.name} keeps kernels in Tucker form, and the update of {module!r} is none: take geolora")
    shape = layer.weight.T.shape if is_transposed(layer) else layer.weight.shape
    due = (
        torch.Size((len(product.left), *product.kernel)) if product.kernel else torch.Size((len(product.left), len(product.right)))
    )
    if due != shape:
        raise UserError(f"{path} has an update of {tuple(due)} for {module!r}, whose weight is {tuple(shape)}")
    scale = product.scaling if method.adapter else 1.0
    try:
        return update_from(layer, product.left, product.right, method, scale)
    except FactorisationError as error:
        raise UserError(f"{path}: the update of {module!r} cannot be trained by {method.name}: {error}. Take geolora") from error


def _require_all(file: PeftFile, plan: Plan, updates: dict[str, FactoredLayer], path: str | Path) -> None:
    taken = {_module_of(candidate) for candidate in plan.targets if candidate.name in updates}
    for name in file.products:
        if name not in taken:
            reason = next(
                (why for layer, why in plan.kept.items() if layer in (name, f"{name}.weight", f"{name}.base")),
                "it has no single matrix",
            )
            raise UserError(f"{path} has an update of {name!r}, which cannot have one here: {reason}")


def _beside(model: nn.Module, file: PeftFile, path: str | Path) -> dict[Tensor, Tensor]:
    """Return the tensors of the network that a file has other values for."""
    state = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, value in file.beside.items():
        if name not in state:
            raise UserError(f"{path} has the tensor {name[:80]!r}, which the network lacks")
        if state[name].shape != value.shape:
            raise UserError(f"{path} has {name!r} of {tuple(value.shape)}, the network of {tuple(state[name].shape)}")
    return {state[name]: value for name, value in file.beside.items()}
