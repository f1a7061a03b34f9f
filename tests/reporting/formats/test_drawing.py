import sys
import time

import altair as alt
import pandas as pd
import pytest

from robust_lowrank.reporting.formats import figures
from robust_lowrank.reporting.formats.drawing import PATIENCE, Engine, NotDrawnError, shared_engine
from robust_lowrank.reporting.formats.figures import Figure, Panel
from robust_lowrank.reporting.formats.style import looks
from robust_lowrank.reporting.output import page
from robust_lowrank.reporting.output.page import draw

FAKE = """
import json, os, sys, time
for line in sys.stdin:
    what = json.loads(line)["what"]
    if what == "die":
        os.abort()
    if what == "half":
        print('{"done": ', flush=True)
    time.sleep(60 if what == "hang" else 0)
    print(json.dumps({"refused": "Odd: no\\x1b"} if what == "refuse" else {"done": [what, os.getpid()]}), flush=True)
"""


@pytest.fixture
def fake():
    engine = Engine((sys.executable, "-c", FAKE), seconds=2.0)
    yield engine
    engine.close()


def test_one_process_draws_everything_until_it_dies_and_another_goes_on(fake: Engine) -> None:
    first = fake.do("svg")
    assert fake.do("svg") == first
    with pytest.raises(NotDrawnError, match="died, or took too long"):
        fake.do("die")
    what, process = fake.do("print")
    assert what == "print"
    assert process != first[1]
    with pytest.raises(NotDrawnError, match="died"):
        fake.do("half")


def test_what_hangs_is_ended(fake: Engine) -> None:
    started = time.monotonic()
    with pytest.raises(NotDrawnError, match="took too long"):
        fake.do("hang")
    assert time.monotonic() - started < 30


def test_what_is_refused_is_told_in_one_line(fake: Engine) -> None:
    with pytest.raises(NotDrawnError, match=r"^the chart engine refused it: Odd: no\\x1b$"):
        fake.do("refuse")


def test_an_engine_that_never_works_is_given_up() -> None:
    engine = Engine(("/nowhere/python",))
    for _ in range(PATIENCE):
        with pytest.raises(NotDrawnError, match="died"):
            engine.do("svg")
    with pytest.raises(NotDrawnError, match="fails on this machine"):
        engine.do("svg")


def test_the_engine_refuses_what_is_no_chart() -> None:
    with pytest.raises(NotDrawnError, match="refused"):
        shared_engine().do("svg", spec={"mark": 7}, version="9.9")


def test_a_figure_that_is_not_drawn_says_why_where_its_picture_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "shared_engine", lambda: Engine((sys.executable, "-c", "import os; os.abort()")))
    chart = alt.Chart(pd.DataFrame({"x": [1.0]})).mark_point().encode(x="x:Q")
    drawing = draw(Figure("one", "One", "One point", "How to read it", series=(), panels=(Panel(chart),)), looks({}))
    assert drawing.paper == {}
    assert drawing.failure == "the chart engine died, or took too long"
    macro = page.environment(autoescape=True).get_template("parts.html").module.figure_block(drawing, {}, ())
    assert "There is no picture of it: the chart engine died, or took too long." in macro
    assert "<img" not in macro
