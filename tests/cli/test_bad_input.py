"""Whatever is wrong with the input: exit 2, one to three lines on stderr, and nothing is written."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.trees import stamps

Command = Callable[..., Result]

CASES = [
    (("trian",), "'train'"),
    (("train", "--epoch", "3"), "--epochs"),
    (("train", "--epochs", "many"), "--epochs"),
    (("train", "--data", "digts"), "did you mean 'digits'"),
    (("train", "--model", "lenet"), "did you mean 'lenet5'"),
    (("train", "--model", "nowhere:net"), "there is no module nowhere"),
    (("train", "--model", "bad_nets:seven"), "logits of 7 classes"),
    (("train", "--model", "bad_nets:"), "not of the form module:function"),
    (("train", "--model", "bad_nets:seven", "--mean", "0.5"), "mean and std go together"),
    (("train", "--model", "bad_nets:seven", "--mean", "grey"), "not a list of numbers"),
    (("train", "--method", "condrl"), "did you mean 'condlr'"),
    (("train", "--method", "condlr", "--rank", "9999"), "no layer of the network can be factored"),
    (("train", "--method", "condlr", "--rank", "0"), "rank = 0"),
    (("train", "--method", "condlr", "--rank", "1.5"), "rank = 1.5"),
    (("train", "--method", "condlr", "--rank", "-3"), "rank = -3"),
    (("train", "--method", "condlr", "--rank", "half"), "'half'"),
    (("train", "--method", "condlr", "--tau", "-0.1"), "tau = -0.1"),
    (("train", "--method", "condlr", "--tau", "nan"), "tau = nan"),
    (("train", "--method", "dlrt", "--tol", "-1"), "tol"),
    (("train", "--method", "dlrt", "--tau", "0.1"), "unknown option of dlrt 'tau'"),
    (("train", "--method", "condlr", "--precond", "exacd"), "'exact', 'repo' or 'none'"),
    (("train", "--tau", "0.1"), "a dense network has no tau"),
    (("train", "--epochs", "0"), "epochs"),
    (("train", "--lr", "nan"), "lr"),
    (("train", "--optimizer", "sdg"), "optimizer"),
    (("train", "--adversarial", "pdg", "--adversarial-eps", "0.1"), "'fgsm', 'pgd' or 'trades'"),
    (("train", "--adversarial", "pgd"), "training.adversarial.eps is missing"),
    (("train", "--adversarial-eps", "0.1"), "training.adversarial.attack is missing"),
    (("train", "--adversarial", "pgd", "--adversarial-eps", "8/0"), "'8/0'"),
    (("train", "--adversarial", "pgd", "--adversarial-eps", "8"), "eps = 8 is above 1"),
    (("train", "--seed", "-1"), "seed"),
    (("train", "--device", "gpu9"), "gpu9"),
    (("train", "--train-examples", "100000"), "100000"),
    (("train", "--data", "mnist", "--model", "lenet5", "--data-dir", "."), "download"),
    (("train", "--data", "mnist", "--model", "lenet5", "--data-dir", "nowhere"), "nowhere"),
    (("train", "--model", "lenet5"), "lenet5"),
    (("train", "--config", "none.toml"), "none.toml"),
    (("train", "--config", "wrong_key.toml"), "did you mean 'epochs'"),
    (("train", "--config", "wrong_type.toml"), "training.epochs"),
    (("train", "--config", "broken.toml"), "not a TOML file"),
    (("train", "--out", "occupied"), "occupied"),
    (("attack", "nothing"), "not a run directory"),
    (("attack", "occupied"), "not a run directory"),
    (("attack", "nothing", "--suite", "standrad"), "did you mean 'standard'"),
    (("attack", "nothing", "--suite", "mine.toml"), "mine.toml"),
    (("attack", "nothing", "--eps", "-0.1"), "-0.1"),
    (("attack", "nothing", "--eps", "much"), "'much'"),
    (("attack", "nothing", "--norm", "L3"), "L3"),
    (("attack", "nothing", "--norm", "L2"), "eps for L2"),
    (("attack", "nothing", "--n", "0"), "n = 0 must lie between 1 and 1,000,000,000"),
    (("attack", "nothing", "--executor", "cloud"), "cloud"),
    (("attack",), "nothing to attack"),
    (("report", "nothing"), "not a run directory"),
    (("show", "nothing"), "not a run directory"),
    (("show", "occupied"), "not a run directory"),
    (("condition", "nothing"), "nothing is not there"),
    (("condition", "tiny.toml"), "no file of weights by its name"),
    (("bench", "none.toml"), "none.toml"),
    (("bench", "mnist-quik"), "did you mean 'mnist-quick'"),
    (("bench", "wrong_key.toml"), "wrong_key.toml"),
    (("bench", "wrong_suite.toml"), "did you mean 'quick'"),
    (("bench", "wide_eps.toml"), "eps 1.5 is outside"),
    (("bench", "twice.toml"), "quick"),
    (("bench", "tiny.toml", "--workers", "0"), "workers = 0 must lie between 1 and "),
    (("list", "model"), "models"),
    (("train", "--epochs", "9" * 20), "epochs: 99999999999999999999 must lie between 1 and 1,000,000"),
    (("train", "--batch-size", "9999999999"), "batch_size: 9999999999 must lie between 1 and 1,048,576"),
    (("train", "--seed", str(2**63)), "seed: 9223372036854775808 must lie between 0 and 9,223,372,036,854,775,807"),
    (("train", "--lr", "inf"), "lr: inf must be above 0"),
    (("train", "--weight-decay", "nan"), "weight_decay: nan must lie between 0 and"),
    (("train", "--image-size", "99999"), "size = 99999 must lie between 1 and 8,192"),
    (("train", "--monitor-every", "0"), "monitor.every: 0 must lie between 1 and"),
    (("train", "--train-examples", "-5"), "train_examples: -5 must lie between 1 and"),
    (("train", "--method", "condlr", "--rank", "9" * 30), "must be an integer from 1 to 1,000,000"),
    (("train", "--method", "condlr", "--params", "nan"), "params = nan"),
    (("train", "--method", "condlr", "--cond", "nan"), "cond"),
    (("train", "--method", "condlr", "--option", "power=" + "[" * 5000), "unknown option of condlr 'power'"),
    (("train", "--model", "bad_nets:seven", "--mean", "nan", "--std", "1"), "--mean = nan must lie between"),
    (("train", "--model", "bad_nets:seven", "--mean", "0.5", "--std", "0"), "--std = 0.0 must be above 0"),
    (("train", "--model", "bad_nets:seven", "--mean", "0.5", "--std", "1,1"), "mean has 1 numbers and std 2"),
    (("train", "--adversarial", "pgd", "--adversarial-eps", "1e99999"), "eps"),
    (("demo", "--seed", "-1"), "--seed = -1 must lie between 0 and"),
    (("bench", "tiny.toml", "--workers", "100000"), "workers = 100000 must lie between 1 and"),
    (("attack", "nothing", "--seed", "-1"), "seed = -1 must lie between 0 and"),
    (("attack", "nothing", "--eps", "nan"), "eps 'nan' is not above 0 and finite"),
    (("attack", "nothing", "--eps", "1e999999999"), "is not above 0 and finite"),
    (("attack", "nothing", "--eps", "0.1", "--eps", "1/10"), "0.1 stands here twice"),
    (("attack", "nothing", *("--eps", "0.1") * 1001), "1,001 numbers are too many: give at most 1,000"),
    (("attack", "nothing", "--batch-size", "-1"), "batch_size = -1 must lie between 1 and"),
    (("attack", "nothing", "--max-seconds", "nan"), "max_seconds = nan must be above 0"),
    (("attack", "--model", "lenet5", "--data", "digits", "--out", "new", "--std", "nan", "--mean", "1"), "--std = nan"),
    (("attack", "--model", "lenet5", "--data", "digits", "--out", "new", "--classes", "0"), "--classes = 0 must lie"),
    (("certify", "nothing", "--method", "smoothing", "--samples", "99999999999"), "--samples = 99999999999 must lie between"),
    (("certify", "nothing", "--method", "smoothing", "--seed", "-1"), "--seed = -1 must lie between"),
    (("certify", "nothing", "--method", "smoothing", "--sigma", "nan"), "sigma > 0"),
    (("certify", "nothing", "--radius", "nan"), "--radius nan is no radius"),
    (("certify", "nothing", "--radius", "1", "--radius", "1"), "1 stands here twice"),
    (("verify", "nothing", "--again", "0.5", "--seed", "-1"), "--seed = -1 must lie between"),
    (("forecast", "nothing", "--batch-size", "0"), "batch_size = 0 must lie between"),
]


@pytest.fixture
def files(here: Path, experiment: Path) -> None:
    text = experiment.read_text()
    texts = {
        "wrong_key.toml": "[training]\nepoch = 3\n",
        "wrong_type.toml": "[training]\nepochs = '3'\n",
        "broken.toml": "[training\n",
        "wrong_suite.toml": text.replace('"quick"', '"quik"'),
        "wide_eps.toml": text.replace("eps = 0.1", "eps = 1.5"),
        "twice.toml": text + "[[attacks]]\nsuite = 'quick'\n",
        "occupied/thesis.txt": "years of work",
        "bad_nets.py": "from torch import nn\ndef seven():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))\n",
    }
    for name, content in texts.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(content)


@pytest.mark.parametrize(("args", "said"), CASES, ids=lambda case: " ".join(case)[:60] if isinstance(case, tuple) else "")
def test_bad_input(rlr_eval: Command, here: Path, files: None, args: tuple[str, ...], said: str) -> None:
    before = stamps(here)
    result = rlr_eval(*args)
    assert result.exit_code == 2, result.output
    assert 1 <= len(result.stderr.strip().splitlines()) <= 3
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not result.stdout
    assert stamps(here) == before
