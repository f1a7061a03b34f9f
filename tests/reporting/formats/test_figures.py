import altair as alt
import pandas as pd

from robust_lowrank.reporting.formats import encodings
from robust_lowrank.reporting.formats.figures import Figure, Panel


def test_controls_in_names_do_not_reach_the_converter() -> None:
    frame = pd.DataFrame({"x": ["\x01\x1b[31mred", "two\nlines", "\uffff"], "y": [1.0, 2.0, 3.0]})
    chart = alt.Chart(frame).mark_point().encode(x="x:N", y="y:Q")
    figure = Figure("odd", "Odd\x02", "Odd\x03", "Odd", series=(), panels=(Panel(chart, "Odd\x04"),), height=80)
    svg = figure.paper([])["svg"].decode()
    assert r"\x01\x1b[31mred" in svg
    assert "two" in svg
    assert not [char for char in svg if ord(char) < 32 and char not in "\n\t"]


def test_a_logarithmic_axis_has_no_more_ticks_than_can_be_read():
    spans = {high: encodings.log_axis(pd.Series([1.0, high])).values for high in (2.0, 50.0, 1e5, 1e19)}
    assert spans[50.0] == [1, 3, 10, 30, 100, 300]
    assert all(len(values) <= 14 for values in spans.values())
    assert spans[1e19] == [1.0, 1e3, 1e6, 1e9, 1e12, 1e15, 1e18]
