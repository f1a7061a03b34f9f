"""A classifier is made of anything that returns logits somewhere."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from robust_lowrank.errors import UserError

Output = str | int | Callable[[Any], Tensor]


class Classifier(nn.Module):
    """A function or a network as a network that returns its logits alone; its state is that of the network.

    Args:
        function: takes inputs (N, ...) in [0, 1].
        output: where the logits are in what it returns, a key or an attribute, an index, or a function of it; None if it is them.

    Example:
        >>> Classifier(lambda x: {"logits": x.flatten(1)}, "logits")(torch.ones(2, 3)).shape
        torch.Size([2, 3])
    """

    def __init__(self, function: Callable[[Tensor], Any], output: Output | None = None) -> None:
        super().__init__()
        self.function = function
        self.output = output

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits.

        Raises:
            UserError: what the function returns has no such key, attribute or index.
        """
        found = self.function(x)
        if self.output is None:
            return found
        if callable(self.output):
            return self.output(found)
        try:
            if isinstance(self.output, str) and not isinstance(found, Mapping):
                return getattr(found, self.output)
            return found[self.output]
        except (KeyError, IndexError, AttributeError, TypeError) as error:
            raise UserError(f"the model returns {_contents(found)}, and no output {self.output!r}") from error

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Return the state of the network, or nothing for a function."""
        return self.function.state_dict(*args, **options) if isinstance(self.function, nn.Module) else {}


def as_classifier(model: nn.Module | Callable[[Tensor], Any], output: Output | None = None) -> nn.Module:
    """Return a network as it is if it returns logits, and anything else as one that does.

    A function has no weights that anybody could hash: its results are known by its answers alone. Its modes and whatever it closes
    over are left as they are.

    Example:
        >>> as_classifier(lambda x: x.flatten(1))(torch.ones(2, 3)).shape
        torch.Size([2, 3])

    Raises:
        UserError: it cannot be called.
    """
    if isinstance(model, nn.Module) and output is None:
        return model
    if not callable(model):
        raise UserError(f"a model is a network or a function of its inputs, not a {type(model).__name__}")
    return Classifier(model, output)


def _contents(found: object) -> str:
    """Return in words what somebody may choose from."""
    if isinstance(found, Mapping):
        return f"a {type(found).__name__} with {', '.join(map(repr, found)) or 'nothing'}"
    if isinstance(found, tuple | list):
        return f"a {type(found).__name__} of {len(found)}"
    return f"a {type(found).__name__}"
