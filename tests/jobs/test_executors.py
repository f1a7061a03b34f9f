"""Executors keep one protocol, whatever is behind them."""

from functools import partial
from pathlib import Path

import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.jobs.events import Event, Report
from robust_lowrank.jobs.executors import executor_names, find_executor


def square(number: int, report: Report) -> int:
    if number < 0:
        raise UserError("no square is asked of a number below 0")
    report(Event(f"task {number}", "squaring", 1, 1, note="done"))
    return number * number


def touch(path: Path, report: Report) -> None:
    path.touch()


@pytest.mark.parametrize("name", executor_names())
@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_events_from_every_task(name: str, workers: int) -> None:
    events: list[Event] = []
    with find_executor(name)(workers) as executor:
        for number in (3, 1, 2):
            executor.submit(partial(square, number))
        assert executor.gather(events.append) == [9, 1, 4]
        executor.submit(partial(square, 5))
        assert executor.gather(events.append) == [25]
    assert sorted(event.job for event in events) == ["task 1", "task 2", "task 3", "task 5"]


@pytest.mark.parametrize("name", executor_names())
@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_raised(name: str, workers: int) -> None:
    with find_executor(name)(workers) as executor:
        executor.submit(partial(square, -1))
        with pytest.raises(UserError, match="below 0"):
            executor.gather(lambda event: None)


@pytest.mark.parametrize("name", executor_names())
def test_what_is_cancelled_does_not_run(name: str, tmp_path: Path) -> None:
    with find_executor(name)(1) as executor:
        executor.submit(partial(touch, tmp_path / "file"))
        executor.cancel()
        assert executor.gather(lambda event: None) == []
    assert not (tmp_path / "file").exists()


def test_an_unknown_executor_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UserError, match="did you mean 'processes'"):
        find_executor("process")
