"""robustbench's own benchmark against ours, its zoo without downloads, and each of its traps."""

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import evaluate, robustbench
from robust_lowrank.threat import L2, Linf
from tests import robustbench_zoo as zoo

NEEDS = ("timm", "gdown", "geotorch", "torchdiffeq", "yaml", "requests", "tqdm")


class StandInType(type):
    """Classes that have any attribute, serve as base classes, and give back what they decorate."""

    def __getattr__(cls, name):
        return stand_in(name)

    def __call__(cls, *args, **kwargs):
        if cls.__module__ == __name__:
            return args[0] if args and callable(args[0]) else stand_in("instance")
        return super().__call__(*args, **kwargs)


def stand_in(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return StandInType(name, (nn.Module,), {"__module__": __name__})


class Anything(ModuleType):
    """A package that is not installed, with any submodule and any name."""

    def __init__(self, name):
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name):
        return (lambda _: False) if name == "is_model" else stand_in(name)


class Everything:
    """Finds the absent packages that robustbench imports, and their submodules, as `Anything`."""

    def __init__(self, names):
        self.names = names

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name.partition(".")[0] in self.names else None

    def create_module(self, spec):
        return Anything(spec.name)

    def exec_module(self, module):
        pass


@pytest.fixture
def importable(monkeypatch):
    """robustbench's own files, with stand-ins for whatever it needs and this machine lacks; nothing stays imported."""
    if importlib.util.find_spec("robustbench") is None:
        pytest.skip("robustbench is not installed")
    absent = {name for name in NEEDS if importlib.util.find_spec(name) is None}
    before = set(sys.modules)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Everything(absent)])
    yield absent
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in {"robustbench", *absent}:
            del sys.modules[name]


@pytest.mark.parametrize(
    "threat",
    [Linf(0.9), pytest.param(Linf(0.12), marks=pytest.mark.slow), pytest.param(L2(0.6), marks=pytest.mark.slow)],
    ids=["all broken", "Linf", "L2"],
)
def test_the_figures_are_those_of_robustbench(importable, monkeypatch, capsys, mlp, digits, threat):
    x, y = digits.x[:12], digits.y[:12]
    with zoo.imported() as package:
        evaluation = sys.modules["robustbench.eval"]
        monkeypatch.setattr(evaluation, "load_clean_dataset", lambda *_: (x, y))
        theirs = package.benchmark(mlp, 12, threat_model=threat.norm, eps=threat.eps, batch_size=5)
    assert "Adversarial accuracy" in capsys.readouterr().out
    ours = robustbench.benchmark(mlp, x, y, threat, batch_size=5)
    assert ours == theirs
    assert (ours.robust == 0) == (threat.eps == 0.9)
    assert ours.robust < ours.clean
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("missing", ["pkg_resources", "autoattack"])
def test_trap_stand_ins_are_there_for_the_import_and_gone_afterwards(importable, missing):
    if importlib.util.find_spec(missing):
        pytest.skip(f"{missing} itself is installed")
    with zoo.imported():
        assert missing in sys.modules
        assert sys.modules["robustbench.eval"].EvaluationState
    assert missing not in sys.modules
    assert "autoattack.state" not in sys.modules
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(missing)


def test_trap_pyautoattack_itself_rejects_what_robustbench_passes(importable, digits, mlp):
    import pyautoattack

    with pytest.raises(TypeError, match="log_path"):
        pyautoattack.AutoAttack(mlp, log_path=None)
    with zoo.imported():
        adapted = sys.modules["robustbench.eval"].AutoAttack(mlp, norm="Linf", eps=0.9, log_path=None)
    with torch.random.fork_rng():
        inputs = adapted.run_standard_evaluation(digits.x[:2], digits.y[:2], bs=2, state_path=None)
    assert inputs.shape == digits.x[:2].shape


def test_trap_the_lists_of_files_that_it_looks_up_by_pkg_resources_are_found(importable):
    with zoo.imported():
        loaders = sys.modules["robustbench.loaders"]
        path = loaders.pkg_resources.resource_filename("robustbench.loaders", "helper_files/imagenet_test_image_ids.txt")
    assert Path(path).is_file()


def test_what_it_needs_is_named_and_no_half_of_it_stays(monkeypatch):
    if importlib.util.find_spec("robustbench") is None:
        pytest.skip("robustbench is not installed")
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "robustbench"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match="robustbench needs timm, which is not installed\npip install"), zoo.imported():
        pass
    assert not [name for name in sys.modules if name.partition(".")[0] in ("robustbench", "pkg_resources", "autoattack")]


def lay_out(site: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(content)


def test_trap_the_old_copy_of_torchattacks_is_not_taken_for_robustbench(tmp_path, monkeypatch):
    lay_out(tmp_path, {"robustbench/__init__.py": "", "robustbench/eval.py": "old = True\n"})
    monkeypatch.syspath_prepend(tmp_path)
    real = importlib.metadata.files

    def nowhere(name):
        if name == "robustbench":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "files", nowhere)
        with pytest.raises(UserError, match="only the old copy inside torchattacks is there"), zoo.imported():
            pass
    lay_out(
        tmp_path,
        {
            "robustbench-1.1.1.dist-info/METADATA": "Metadata-Version: 2.1\nName: robustbench\nVersion: 1.1.1\n",
            "robustbench-1.1.1.dist-info/RECORD": "robustbench/__init__.py,sha256=x,0\nrobustbench/eval.py,sha256=x,10557\n",
        },
    )
    with pytest.raises(UserError, match=r"overwritten robustbench/eval.py\n.*--force-reinstall"), zoo.imported():
        pass


def stored(importable, monkeypatch, model_dir, weights, identifier="an-id"):
    """Add a small network to the zoo, with these weights where robustbench looks for them."""
    with zoo.imported():
        enums = sys.modules["robustbench.model_zoo.enums"]
        networks = sys.modules["robustbench.model_zoo"].model_dicts[enums.BenchmarkDataset.cifar_10][enums.ThreatModel.Linf]
        monkeypatch.setitem(networks, "Small", {"model": lambda: nn.Linear(3, 10), "gdrive_id": identifier})
    (model_dir / "cifar10" / "Linf").mkdir(parents=True)
    if weights is not None:
        torch.save(weights, model_dir / "cifar10" / "Linf" / "Small.pt")


def load(model_dir, name="Small", dataset="cifar10", threat_model="Linf"):
    return zoo.load_model(name, dataset=dataset, threat_model=threat_model, model_dir=model_dir)


def test_networks_of_the_zoo_are_loaded_from_their_files(importable, monkeypatch, tmp_path):
    torch.manual_seed(0)
    source = nn.Linear(3, 10)
    stored(importable, monkeypatch, tmp_path, {"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}})
    model = load(tmp_path)
    assert not model.training
    assert torch.equal(model(torch.ones(1, 3)), source(torch.ones(1, 3)))


def test_nothing_is_downloaded(importable, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("a download")

    stored(importable, monkeypatch, tmp_path, None)
    monkeypatch.setattr(sys.modules["robustbench.utils"], "download_gdrive_new", refuse)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(error.value) == (
        f"the weights of Small are missing: {tmp_path}/cifar10/Linf/Small.pt\n"
        f"pip install gdown; gdown an-id -O {tmp_path}/cifar10/Linf/Small.pt"
    )
    with pytest.raises(UserError, match="its weights come with timm"):
        load(tmp_path, "Debenedetti2022Light_XCiT-S12")


@pytest.mark.parametrize("weights", [{"other": torch.zeros(2)}, {"state_dict": Path("a/b")}])
def test_files_that_hold_something_else_are_refused(importable, monkeypatch, tmp_path, weights):
    stored(importable, monkeypatch, tmp_path, weights)
    with pytest.raises(UserError, match=r"Small.pt: not the weights of Small"):
        load(tmp_path)


def test_unknown_networks_are_refused(importable, tmp_path):
    with pytest.raises(UserError, match="dataset of robustbench 'cifar': did you mean 'cifar10'"):
        load(tmp_path, dataset="cifar")
    with pytest.raises(UserError, match="did you mean 'Linf'"):
        load(tmp_path, threat_model="linf")
    with pytest.raises(UserError, match="did you mean 'Wong2020Fast'"):
        load(tmp_path, "Wong2020")


def test_leaderboards():
    assert robustbench.leaderboard_threat("cifar10", "Linf") == Linf(8 / 255)
    assert robustbench.leaderboard_threat("cifar10", "L2") == L2(0.5)
    assert robustbench.leaderboard_threat("imagenet", "Linf") == Linf(4 / 255)
    with pytest.raises(UserError, match="unknown leaderboard 'cifar10/corruptions'"):
        robustbench.leaderboard_threat("cifar10", "corruptions")


def test_record_is_what_robustbench_keeps(importable, mlp, digits):
    result = evaluate(mlp, digits.x[:12], digits.y[:12], eps=["64/255", 0.9])
    about = {"name": "Small", "dataset": "digits", "link": "https://example.org"}
    info = json.loads(json.dumps(robustbench.record(result, eps=64 / 255, about=about)))
    with zoo.imported():
        known = {
            field.name for field in sys.modules["robustbench.utils"].dataclasses.fields(sys.modules["robustbench.utils"].ModelInfo)
        }
    assert set(info) <= known
    assert info["eps"] == "64/255"
    assert info["clean_acc"] == str(round(100 * result.clean_accuracy.value, 2))
    assert info["autoattack_acc"] == str(round(100 * result.accuracy("autoattack", 64 / 255).value, 2))
    assert info["name"] == "Small"
    assert info["venue"] is None
    assert info["footnote"].startswith("12 examples, Wilson 95 % of the robust accuracy ")
    assert robustbench.record(result)["eps"] == "0.9"
    with pytest.raises(UserError, match="did you mean 'venue'"):
        robustbench.record(result, about={"venues": "ICML"})


def test_record_of_anything_but_the_standard_is_refused(mlp, digits):
    result = evaluate(mlp, digits.x[:4], digits.y[:4], suite="quick", eps=0.1)
    with pytest.raises(UserError, match=r"AutoAttack standard, which did not run at eps 0.1: this evaluation has fgsm, pgd-20"):
        robustbench.record(result)
