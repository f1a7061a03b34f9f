"""A signal that asks to stop ends the command as Ctrl-C does: in order, and with a word about how it goes on."""

import signal
from types import FrameType

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # not all are everywhere
GOES_ON = "what is finished is kept, and the same command goes on from there"


class Stopped(KeyboardInterrupt):
    """A signal has come; its number is the argument."""


def heed_signals() -> None:
    """Have the signals by which systems stop a process raise `Stopped` in the main thread; the second one ends it at once."""
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, and means it
            signal.signal(number, _stop)


def name_of(error: KeyboardInterrupt) -> str:
    """Return the name of the signal that an interruption came from."""
    return signal.Signals(error.args[0]).name if isinstance(error, Stopped) else signal.SIGINT.name


def exit_code(error: KeyboardInterrupt) -> int:
    """Return the code with which shells see a process end that such a signal has stopped."""
    return 128 + (error.args[0] if isinstance(error, Stopped) else signal.SIGINT)


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise Stopped(number)
