import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_lowrank.records import Costs, Latency, Parameters
from robust_lowrank.reporting.comparing.entries import arrange
from robust_lowrank.reporting.comparing.evaluations import find_evaluations
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.comparing.pareto import Fronts, pareto_front
from robust_lowrank.reporting.comparison_summary import summarise
from robust_lowrank.reporting.sections import efficiency

RIGHT = np.array([True] * 90 + [False] * 10)
POINTS = st.integers(1, 3).flatmap(lambda size: st.lists(st.tuples(*[st.integers(0, 4)] * size), min_size=1, max_size=12))


def dominates(a, b) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


@given(POINTS)
def test_nothing_on_the_front_is_dominated_and_all_off_it_are_by_something_on_it(points):
    front = pareto_front(points)
    on = [point for point, kept in zip(points, front, strict=True) if kept]
    assert on
    for point, kept in zip(points, front, strict=True):
        assert kept == (not any(dominates(other, point) for other in points))
        assert kept or any(dominates(other, point) for other in on)


@given(POINTS, st.randoms())
def test_the_front_does_not_depend_on_the_order(points, random):
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = pareto_front([points[i] for i in order])
    assert [pareto_front(points)[i] for i in order] == shuffled


def test_equal_points_are_on_the_front_together():
    assert pareto_front([(1, 2), (1, 2), (2, 1), (2, 2)]) == [True, True, True, False]
    assert pareto_front([(1, 2), (1, 3)]) == [True, False]
    assert pareto_front([]) == []


def costs(flops: int, milliseconds: float, machine: str = "m") -> Costs:
    latencies = [Latency(batch=batch, milliseconds=milliseconds * batch, dense_milliseconds=9.0, passes=5) for batch in (1, 64)]
    return Costs(flops=flops, dense_flops=1000, latencies=latencies, threads=1, machine=machine)


@pytest.fixture
def make_evaluation(make_run, make_result):
    def make(networks, **changes):
        runs = []
        for label, (held, inference, cost, clean) in networks.items():
            right = np.arange(100) < clean
            runs.append(
                make_run(
                    label,
                    method="dense" if label == "Dense" else "condlr",
                    results=[make_result(right, {("fgsm", 0.1): right & (np.arange(100) < held)})],
                    parameters=Parameters(total=inference, dense=1000, inference=inference, removed=0.0, rank_fraction=1.0),
                    costs=cost,
                    **changes,
                )
            )
        return find_evaluations(arrange(runs))[0]

    return make


def test_every_cost_has_its_own_front(make_evaluation):
    evaluation = make_evaluation(
        {
            "Big": (60, 1000, costs(1000, 1.0), 95),
            "Small": (50, 100, costs(500, 2.0), 90),
            "Bad": (40, 500, costs(700, 3.0), 85),
        }
    )
    fronts = Fronts(evaluation)
    assert {objective.name: fronts.on(objective) for objective in fronts.points} == {
        "clean": ["Big"],
        "parameters": ["Big", "Small"],
        "flops": ["Big", "Small"],
        "latency": ["Big"],
    }
    assert fronts.describe("parameters") == (
        "On the front of robustness and size are Big and Small: no network here is both smaller and more robust than one of them."
    )
    assert fronts.describe("latency") == "No network here is faster or more robust than Big."
    section = efficiency.Efficiency.from_evaluation(evaluation)
    (figure,), (table,) = section.figures, section.tables
    assert [panel.title.split(" ")[0] for panel in figure.panels] == ["Clean", "FLOPs", "Latency"]  # size is on top
    assert [point.series for point in fronts.sizes] == ["Big", "Small", "Bad"]
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows["Small"] == ["50.0", "90.0", "100", "500", "0.222", "14.2", "", "✓", "✓", ""]
    assert rows["Bad"][-4:] == [""] * 4


def test_runs_without_costs_have_the_fronts_that_are_known(make_evaluation):
    section = efficiency.Efficiency.from_evaluation(make_evaluation({"A": (60, 1000, None, 95), "B": (50, 100, None, 95)}))
    fronts = section.fronts
    assert [objective.name for objective in fronts.points] == ["clean", "parameters"]
    assert fronts.describe("flops") is None
    assert len(section.tables[0].columns) == 4 + 2


def test_times_of_two_machines_are_not_compared(make_evaluation):
    evaluation = make_evaluation({"A": (60, 1000, costs(1, 1.0), 95), "B": (50, 100, costs(2, 2.0, "other"), 95)})
    fronts = Fronts(evaluation)
    section = efficiency.Efficiency.from_evaluation(evaluation)
    assert "latency" not in [objective.name for objective in fronts.points]
    assert "Times of different machines are not drawn" in section.figures[0].caption
    assert not any("Latency" in column.group for column in section.tables[0].columns)


def test_one_network_has_no_front(make_evaluation):
    evaluation = make_evaluation({"A": (60, 1000, None, 95)})
    assert Fronts(evaluation).points == {}
    assert efficiency.Efficiency.from_evaluation(evaluation) is None


def measured(*ratios: tuple[float, float, float]) -> Costs:
    latencies = [
        Latency(batch=batch, milliseconds=2.0, dense_milliseconds=2.0, passes=5, ratio=middle, ratio_low=low, ratio_high=high)
        for batch, (low, middle, high) in zip((1, 64), ratios, strict=True)
    ]
    return Costs(flops=1, dense_flops=2, latencies=latencies, threads=1, machine="m")


def test_networks_that_are_slower_than_dense_are_named_on_top(make_evaluation):
    slow = measured((1.2, 1.31, 1.4), (0.9, 1.02, 1.1))
    networks = {"Slow": (60, 1000, slow, 95), "Fast": (50, 100, measured((0.4, 0.5, 0.6), (0.7, 0.8, 0.9)), 90)}
    evaluation = make_evaluation(networks)
    warnings = [each.text for each in summarise(Evidence(evaluation.entries, (evaluation,))).statements if each.kind == "warning"]
    assert warnings == ["Slower than the dense network in inference, by the factors given: Slow (1.31 for one example)."]
    rows = {row[0].text: row for row in efficiency.Efficiency.from_evaluation(evaluation).table.rows}
    assert [rows["Slow"][5].text, rows["Slow"][5].sub] == ["1.31", "1.20 to 1.40; 2.00 ms"]


def test_the_dense_network_takes_as_long_as_itself(make_evaluation):
    evaluation = make_evaluation({"Dense": (60, 1000, costs(1000, 1.07), 95), "Small": (50, 100, costs(500, 2.0), 90)})
    (table,) = efficiency.Efficiency.from_evaluation(evaluation).tables
    dense, small = ([cell.text for cell in row[1:]] for row in table.rows)
    assert dense[4:6] == ["1", "1"] and small[4:6] != ["1", "1"]
    (latency,) = (points for objective, points in Fronts(evaluation).points.items() if objective.name == "latency")
    assert {point.series: point.cost for point in latency}["Dense"] == 1
