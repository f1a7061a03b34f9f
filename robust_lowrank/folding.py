"""A network for inference has fewer layers: batch normalisation in evaluation mode becomes part of its neighbours."""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from robust_lowrank.answers import arguments_of, quiet, require_close, run, tensors
from robust_lowrank.errors import UserError
from robust_lowrank.submodules import put

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
IMAGES = (nn.Conv2d, nn.ConvTranspose2d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
COPYING = ("__deepcopy__", "__copy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
SAME_GRADIENT = 0.01  # relative difference
WIDE = 128  # channels on both sides of a kernel
CONSTANTS = (bool, int, float, str, type(None))  # arguments of a forward that its trace may depend on


class Affine(NamedTuple):
    """What a normalisation does to each channel: times `scale`, plus `shift`."""

    scale: Tensor
    shift: Tensor


def affine_of(norm: Any) -> Affine:
    """Return what a batch normalisation in evaluation mode does, in float64.

    Example:
        >>> affine_of(nn.BatchNorm1d(1, eps=0.0)).scale
        tensor([1.], dtype=torch.float64)
    """
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return Affine(scale, shift if norm.bias is None else shift + norm.bias.detach().double())


def after(layer: Any, affine: Affine) -> nn.Module:
    """Return the linear layer or convolution that computes what `layer` does and an affine map of the channels then.

    Weights are (outputs, ...); those of transposed convolutions (inputs, outputs a group, ...), a group's inputs together.
    """
    scale, shift = affine
    weight = layer.weight.detach().double()
    if isinstance(layer, TRANSPOSED):
        groups = weight.unflatten(0, (layer.groups, -1))
        weight = (groups * scale.reshape(layer.groups, 1, -1, *[1] * (weight.dim() - 2))).flatten(0, 1)
    else:
        weight = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    bias = shift if layer.bias is None else shift + scale * layer.bias.detach().double()
    return _with(layer, weight, bias)


def before(layer: Any, affine: Affine) -> nn.Module:
    """Return the linear layer, or convolution without padding, that computes what `layer` does after an affine map of its inputs.

    Weights are (outputs, inputs a group, ...).
    """
    scale, shift = affine
    weight = layer.weight.detach().double()
    groups = weight.unflatten(0, (getattr(layer, "groups", 1), -1))
    scales, shifts = (each.reshape(len(groups), 1, -1, *[1] * (weight.dim() - 2)) for each in (scale, shift))
    bias = (groups * shifts).flatten(2).sum(2).flatten()
    return _with(layer, (groups * scales).flatten(0, 1), bias if layer.bias is None else bias + layer.bias.detach().double())


def _with(layer: Any, weight: Tensor, bias: Tensor) -> nn.Module:
    """Return a layer with parameters of its own, of the precision that the other one has."""
    made, old = copy.copy(layer), layer.weight
    made._parameters = {
        "weight": nn.Parameter(weight.to(old.dtype), requires_grad=old.requires_grad),
        "bias": nn.Parameter(bias.to(old.dtype), requires_grad=old.requires_grad),
    }
    return made


@torch.no_grad()
def fold(network: nn.Module, example_input: Any) -> nn.Module:
    """Return a network of ordinary layers without the normalisations that neighbours can take over, exact but for rounding.

    That is each batch normalisation that a trace by `torch.fx` shows to work on the output of one linear layer or convolution and
    on nothing else, or to be the input of one alone that pads with no zeros. A network that is not in evaluation mode, cannot be
    traced, or then answers otherwise by more than 1e-4, is returned as it is.

    Args:
        example_input: a tensor, a tuple of positional arguments, or a mapping of named ones.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
        >>> fold(net, torch.rand(2, 3, 8, 8))
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
        )
    """
    if any(module.training for module in network.modules()):
        return network
    pairs = list(_pairs(copy.deepcopy(network), example_input))  # a trace may leave traces
    folded, dims = copy.deepcopy(network), _dims(network, example_input)
    modules = dict(folded.named_modules())
    places = {module: module for module in modules.values()}  # what stands in the place of each
    for first, second in pairs:
        one, other = places[modules[first]], places[modules[second]]
        if _is_norm(other) and _takes(one, dims.get(first)):
            places[modules[first]], places[modules[second]] = after(one, affine_of(other)), nn.Identity()
        elif _is_norm(one) and _takes(other, dims.get(first)) and _pads_nothing(other):
            places[modules[first]], places[modules[second]] = nn.Identity(), before(other, affine_of(one))
    if all(module is made for module, made in places.items()):
        return network
    for name, module in list(folded.named_modules(remove_duplicate=False)):
        if places.get(module, module) is not module:
            put(folded, name, places[module])
    try:
        require_close(run(folded, example_input), run(network, example_input), "the folded network")
    except UserError:
        return network
    return folded


def _pairs(network: nn.Module, example_input: Any) -> Iterator[tuple[str, str]]:
    """Yield the names of modules of which one works on the other's output alone, and is all that does; each is called once."""
    graph = _traced(network, example_input)
    if graph is None:
        return
    calls = [node for node in graph.nodes if node.op == "call_module"]
    modules = [network.get_submodule(str(node.target)) for node in calls]
    read = [network.get_submodule(str(node.target).rpartition(".")[0]) for node in graph.nodes if node.op == "get_attr"]
    alone = {node for node, module in zip(calls, modules, strict=True) if modules.count(module) == 1 and module not in read}
    for node in calls:
        if len(node.all_input_nodes) == 1 and len(node.args) == 1 and not node.kwargs:
            (given,) = node.all_input_nodes
            if {node, given} <= alone and given is node.args[0] and len(given.users) == 1:
                yield str(given.target), str(node.target)


class _Tracer(fx.Tracer):
    """Looks into modules that have layers of interest, and takes others, such as those that look at shapes, as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        has_layers = any(isinstance(each, (nn.Linear, *CONVS, *TRANSPOSED, *NORMS)) for each in m.modules())
        return not has_layers or super().is_leaf_module(m, module_qualified_name)


def _traced(network: nn.Module, example_input: Any) -> fx.Graph | None:
    """Return the graph of a network for such arguments; None if it has none."""
    positional, named = arguments_of(example_input)
    try:
        signature = inspect.signature(network.forward)
        given = signature.bind(*positional, **named).arguments
        constant = {
            name: given.get(name, parameter.default)
            for name, parameter in signature.parameters.items()
            if isinstance(given.get(name, parameter.default), CONSTANTS)
        }
        with quiet():
            return _Tracer().trace(network, concrete_args=constant)
    except Exception:  # of whatever the network does while it is traced
        return None


def _dims(network: nn.Module, example_input: Any) -> dict[str, int]:
    """Return the number of dimensions of what modules return in a pass."""
    found: dict[str, int] = {}

    def noter(name: str) -> Callable[..., None]:
        return lambda module, given, out: found.update({name: out.dim()})

    with ExitStack() as stack:
        for name, module in network.named_modules():
            if isinstance(module, (nn.Linear, *CONVS, *TRANSPOSED, *NORMS)):
                stack.callback(module.register_forward_hook(noter(name)).remove)
        run(network, example_input)
    return found


@torch.no_grad()
def fastest_exact(network: nn.Module, example: Tensor) -> nn.Module:
    """Return the form of a network in which it is fast and the same but for rounding, or itself; nothing is timed for it.

    Modules that have a method `ordinary`, as factored layers do, become what it returns, normalisations are folded, and on a CPU
    the weights of convolutions of images lie channels last, unless most of them are of wide kernels, which gain nothing by it. What
    does not allow this, has hooks in the way, or says itself how it is copied, stays as it is, and so does a network of which the
    form would answer the example otherwise by more than 1e-4, or with another gradient.

    Example:
        >>> fastest_exact(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval(), torch.rand(2, 3, 8, 8))
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
        )
    """
    if any(map(_has_no_other_form, network.modules())):
        return network
    try:
        made = fold(_ordinary(network), example)
        forms = [] if made is network else [made]
        if example.device.type == "cpu" and _gains_channels_last(made):
            forms.insert(0, copy.deepcopy(made))
            channels_last(forms[0])
        if not forms:
            return network
        due = _answers_and_gradient(network, example)
        return next((form.requires_grad_(False) for form in forms if _is_close(form, example, due)), network)
    except Exception:  # of whatever the network does while it is copied
        return network


def _has_no_other_form(module: nn.Module) -> bool:
    """Return whether a module is compiled, and fast, is in training, where a normalisation is no affine map, or copies itself."""
    compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
    return compiled or module.training or any(_is_foreign(type(module), name) for name in COPYING)


def _is_foreign(kind: type[nn.Module], name: str) -> bool:
    """Return whether a class that is not torch's defines a method for itself or for classes below it."""
    owner = next((each for each in kind.__mro__ if name in vars(each)), object)
    return owner is not object and owner.__module__.partition(".")[0] != "torch"


def _answers_and_gradient(network: nn.Module, example: Tensor) -> tuple[Any, Tensor]:
    """Return what a network answers, and the gradient of a weighted sum of that for its input."""
    with torch.enable_grad():
        x = example.detach().clone().requires_grad_()
        answers = run(network, x)
        weights = (torch.linspace(1, 2, each.numel(), device=each.device) for each in tensors(answers))
        sums = [(weight.view_as(each) * each).sum() for weight, each in zip(weights, tensors(answers), strict=True)]
        (gradient,) = torch.autograd.grad(torch.stack(sums).sum(), x, allow_unused=True, materialize_grads=True)
    return answers, gradient


def _is_close(network: nn.Module, example: Tensor, due: tuple[Any, Tensor]) -> bool:
    """Return whether a form answers as the network does; a rounding may flip a unit here or there, which gradients show."""
    try:
        answers, gradient = _answers_and_gradient(network, example)
        require_close(answers, due[0], "the fast form")
    except UserError:
        return False
    return float((gradient - due[1]).norm()) <= SAME_GRADIENT * float(due[1].norm())


def _ordinary(network: nn.Module) -> nn.Module:
    """Return a copy with ordinary layers in the place of modules that can be such; the network itself if there are none."""
    if not any(map(_has_ordinary, network.modules())):
        return network
    made, replaced = copy.deepcopy(network), {}
    for name, module in list(made.named_modules(remove_duplicate=False)):
        if _has_ordinary(module) and not any(name.startswith(f"{other}.") or not other for other in replaced):
            replaced[name] = module
    ordinary = {module: module.ordinary() for module in replaced.values()}
    for name, module in replaced.items():
        if not name:
            return ordinary[module]
        put(made, name, ordinary[module])
    return made


def _has_ordinary(module: nn.Module) -> bool:
    return callable(getattr(type(module), "ordinary", None)) and _is_unhooked(module)


def _gains_channels_last(network: nn.Module) -> bool:
    """Return whether most weights of convolutions of images are of pointwise kernels, or of kernels with few channels.

    Torch on a CPU has faster algorithms in its own order for wide kernels: measured by `python -m benchmarks fast-form`.
    """
    convolutions = [module for module in network.modules() if isinstance(module, IMAGES)]
    wide = [each for each in convolutions if each.weight[0, 0].numel() > 1 and min(each.weight.shape[:2]) >= WIDE]
    return 2 * sum(each.weight.numel() for each in wide) < sum(each.weight.numel() for each in convolutions)


def channels_last(network: nn.Module) -> None:
    """Have the weights of convolutions of images lie in memory channels last, in place, and what they return thereby."""
    for module in network.modules():
        if isinstance(module, IMAGES):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module is a batch normalisation with fixed statistics, and nothing else looks at it."""
    return type(module) in NORMS and module.running_mean is not None and _is_unhooked(module)  # pyright: ignore[reportAttributeAccessIssue]


def _takes(layer: nn.Module, dims: int | None) -> bool:
    """Return whether a layer has its channels where a normalisation of so many dimensions has them, and weights to change."""
    if type(layer) not in (nn.Linear, *CONVS, *TRANSPOSED) or not _is_unhooked(layer):
        return False
    weight: Any = layer.weight
    return weight.dtype.is_floating_point and dims == weight.dim()


def _pads_nothing(layer: Any) -> bool:
    """Return whether a layer multiplies nothing but its inputs."""
    if type(layer) is nn.Linear:
        return True
    return type(layer) in CONVS and (layer.padding == "valid" or (layer.padding != "same" and not any(layer.padding)))


def _is_unhooked(module: nn.Module) -> bool:
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "parametrizations")
    return not any(getattr(module, each, None) for each in hooks) and "forward" not in vars(module)
