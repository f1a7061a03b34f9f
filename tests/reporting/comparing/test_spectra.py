import numpy as np
import pytest

from robust_lowrank.reporting.comparing import spectra
from robust_lowrank.reporting.comparing.entries import arrange


@pytest.fixture
def entry(make_run):
    weights = {"one": np.diag([4.0, 2.0, 1.0]), "two": np.diag([3.0, 3.0, 1.5]), "three": np.diag([5.0, 1.0])}
    return arrange([make_run("a", weights=weights, ranks={"one": 2, "two": 3})])[0]


def test_conditioning_of_all_and_of_compressed_layers(entry):
    found = spectra.conditioning(entry)
    assert (found.worst, found.worst_layer, found.layers) == (5.0, "three", 3)
    assert found.product == pytest.approx(2.0 * 2.0 * 5.0)
    assert (found.factored_worst, found.factored_product, found.factored_layers) == (2.0, 4.0, 2)


def test_layers_come_worst_first(entry):
    assert spectra.table([entry])["layer"].tolist() == ["three", "one", "two"]
    assert spectra.worst_layers([entry], 2) == ["one", "three"]


def test_singular_values_relative_to_the_largest(entry):
    frame = spectra.values([entry])
    assert frame.loc[frame["layer"] == "one", "relative"].tolist() == [1.0, 0.5]
    assert frame.loc[frame["layer"] == "one", "index"].tolist() == [1, 2]


def test_without_spectra_there_is_no_conditioning(make_run):
    assert spectra.conditioning(arrange([make_run("a")])[0]) is None


def test_the_product_of_many_large_numbers_is_infinite_without_a_warning(make_run):
    weights = {f"layer{i}": np.diag([1e3, 1e-7]) for i in range(40)}
    assert spectra.conditioning(arrange([make_run("a", weights=weights)])[0]).product == np.inf
