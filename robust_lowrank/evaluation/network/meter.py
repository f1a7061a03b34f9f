"""A meter knows what is spent, and what may be spent."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from robust_lowrank.ranges import PASSES, SECONDS


class Exhausted(Exception):
    """The budget is spent: what is under way ends here, and what it was tried on stays unresolved."""


class Meter:
    """Counts passes, one forward or one backward of one example each, and stops the work at a limit.

    Example:
        >>> meter = Meter(max_passes=1000, max_seconds=60)
        >>> meter.count(len(x))  # before every evaluation of the network
        >>> meter.watch(logits)  # after it
    """

    passes: int
    computed: int  # passes, and the rows that filled up pieces
    max_passes: int | None

    def __init__(self, *, max_passes: int | None = None, max_seconds: float | None = None) -> None:
        PASSES.require("max_passes", max_passes)
        SECONDS.require("max_seconds", max_seconds)
        self.passes = self.computed = 0
        self.max_passes = max_passes
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self._tell: Callable[[int], None] | None = None

    @property
    def exhausted(self) -> bool:
        """Whether nothing more may be spent."""
        spent = self.max_passes is not None and self.passes >= self.max_passes
        return spent or (self._deadline is not None and time.monotonic() >= self._deadline)

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self.max_passes is not None or self._deadline is not None

    def count(self, passes: int, padding: int = 0) -> None:
        """Count passes that are about to happen; the network computes so many rows more, which no limit is about.

        Raises:
            Exhausted: they are not covered any more.
        """
        if self.max_passes is not None and self.passes + passes > self.max_passes:
            self.passes = self.max_passes
        if self.exhausted:
            raise Exhausted
        self.passes += passes
        self.computed += passes + padding
        if self._tell:
            self._tell(self.passes)

    @contextmanager
    def telling(self, report: Callable[[float, str], None], work: int) -> Iterator[None]:
        """Report which fraction of some work is done, whenever a hundredth more is: `work` is the most that it takes in passes."""
        before, told = self.passes, 0

        def tell(passes: int) -> None:
            nonlocal told
            hundredths = min(100 * (passes - before) // max(work, 1), 100)
            if hundredths > told:
                told = hundredths
                report(told / 100, "")

        self._tell = tell
        try:
            yield
        finally:
            self._tell = None

    def watch(self, logits: Tensor, padding: int = 0) -> None:
        """Count a pass an example for every backward through these logits, when it happens."""
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self.count(len(gradient), padding))
