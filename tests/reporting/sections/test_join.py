import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, spearmanr

from robust_lowrank.records import OPERATORS, Certificate, CertificateRecord, Parameters
from robust_lowrank.reporting.comparing.entries import arrange
from robust_lowrank.reporting.comparing.evaluations import find_evaluations
from robust_lowrank.reporting.sections import join

RIGHT = np.ones(100, dtype=bool)
CONDS = [1.5, 3.0, 40.0, 8.0, 100.0, 20.0]
HELD = [80, 70, 30, 60, 35, 50]


@pytest.fixture
def make_evaluations(make_run, make_result):
    def make(count=6, conds=CONDS, held=HELD, distances=False):
        runs = []
        for place in range(count):
            results = [make_result(RIGHT, {("pgd", 0.1): np.arange(100) < held[place]})]
            if distances:
                nearest = make_result(RIGHT, {("fab", 0.5): RIGHT & False}, suite="nearest", attack="a2")
                nearest.verdicts["distance"] = np.linspace(0.1, 0.3, 100) * (1 + held[place] / 100)
                results.append(nearest)
            weights = {"one": np.diag([conds[place], 1.0]), "two": np.diag([2.0, 1.0])}
            runs.append(make_run(f"N{place}", results=results, weights=weights))
        return find_evaluations(arrange(runs))

    return make


def found(evaluations) -> join.Join:
    return join.Join.join(next(evaluation for evaluation in evaluations if evaluation.suite == "quick"), evaluations)


def test_networks_are_joined_with_what_they_hold(make_evaluations):
    joined = found(make_evaluations(distances=True))
    assert joined.networks["worst"].tolist() == pytest.approx([max(2.0, cond) for cond in CONDS])
    assert joined.networks["product"].tolist() == pytest.approx([2 * cond for cond in CONDS])
    assert joined.networks["robust"].tolist() == [held / 100 for held in HELD]
    assert joined.networks["margin"].tolist() == [1.0 if held > 50 else -1.0 if held < 50 else 0.0 for held in HELD]
    assert joined.networks["distance"].tolist() == pytest.approx([0.2 * (1 + held / 100) for held in HELD])


def test_the_correlations_are_those_of_scipy_corrected_together(make_evaluations):
    joined = found(make_evaluations(distances=True))
    known = joined.relations
    at = {(relation.layer, relation.quantity, relation.outcome): relation for relation in known if not relation.equal}
    relation = at["one", "Condition number", "robust"]
    assert relation.correlation.spearman.value == pytest.approx(spearmanr(CONDS, HELD).statistic)
    assert relation.correlation.kendall.value == pytest.approx(kendalltau(CONDS, HELD).statistic)
    assert relation.adjusted >= relation.correlation.p
    assert ("one", "Condition number", "distance") in at
    assert not any(relation.layer == "two" for relation in known)  # the same in every network
    (table,) = joined.tables
    assert "not what causes what" in table.notes[0]
    assert table.rows[0][0].text == "all layers: worst" and table.rows[0][2].text.startswith("−0.9")


def test_a_relation_is_put_into_words_and_a_missing_one_too(make_evaluations):
    joined = found(make_evaluations())
    said = joined.statement
    assert "Over 6 networks, robust accuracy tends to be lower where the largest condition number is higher" in said
    mixed = found(make_evaluations(held=[50, 60, 55, 40, 52, 45]))
    assert "no relation of robust accuracy and the largest condition number shows" in mixed.statement
    level = found(make_evaluations(held=[50] * 6))
    assert "nothing to correlate" in level.statement


def test_too_few_networks_are_said_to_be_so(make_evaluations):
    joined = found(make_evaluations(3))
    assert joined.relations == []
    assert joined.statement == "Too few networks for a correlation: n = 3, and it takes 5."
    assert joined.tables == ()
    assert len(joined.figures) == 1


def test_one_network_or_none_with_spectra_is_not_joined(make_evaluations, make_run, make_result):
    assert found(make_evaluations(1)) is None
    bare = [make_run(name, results=[make_result(RIGHT, {("pgd", 0.1): RIGHT})]) for name in "ab"]
    evaluations = find_evaluations(arrange(bare))
    assert join.Join.join(evaluations[0], evaluations) is None


def test_infinite_condition_numbers_take_part_in_ranks_and_not_in_the_figure(make_evaluations):
    joined = found(make_evaluations(conds=[1.5, 3.0, 0.0, 8.0, 100.0, 20.0]))
    assert joined.networks["worst"].tolist()[2] == math.inf
    assert joined.relations
    spec = joined.figures[0].page_specs()[0]
    assert len(next(iter(spec["datasets"].values()))) == 5


def test_without_an_attack_that_looks_for_the_nearest_there_is_no_distance(make_evaluations):
    assert found(make_evaluations()).networks["distance"].isna().all()


def test_operators_stand_beside_matrices_and_only_of_networks_that_recorded_them(make_evaluations):
    evaluations = make_evaluations()
    assert math.isnan(found(evaluations).networks["operator"].max())
    assert len(found(evaluations).figure.panels) == 2
    for place, entry in enumerate(evaluations[0].entries):
        row = dict.fromkeys(OPERATORS, 1.0) | {"layer": "one", "kind": "conv", "circular_cond": 10.0 * (place + 1)}
        object.__setattr__(entry.run, "operators", pd.DataFrame([row], columns=list(OPERATORS)))
    joined = found(evaluations)
    assert joined.networks["operator"].tolist() == [10.0 * (place + 1) for place in range(6)]
    assert [panel.title for panel in joined.figure.panels] == [
        "Worst layer as a matrix",
        "Worst layer as an operator",
        "Product over the matrices",
        "Product of operator norms",
    ]
    assert joined.networks["norms"].tolist() == [1.0] * 6
    assert "nothing bounds its condition number (here up to 60.0)" in joined.figure.caption
    assert any(relation.layer == "all layers: worst as operators" for relation in joined.relations)


def test_at_equal_clean_accuracy_and_size_another_relation_may_show(make_run, make_result):
    """Over all, large networks are worse conditioned and better; among equals conditioning helps."""
    runs = []
    for place in range(24):
        size, worse = place // 4, place % 4
        sizes = 100 * (1 + size)
        runs.append(
            make_run(
                f"N{place}",
                results=[make_result(RIGHT, {("pgd", 0.1): np.arange(100) < 40 + 8 * size - worse})],
                weights={"one": np.diag([2.0 + 5 * size + worse, 1.0])},
                parameters=Parameters(total=sizes, dense=1000, inference=sizes, removed=0.0, rank_fraction=1.0),
            )
        )
    said = found(find_evaluations(arrange(runs))).statement
    assert "Over 24 networks, robust accuracy tends to be higher where the largest condition number is higher" in said
    assert "At equal clean accuracy and size: ρ −0.9" in said or "At equal clean accuracy and size: ρ −1.00" in said
    assert "At equal clean accuracy and size nothing can be said of so few." in found(find_evaluations(arrange(runs[:6]))).statement


def test_seeds_of_a_method_are_one_point(make_run, make_result):
    """Seeds differ by chance alone: counted as networks of their own they would make every p too small."""
    runs = [
        make_run(
            f"N{place}",
            seed=seed,
            results=[make_result(RIGHT, {("pgd", 0.1): np.arange(100) < held - seed})],
            weights={"one": np.diag([cond * 4**seed, 1.0])},
        )
        for place, (cond, held) in enumerate(zip(CONDS, HELD, strict=True))
        for seed in (0, 1)
    ]
    joined = found(find_evaluations(arrange(runs)))
    assert joined.networks["worst"].tolist() == pytest.approx([2 * cond for cond in CONDS])
    assert joined.networks["robust"].tolist() == pytest.approx([(held - 0.5) / 100 for held in HELD])
    assert {relation.correlation.pairs for relation in joined.relations if not relation.equal} == {6}
    assert "Over 6 methods (means over their seeds)" in joined.statement
    assert len(joined.layers) == 6


def test_margins_and_radii_of_certificates_are_related_too(make_evaluations):
    evaluations = make_evaluations()
    for place, entry in enumerate(evaluations[0].entries):
        table = pd.DataFrame({"margin": [1.0, 2.0, 3.0], "radius": [0.1, 0.1 * (place + 1), 2.0]})
        record = CertificateRecord.model_construct(kind="lipschitz")
        object.__setattr__(entry.run, "certificates", {"lipschitz": Certificate(record, table)})
    joined = found(evaluations)
    assert joined.networks["clean_margin"].tolist() == [2.0] * 6
    assert joined.networks["radius"].tolist() == pytest.approx([0.1 * (place + 1) for place in range(6)])
    assert {relation.quantity for relation in joined.relations if relation.layer == "network"} == {"Median proved radius"}
