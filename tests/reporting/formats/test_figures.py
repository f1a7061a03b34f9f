import altair as alt
import pandas as pd

from robust_lowrank.reporting.formats.figures import Figure, Panel


def test_controls_in_names_do_not_reach_the_converter() -> None:
    frame = pd.DataFrame({"x": ["\x01\x1b[31mred", "two\nlines", "\uffff"], "y": [1.0, 2.0, 3.0]})
    chart = alt.Chart(frame).mark_point().encode(x="x:N", y="y:Q")
    figure = Figure("odd", "Odd\x02", "Odd\x03", "Odd", series=(), panels=(Panel(chart, "Odd\x04"),), height=80)
    svg = figure.paper([])["svg"].decode()
    assert r"\x01\x1b[31mred" in svg
    assert "two" in svg
    assert not [char for char in svg if ord(char) < 32 and char not in "\n\t"]
