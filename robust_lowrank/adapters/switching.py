"""Of several adapters of a network some take part, and train."""

from collections.abc import Sequence

from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.layers import Adapter, adapted_parts
from robust_lowrank.layers.merged import MergedParameter, uninstall_all
from robust_lowrank.layers.network import owner_of
from robust_lowrank.submodules import put, uncompiled


def adapter_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of a network's adapters, in the order in which its layers have them.

    Raises:
        UserError: it has none.
    """
    names = tuple(dict.fromkeys(name for _, part in adapted_parts(uncompiled(model)) for name in part.names))
    if not names:
        raise UserError("the network has no adapters: call adapt first")
    return names


def set_adapter(model: nn.Module, names: str | Sequence[str]) -> None:
    """Let these adapters take part and train, all at once, and no others. An optimizer is to be made after it.

    What trains beside the updates, such as a head, is the network's, and stays as it is. `without_updates` leaves all adapters out
    for a while.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8))
        >>> for name in ("german", "french"):
        ...     report = adapt(net, rank=2, name=name)
        >>> set_adapter(net, "german")
        >>> net[0].active
        ('german',)

    Raises:
        UserError: the network has no adapter of such a name.
    """
    model = uncompiled(model)
    wanted = require_names(model, [names] if isinstance(names, str) else names)
    for _, part in adapted_parts(model):
        part.activate(wanted)


def delete_adapter(model: nn.Module, name: str) -> None:
    """Take an adapter out of a network, whose frozen weights are as they were before it.

    Layers without another become ordinary ones again, still frozen. Without its last adapter a network is the one before `adapt`.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 8))
        >>> report = adapt(net, rank=2)
        >>> delete_adapter(net, "default")
        >>> net
        Sequential(
          (0): Linear(in_features=8, out_features=8, bias=True)
        )

    Raises:
        UserError: the network has no adapter of that name.
    """
    model = uncompiled(model)
    require_names(model, [name])
    for _, part in list(adapted_parts(model)):
        if name not in part.names:
            continue
        part.drop(name)
        if part.names:
            continue
        if isinstance(part, MergedParameter):
            uninstall_all(model, only=part)
        elif isinstance(part, Adapter):
            for each in [each for each, module in model.named_modules(remove_duplicate=False) if module is part]:
                put(model, each, part.base)


def merge_adapter(model: nn.Module) -> None:
    """Compute with the sums of weights and active updates, formed once, until `unmerge_adapter`: at the speed of the plain network.

    The frozen weights are kept, so that unmerging is exact. Merged updates do not train. Switching adapters, and loading, unmerge.

    Example:
        >>> net, x = nn.Sequential(nn.Linear(8, 8)), torch.ones(1, 8)
        >>> report = adapt(net, method="condlr", rank=2)
        >>> y = net(x)
        >>> merge_adapter(net)
        >>> torch.allclose(net(x), y, atol=1e-6)
        True

    Raises:
        UserError: the network has no adapters.
    """
    model = uncompiled(model)
    adapter_names(model)
    for path, part in adapted_parts(model):
        part.folded = None
        if isinstance(part, Adapter):
            part.folded = part.dense_layer().weight.detach()
        else:
            owner, parameter = owner_of(path)
            part.folded = getattr(model.get_submodule(owner), parameter).detach()


def unmerge_adapter(model: nn.Module) -> None:
    """Compute with weights and updates again, as before `merge_adapter`."""
    for _, part in adapted_parts(uncompiled(model)):
        part.folded = None


def require_names(model: nn.Module, names: Sequence[str]) -> Sequence[str]:
    """Return names of adapters that a network has.

    Raises:
        UserError: it lacks one, or none are given.
    """
    known = adapter_names(model)
    if not isinstance(names, Sequence) or not names or not set(names) <= set(known):
        raise UserError(f"the network has no adapter {names!r}; there are: {', '.join(known)}")
    return names
