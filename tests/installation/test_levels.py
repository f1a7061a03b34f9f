"""Each level of installation does what it is for, and says what to install for the rest."""

from collections.abc import Callable

import pytest

from tests.installation.conftest import Python

pytestmark = pytest.mark.slow

TRAINED = """
from typer.testing import CliRunner
from robust_lowrank.cli.app import app

def rlr_eval(*arguments, code=0, says=""):
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code and says in done.output, (arguments, done.exit_code, done.output, done.exception)

for seed, name in enumerate("ab"):
    rlr_eval("train", "--method", "condlr", "--epochs", "1", "--train-examples", "256", "--seed", str(seed), "--out", name)
    rlr_eval("attack", name, "--suite", "quick", "--eps", "0.1", "--n", "10")
open("ours.csv", "w").write("example,correct\\n" + "".join(f"{i},{i % 2}\\n" for i in range(50)))
open("theirs.csv", "w").write("example,correct\\n" + "".join(f"{i},{i % 3 > 0:d}\\n" for i in range(50)))
REPORT, EVAL = "pip install 'robust-lowrank[report]'", "pip install 'robust-lowrank[eval]'"
"""

BASE = """
import torch
import robust_lowrank as rlr

digits = rlr.data.load("digits")
model = rlr.models.build("cnn", input_shape=digits.input_shape, num_classes=digits.num_classes)
rlr.compress(model, method="condlr", rank=0.5)
optimizer = rlr.LowRankOptimizer(model, torch.optim.SGD, lr=0.1)

def closure():
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(digits.train_x[:64]), digits.train_y[:64])
    loss.backward()
    return loss

optimizer.step(closure)
assert (rlr.spectra(model)["cond"] >= 1).all()
example = digits.test_x[:4]
exported = rlr.export(model, to="auto", example_input=example)
torch.testing.assert_close(exported(example), model.eval()(example), rtol=1e-3, atol=1e-3)

rlr_eval("report", "a", "b", code=2, says=REPORT)
rlr_eval("view", ".", code=2, says=REPORT)
rlr_eval("condition", "a", code=2, says=REPORT)
rlr_eval("bench", "demo", code=2, says=REPORT)
rlr_eval("attack", "a", "--suite", "standard", "--n", "4", code=2, says=EVAL)
rlr_eval("compare", "ours.csv", "theirs.csv", says="McNemar")
rlr_eval("export", "a", "--to", "onnx", code=2, says="pip install 'robust-lowrank[onnx]'")
rlr_eval("verify", "a")
rlr_eval("list", says="condlr-lenet5-mnist")
rlr_eval("doctor", says=EVAL)
"""

EVAL = """
rlr_eval("attack", "a", "--suite", "standard", "--eps", "0.5", "--n", "4", says="autoattack")
rlr_eval("compare", "ours.csv", "theirs.csv", says="McNemar")
rlr_eval("compare", "ours.csv", "theirs.csv", "--out", "page", code=2, says=REPORT)
"""

REPORT = """
rlr_eval("report", "a", "b", "--out", "report")
assert "<svg" in open("report/report.html").read()
rlr_eval("view", ".", "--out", "view.html")
rlr_eval("compare", "ours.csv", "theirs.csv", "--out", "page", says="McNemar")
rlr_eval("attack", "a", "--suite", "standard", "--n", "4", code=2, says=EVAL)
"""


@pytest.mark.parametrize(("extra", "does"), {"": BASE, "eval": EVAL, "report": REPORT}.items())
def test_a_level(installed: Callable[[str], Python], extra: str, does: str) -> None:
    done = installed(extra)("-c", TRAINED + does)
    assert done.returncode == 0, done.stderr
