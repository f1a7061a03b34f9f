"""What is shown of work that goes on: bars on a terminal, lines elsewhere, warnings on both."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from robust_lowrank.cli import progress
from robust_lowrank.cli.progress import Board
from robust_lowrank.jobs.events import Event, Throttled

STEP = Event("net", "training", 1, 2, state="cond ≤ 1.10 (conv[2]), orth 3e-07")
WARNING = Event("net", "training", 1, 2, warning="step 1: cond of layer 'conv[2]' is 2e+04")
NOTE = Event("net", "training", 2, 2, note="epoch 1 of 1")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    def show(*events: Event, terminal: bool) -> str:
        out = io.StringIO()
        console = Console(file=out, force_terminal=terminal, width=160, soft_wrap=True, highlight=False)
        monkeypatch.setattr(progress, "Console", lambda **_: console)
        with Board() as board:
            for event in events:
                board(event)
            board._bars.refresh()
        return out.getvalue()

    return show


def test_a_terminal_shows_the_state_warnings_and_the_last_note(shown: Callable[..., str]) -> None:
    text = shown(STEP, WARNING, terminal=True)
    assert "is 2e+04" in text
    assert "epoch 1 of 1" in shown(NOTE, STEP, terminal=True)
    assert "training, cond ≤ 1.10 (conv[2]), orth 3e-07" in shown(STEP, terminal=True)


def test_elsewhere_there_are_lines_of_notes_and_warnings(shown: Callable[..., str]) -> None:
    assert shown(STEP, WARNING, NOTE, terminal=False) == "net: step 1: cond of layer 'conv[2]' is 2e+04\nnet: epoch 1 of 1\n"


def test_a_log_hears_after_a_silence_how_far_a_job_is(shown: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0, progress.SILENCE, progress.SILENCE + 1, 2 * progress.SILENCE])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    events = [Event("net", "quick Linf: pgd-20 at Linf 8/255, 9 of 10 hold", done, 1000) for done in (0, 10, 200, 300, 450)]
    assert shown(*events, terminal=False) == "".join(
        f"net: quick Linf: pgd-20 at Linf 8/255, 9 of 10 hold, {share}\n" for share in ("20%", "45%")
    )


def test_the_bar_is_seen_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, soft_wrap=True, highlight=False)
    monkeypatch.setattr(progress, "Console", lambda **_: console)
    with Board() as board:
        board(
            Event(
                "a-run-with-a-name-of-some-length",
                "standard Linf: autoattack at Linf 8/255, 87 of 100 hold",
                43,
                100,
                note="x" * 90,
            )
        )
        board._bars.refresh()
    assert "43%" in out.getvalue() and "…" in out.getvalue()


def test_warnings_pass_whatever_the_time() -> None:
    seen: list[Event] = []
    report = Throttled(seen.append)
    for event in (STEP, STEP, WARNING, WARNING):
        report(event)
    assert seen == [STEP, WARNING, WARNING]
