"""What a report claims of networks whose differences are known, in every format."""

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.records import Parameters
from robust_lowrank.reporting import comparison_report
from robust_lowrank.reporting.output import files, page
from robust_lowrank.reporting.output.page import Drawing

EXAMPLES = 1000
WOBBLE = {"Dense": (0.0, 0.002, -0.002, 0.001, -0.001), "Other": (0.001, -0.001, 0.0, 0.002, -0.002)}  # of the seeds
CLAIM = r"is better|Better than|Worse than|more than (Dense|Other)"
SIZE = r"with [\d.]+ (% of|times) (its|the other's) parameters"


def right(accuracy: float, seed: int) -> np.ndarray:
    """Who of the examples is right: exactly that share, mostly those that any network finds easy."""
    hardness = np.arange(EXAMPLES) + np.random.default_rng(seed).normal(scale=30, size=EXAMPLES)
    return np.argsort(np.argsort(hardness)) < round(accuracy * EXAMPLES)


@pytest.fixture
def report(make_run, make_result, monkeypatch, tmp_path):
    """A report, without its pictures, on a method "Other" beside "Dense", as the text of each format."""
    monkeypatch.setattr(files, "draw", lambda figure, _: Drawing(figure, {}, "not drawn here"))
    monkeypatch.setattr(page, "_script", lambda: "")

    def make(robust: float, *, seeds=1, clean=0.9, inference=1000, spread=1.0) -> dict[str, str]:
        runs = []
        for place, (label, accuracy, held, size) in enumerate((("Dense", 0.9, 0.5, 1000), ("Other", clean, robust, inference))):
            for seed in range(seeds):
                noise = 100 * (2 * seed + place)
                found = right(held + spread * WOBBLE[label][seed], noise)
                result = make_result(right(accuracy, noise + 1) | found, {("fgsm", eps): found for eps in (0.1, 0.2)})
                counts = Parameters(total=size, dense=1000, inference=size, removed=0.8 * (size < 1000), rank_fraction=0.5)
                method = "dense" if label == "Dense" else "condlr"
                runs.append(make_run(label, method=method, seed=seed, results=[result], parameters=counts))
        comparison_report(runs, tmp_path, title="t", command="x")
        return {suffix: _text(tmp_path / f"report.{suffix}") for suffix in ("html", "md", "json", "tex")} | {
            "csv": (tmp_path / "results.csv").read_text(encoding="utf-8")
        }

    return make


def _text(path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        summary = json.loads(text)["summary"]
        text = " ".join([summary["headline"], summary["evidence"], *(finding["text"] for finding in summary["findings"])])
    if path.suffix == ".html":
        parser, words = HTMLParser(), []
        parser.handle_data = words.append
        parser.feed(text)
        text = " ".join(words)
    return " ".join(unescape(text).replace("\\", "").split())


@pytest.mark.parametrize("seeds", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_without_a_difference_nobody_is_better(report, seeds):
    for suffix, text in report(0.5, seeds=seeds, inference=300).items():
        assert not re.search(CLAIM, text), suffix
        assert not re.search(r"★|\$\^star\$", text), suffix
        if suffix in ("html", "md", "json"):
            assert "cannot be told apart" in text


def test_a_large_difference_of_single_runs_is_one_of_these_networks(report):
    said = report(0.7)
    for suffix in ("html", "md", "json"):
        assert "20.1 points more than Dense (50.0 % [46.9, 53.1])." in said[suffix]
        assert "One training run a method" in said[suffix]
        assert "With power 80 %, 1,000 examples show differences from" in said[suffix]
        assert said[suffix].count("show differences from") == 1
    for suffix in ("html", "md", "tex"):
        assert "Other is better" in said[suffix]
    for suffix, text in said.items():
        assert not re.search(SIZE, text), suffix
        assert "over seeds" not in text, suffix
    assert "better" not in said["csv"]


def test_a_large_difference_over_seeds_needs_both_tests(report):
    said = report(0.7, seeds=5)
    for suffix in ("html", "md", "json"):
        assert "20.0 points more than Dense (50.0 % [49.8, 50.2] on average over 5 seeds)." in said[suffix]
        assert "statistically supported over examples and over seeds: paired exact McNemar test" in said[suffix]
        assert "paired t-test over 5 seeds, p < 0.001" in said[suffix]
        assert "One training run" not in said[suffix]
    for suffix in ("html", "md", "tex"):
        assert "Tests over seeds" in said[suffix]
    expected = 3 * 5 + 3  # pairs of runs, and over seeds, at two eps and on clean examples
    for suffix in ("html", "md", "json", "tex"):
        assert set(re.findall(r"Holm-corrected over all (\d+) tests", said[suffix])) == {str(expected)}, suffix


@pytest.mark.slow
def test_a_small_difference_may_be_one_of_methods_alone(report):
    said = report(0.52, seeds=5)
    for suffix in ("html", "md", "json"):
        assert "supported over seeds, not over examples in every pair of runs." in said[suffix]


@pytest.mark.slow
def test_a_difference_that_seeds_do_not_repeat_is_one_of_networks_alone(report):
    said = report(0.8, seeds=2, spread=90)  # 29 and 3 points
    for suffix in ("html", "md", "json"):
        assert re.search("more than Dense .*: supported over examples, not over seeds[.]", said[suffix])


@pytest.mark.slow
def test_a_small_difference_of_single_runs_is_left_open(report):
    said = report(0.51)
    for suffix, text in said.items():
        assert not re.search(CLAIM, text), suffix


def test_sizes_and_clean_accuracy_stand_beside_better_and_sizes_are_one_count(report):
    said = report(0.7, clean=0.8, inference=300)
    for suffix in ("html", "md", "json"):
        headline = said[suffix][: said[suffix].index("statistically supported")]
        assert re.search(r"more than Dense .*, with 30.0 % of its parameters and \d+.\d points less clean accuracy[.]", headline)
    for suffix in ("html", "md", "tex"):
        verdicts = re.findall(r"(Other|Dense) is better.{0,80}?with ([\d.]+) (% of|times) the other's parameters", said[suffix])
        assert [(name, size) for name, size, _ in verdicts[-3:]] == [("Dense", "3.3"), ("Other", "30.0"), ("Other", "30.0")]
    for suffix in ("html", "md", "json"):
        assert "Other stores 300 parameters for inference, 70.0 % fewer than the dense network's 1,000." in said[suffix]
    for suffix, text in said.items():
        assert "80.0" not in text, suffix  # what the factored layers lack as trained
    frame = pd.read_csv(pd.io.common.StringIO(said["csv"]))
    assert (frame["removed"] == 1 - frame["parameters_inference"] / frame["parameters_dense"]).all()


def test_a_copy_of_a_run_is_no_second_seed(make_run, tmp_path):
    runs = [make_run(name, method="condlr") for name in ("A", "B")]
    with pytest.raises(UserError, match="a copy is no second seed"):
        comparison_report([runs[0], replace(runs[0], path=tmp_path / "copy"), runs[1]], tmp_path / "out", title="", command="")
    assert not (tmp_path / "out").exists()
