"""Configurations, damaged or made of noise, and options of any text: they are refused in words, and nothing else happens."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from robust_lowrank.cli.commands.elsewhere import numbers_of
from robust_lowrank.cli.commands.images import reading_keys
from robust_lowrank.evaluation import Suite, load_suite
from robust_lowrank.jobs import Experiment, load_experiment
from robust_lowrank.ranges import FACTORS
from robust_lowrank.tables import parse_table
from robust_lowrank.threat import radius
from robust_lowrank.training import load_config, parse_config
from tests.experiments import TINY
from tests.fuzz import fuzzed
from tests.fuzz.mutating import arbitrary, only_refuses

RUN = b"""
seed = 1
[data]
name = "photos"
size = [8, 8]
test_fraction = 0.5
[model]
name = "nets:small"
mean = [0.5]
std = [0.25]
[method]
name = "condlr"
tau = 0.1
rank = { default = 0.25, overrides = { "^fc" = 3 } }
penalties = [{ form = "R", weight = 0.1, milestones = [1], decay = [0.5] }]
[training]
epochs = 3
lr = 1e-2
adversarial = { attack = "pgd", eps = "8/255", steps = 3 }
[monitor]
every = 5
"""
SUITE = b"""
norm = "Linf"
eps = ["8/255", 0.1]
[[attacks]]
attack = "pgd"
steps = 5
[[attacks]]
attack = "torchattacks"
algorithm = "MIFGSM"
parameters = { steps = 5 }
"""
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.sampled_from([10**4000, "a\0b", "\ud800", 2**63])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6
)
KEYS = st.sampled_from(
    ["seed", "data", "model", "method", "training", "monitor", "name", "size", "rank", "epochs", "lr", "mean", "std"]
)
FIELDS = st.sampled_from(["attack", "engine", "name", "eps", "examples", "steps", "restarts", "targets", "loss"])


@fuzzed
@given(content=arbitrary(RUN))
def test_configurations_of_a_run(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    only_refuses(lambda: load_config(path))


@fuzzed
@given(content=arbitrary(TINY.encode()))
def test_experiments(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.toml"
    path.write_bytes(content)
    only_refuses(lambda: load_experiment(path))


@fuzzed
@given(content=arbitrary(SUITE))
def test_suites(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    only_refuses(lambda: load_suite(path))


@fuzzed
@given(values=st.dictionaries(KEYS, VALUES | st.dictionaries(KEYS, VALUES, max_size=3), max_size=3))
def test_values_of_any_type(values: dict) -> None:
    only_refuses(lambda: parse_config(values, source="options"))
    methods = [values.get("method", {}), {"name": "dense"}]
    only_refuses(lambda: parse_table({"name": "some", "methods": methods} | values, Experiment, source="some"))


@fuzzed
@given(key=st.sampled_from(["norm", "eps", "attacks", "description"]), value=VALUES, field=FIELDS, inner=VALUES)
def test_values_of_suites(key: str, value: object, field: str, inner: object) -> None:
    attacks = [{"attack": "apgd", "steps": 3} | {field: inner}]
    only_refuses(lambda: parse_table({"attacks": attacks, "eps": 0.1}, Suite, source="some", name="some"))
    only_refuses(lambda: parse_table({"attacks": attacks, key: value}, Suite, source="some", name="some"))


@fuzzed
@given(text=st.text(max_size=20) | st.from_regex(r"\A[0-9eE+./_-]{1,30}\Z"))
def test_numbers_as_texts(text: str) -> None:
    only_refuses(lambda: radius(text))
    only_refuses(lambda: numbers_of(text, "--std", FACTORS))
    only_refuses(lambda: reading_keys(text, None, False))
