"""The chart on top of a report: which one carries the claim, what it says, and where names stand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_lowrank.records import Parameters
from robust_lowrank.reporting.comparing.evidence import gather
from robust_lowrank.reporting.formats.labels import HEIGHT, LETTER, place_labels
from robust_lowrank.reporting.hero import hero

RIGHT = np.arange(100) < 80


@pytest.fixture
def drawn(make_run, make_result):
    """A function that draws the chart of networks of some sizes, the first of them dense."""

    def draw(sizes, **changes):
        runs = []
        for place, size in enumerate(sizes):
            runs.append(
                make_run(
                    f"net {place}",
                    method="condlr" if place else "dense",
                    results=[make_result(RIGHT, {("fgsm", 0.1): RIGHT & (np.arange(100) < 70 - 5 * place)})],
                    parameters=Parameters(total=size, dense=1000, inference=size, removed=0.0, rank_fraction=1.0),
                    **changes,
                )
            )
        return hero(gather(runs))

    return draw


def test_sizes_that_differ_are_drawn_with_a_line_from_the_dense_network(drawn):
    figure = drawn([1000, 300, 400])
    assert figure.name.startswith("robustness-size-")
    (panel,) = figure.panels
    layers = panel.chart.to_dict(validate=False)["layer"]
    marks = [layer["mark"]["type"] for layer in layers]
    assert marks.count("trail") == 2
    assert marks.count("text") == 3
    assert "Lines lead from net 0" in figure.caption


@pytest.mark.parametrize("sizes", [[300, 300], [1000] * 3, [1000 + place for place in range(20)]], ids=["two", "three", "too many"])
def test_otherwise_the_curve_is(drawn, sizes):
    assert drawn(sizes).name.startswith("robust-accuracy-")


def test_without_an_attack_there_is_none(make_run):
    assert hero(gather([make_run("a")])) is None


def test_colour_is_the_condition_number_where_one_is_known(drawn):
    known = drawn([1000, 300], weights={"fc1": np.diag([8.0, 2.0])})
    unknown = drawn([1000, 300], weights={})
    colours = [
        next(layer for layer in f.panels[0].chart.to_dict(validate=False)["layer"] if "shape" in layer["encoding"])
        for f in (known, unknown)
    ]
    assert [layer["encoding"]["color"]["condition"]["field"] for layer in colours[:1]] == ["cond"]
    assert colours[1]["encoding"]["color"]["field"] == "series"
    assert "Colour: the largest condition number" in known.caption
    assert "Colour" not in unknown.caption


def test_names_cover_neither_one_another_nor_points():
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = [(float(x), float(y)) for x, y in zip(rng.uniform(40, 600, 6), np.linspace(30, 300, 6), strict=True)]
        names = ["abcdefgh"[: int(size)] for size in rng.integers(2, 9, 6)]
        boxes = []
        for (x, y), name, place in zip(points, names, place_labels(points, names, 640, []), strict=True):
            width = LETTER * len(name)
            left = x + place.dx - {"left": 0, "center": width / 2, "right": width}[place.align]
            boxes.append((left, y + place.dy - HEIGHT / 2, left + width, y + place.dy + HEIGHT / 2))
            assert left >= 0 and left + width <= 640
        for one, other in itertools.combinations(boxes, 2):
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        for place, box in enumerate(boxes):
            assert not any(box[0] < x < box[2] and box[1] < y < box[3] for other, (x, y) in enumerate(points) if other != place)


@given(st.lists(st.floats(20, 380), min_size=2, max_size=6, unique=True))
def test_labels_of_a_column_stand_in_the_order_of_its_points(heights):
    points = [(50.0, y) for y in heights]
    names = [f"a long name {place}" for place in range(len(points))]
    placed = place_labels(points, names, 640, [])
    order = sorted(range(len(points)), key=lambda place: points[place][1])
    tops = [points[place][1] + placed[place].dy for place in order]
    assert tops == sorted(tops)
