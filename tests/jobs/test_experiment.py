from pathlib import Path

import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.jobs import AttackConfig, Experiment, load_experiment
from robust_lowrank.jobs.chain import experiment_jobs
from robust_lowrank.threat import THREATS
from robust_lowrank.training import load_config

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

TEXT = """
name = "trial"
seeds = [3, 1]
[data]
name = "digits"
[training]
epochs = 2
[[methods]]
name = "dense"
[[methods]]
name = "condlr"
tau = inf
ranks = [0.2, 8]
[[methods]]
name = "dlrt"
label = "Mine"
[[attacks]]
suite = "quick"
eps = [0.1, "8/255"]
examples = 50
[[attacks]]
suite = "standard"
eps = 0.1
norm = "L2"
"""


@pytest.fixture
def trial(tmp_path: Path) -> Experiment:
    path = tmp_path / "trial.toml"
    path.write_text(TEXT)
    return load_experiment(path)


def test_a_method_may_have_a_learning_rate_of_its_own() -> None:
    methods = [{"name": "dense"}, {"name": "condlr", "lr": 0.03, "ranks": [0.2, 0.5]}]
    trial = Experiment(name="trial", training={"lr": 0.2}, methods=methods)  # pyright: ignore[reportArgumentType]
    assert [(config.method.name, config.training.lr) for _, config in trial.runs()] == [
        ("dense", 0.2),
        ("condlr", 0.03),
        ("condlr", 0.03),
    ]
    with pytest.raises(ValueError, match="lr"):
        Experiment(name="trial", methods=[{"name": "dense", "lr": -1.0}])  # pyright: ignore[reportArgumentType]


def test_runs_are_methods_by_ranks_by_seeds_in_order(trial: Experiment) -> None:
    assert [name for name, _ in trial.runs()] == [
        "dense-seed3",
        "dense-seed1",
        "condlr-tauinf-rank0.2-seed3",
        "condlr-tauinf-rank0.2-seed1",
        "condlr-tauinf-rank8-seed3",
        "condlr-tauinf-rank8-seed1",
        "dlrt-rank0.25-seed3",
        "dlrt-rank0.25-seed1",
    ]
    configs = dict(trial.runs())
    assert configs["condlr-tauinf-rank8-seed1"].method.rank == 8
    assert configs["condlr-tauinf-rank8-seed1"].seed == 1
    assert all(config.training.epochs == 2 for config in configs.values())


def test_labels_tell_ranks_apart(trial: Experiment) -> None:
    from robust_lowrank.training import describe

    labels = list(dict.fromkeys(describe(config.method) for _, config in trial.runs()))
    assert labels == ["Dense", "CondLR τ=∞, rank 0.2", "CondLR τ=∞, rank 8", "Mine"]


@pytest.mark.parametrize("norm", THREATS)
def test_attacks_have_the_norms_of_suites(norm: str) -> None:
    assert AttackConfig(suite="quick", eps=(0.1,), norm=norm).norm == norm


def test_attacks_keep_their_budgets(trial: Experiment) -> None:
    quick, standard = trial.attacks
    assert (quick.suite, quick.eps, quick.norm, quick.examples) == ("quick", (0.1, "8/255"), None, 50)
    assert (standard.suite, standard.eps, standard.norm, standard.examples) == ("standard", (0.1,), "L2", None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "trial"', "", "name is missing"),
        ('name = "trial"', 'name = "../trial"', "name: String should match"),
        ("seeds = [3, 1]", "seeds = [3, 3]", "the run dense-seed3 stands here more than once"),
        ("seeds = [3, 1]", "seeds = []", "at least one of seeds"),
        ("seeds = [3, 1]", "seeds = [-1]", r"seeds\.0: -1 must lie between 0 and"),
        ("ranks = [0.2, 8]", "ranks = [0.2, 1.5]", r"methods\.1\.ranks\.1: rank = 1\.5 must be"),
        ("ranks = [0.2, 8]", "ranks = []", r"methods\.1\.ranks: ranks is empty"),
        ("ranks = [0.2, 8]", "ranks = [0.2]\nrank = 0.2", r"methods\.1: give rank or ranks"),
        ("tau = inf", "tua = inf", r"methods\.1: unknown option of condlr 'tua': did you mean 'tau'\?"),
        ("examples = 50", "example = 50", r"unknown key 'example': did you mean 'examples'\?.*in \[attacks\.0\]"),
        ("eps = 0.1", "eps = 0", r"attacks\.1\.eps: .*positive"),
        ("eps = 0.1", 'eps = "big"', r"attacks\.1\.eps: .*positive"),
        ("eps = 0.1", "eps = true", r"attacks\.1\.eps\.0: .*not True"),
        ('norm = "L2"', 'norm = "L3"', r"attacks\.1\.norm: "),
        ("[[methods]]", "[[method]]", "unknown key 'method': did you mean 'methods'"),
        ("name = ", "name: ", "is not a TOML file"),
    ],
)
def test_mistakes_are_named_with_file_and_key(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "trial.toml"
    assert old in TEXT
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        load_experiment(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("load", [load_config, load_experiment])
def test_a_missing_file_is_named(load: object, tmp_path: Path) -> None:
    assert callable(load)
    with pytest.raises(UserError, match=r"nowhere\.toml cannot be read: No such file"):
        load(tmp_path / "nowhere.toml")


def test_one_run_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('seed = 5\n[method]\nname = "condlr"\ntau = inf\nrank = 0.2\n[training]\nlr = 0.05\n')
    config = load_config(path)
    assert (config.seed, config.method.rank, config.training.lr) == (5, 0.2, 0.05)
    assert config.to_record()["method"]["tau"] == "inf"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.toml")), ids=lambda path: path.stem)
def test_published_experiments_are_sound(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    assert experiment.attacks
    assert path.name in (EXPERIMENTS / "README.md").read_text(encoding="utf-8")


def test_every_run_has_the_experiments_monitor() -> None:
    experiment = Experiment.model_validate(
        {"name": "trial", "methods": [{"name": "dense"}, {"name": "condlr"}], "monitor": {"every": 5}}
    )
    assert [config.monitor and config.monitor.every for _, config in experiment.runs()] == [5, 5]


def deploying(**table: object) -> Experiment:
    values = {
        "name": "trial",
        "methods": [{"name": "dense"}, {"name": "condlr"}],
        "attacks": [{"suite": "quick"}, {"suite": "demo"}],
    }
    return Experiment.model_validate(values | {"deploy": {"forms": ["merged", "int8"], "suite": "demo"} | table})


def test_forms_are_those_of_one_suite_and_of_some_methods() -> None:
    some, every = deploying(methods=["condlr"], examples=7), deploying()
    jobs, all_jobs = (experiment_jobs(each, each.data.describe(), Path("out"), command="") for each in (some, every))
    found = [[(attack.suite.name, attack.forms, attack.form_examples) for attack in job.attacks] for job in jobs]
    assert found == [
        [("quick", (), 7), ("demo", (), 7)],
        [("quick", (), 7), ("demo", ("merged", "int8"), 7)],
    ]
    assert [[bool(attack.forms) for attack in job.attacks] for job in all_jobs] == [
        [False, True],
        [False, True],
    ]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"forms": ["fp4"]}, "fp4"),
        ({"forms": []}, "forms"),
        ({"suite": "standard"}, r"the suite 'standard' does not stand among \[\[attacks\]\]"),
        ({"methods": ["dlrt"]}, r"the method 'dlrt' does not stand among \[\[methods\]\]"),
    ],
)
def test_forms_of_what_does_not_take_part(table: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deploying(**table)
