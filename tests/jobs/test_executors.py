"""Executors keep one protocol, whatever is behind them."""

from functools import partial
from pathlib import Path

import pytest

from robust_lowrank.errors import TrainingError, UserError
from robust_lowrank.jobs.events import Event, Report
from robust_lowrank.jobs.executors import Executor, executor_names, find_executor


def square(number: int, report: Report) -> int:
    report(Event(f"task {number}", "squaring", 1, 1, note="done"))
    return number * number


def touch(path: Path, report: Report) -> None:
    path.touch()


def fail(error: Exception, report: Report) -> None:
    raise error


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name == "ray" else name for name in executor_names()])
def kind(request: pytest.FixtureRequest) -> type[Executor]:
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return find_executor(request.param)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_events_from_every_task(kind: type[Executor], workers: int) -> None:
    events: list[Event] = []
    with kind(workers) as executor:
        for number in (3, 1, 2):
            executor.submit(partial(square, number))
        assert executor.gather(events.append) == [9, 1, 4]
        executor.submit(partial(square, 5))
        assert executor.gather(events.append) == [25]
    tasks = sorted(event.job for event in events if event.stage == "squaring")
    assert tasks == ["task 1", "task 2", "task 3", "task 5"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "error"), [(1, UserError("below 0")), (1, OSError(28, "below 0", "file")), (2, TrainingError("below 0"))]
)
def test_a_failure_is_raised_as_it_is_and_nothing_else_begun(
    kind: type[Executor], workers: int, error: Exception, tmp_path: Path
) -> None:
    with kind(workers) as executor:
        executor.submit(partial(fail, error))
        executor.submit(partial(touch, tmp_path / "file"))
        with pytest.raises(type(error), match="below 0") as raised:
            executor.gather(lambda event: None)
    assert type(raised.value) is type(error)
    assert raised.value.args == error.args
    assert workers == 2 or not (tmp_path / "file").exists()


def test_what_is_cancelled_does_not_run(kind: type[Executor], tmp_path: Path) -> None:
    with kind(1) as executor:
        executor.submit(partial(touch, tmp_path / "file"))
        executor.cancel()
        assert executor.gather(lambda event: None) == []
    assert not (tmp_path / "file").exists()


def test_there_is_a_worker_by_default_and_more_than_that_may_be_asked_for(kind: type[Executor]) -> None:
    assert kind.default_workers(1) == 1
    assert 1 <= kind.default_workers(1000) <= kind.most_workers()


def test_an_unknown_executor_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UserError, match="did you mean 'processes'"):
        find_executor("process")
