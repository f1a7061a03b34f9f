"""robustbench's model zoo where the weights are at hand; nothing is ever downloaded."""

import importlib
import pickle
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from robust_lowrank.errors import UserError, unknown_name

_INSTALL = "pip install --no-deps robustbench; pip install timm gdown geotorch torchdiffeq pyyaml requests tqdm"


def load_model(name: str, *, dataset: str, threat_model: str, model_dir: str | Path) -> nn.Module:
    """Return a network of robustbench's zoo in evaluation mode, from weights that lie where robustbench itself puts them.

    Args:
        name: as in the leaderboards, such as "Wong2020Fast".
        dataset: "cifar10", "cifar100" or "imagenet".
        threat_model: "Linf", "L2" or "corruptions".
        model_dir: holds DATASET/THREAT_MODEL/NAME.pt, or NAME.pt_m0.pt, NAME.pt_m1.pt, ... for an ensemble.

    Example:
        >>> model = load_model("Wong2020Fast", dataset="cifar10", threat_model="Linf", model_dir="models")

    Raises:
        UserError: robustbench cannot be imported, it has no such network, or its weights are missing or no plain tensors.
    """
    with imported() as robustbench:
        entry = _entry(name, dataset, threat_model)
        identifiers = entry.get("gdrive_id")
        if not identifiers:
            raise UserError(f"robustbench has no file for {name}: its weights come with timm or torchvision, load it with those")
        path = Path(model_dir) / dataset / threat_model / f"{name}.pt"
        files = {path: identifiers}
        if isinstance(identifiers, list):
            files = {path.with_name(f"{path.name}_m{number}.pt"): text for number, text in enumerate(identifiers)}
        for file, identifier in files.items():
            if not file.is_file():
                raise UserError(f"the weights of {name} are missing: {file}\npip install gdown; gdown {identifier} -O {file}")
        try:
            return robustbench.load_model(name, model_dir, dataset, threat_model)
        except (pickle.UnpicklingError, RuntimeError, KeyError, EOFError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{', '.join(map(str, files))}: not the weights of {name}, or more than plain tensors: {reason}"
            ) from error


@contextmanager
def imported() -> Iterator[ModuleType]:
    """Yield the package robustbench, with what it misses in place while it is imported, and gone afterwards.

    robustbench 1.1.1 imports `pkg_resources`, which setuptools dropped in 82, and `autoattack`, where the package it depends on
    is called `pyautoattack` and takes and returns other things. Who imports these two names elsewhere finds what was there before.
    Within the block as after it, `robustbench.benchmark` works; its AutoAttack has seed 0 instead of the clock's.

    Raises:
        UserError: robustbench or something it needs is missing, or torchattacks' old copy has taken its place.
    """
    _require_the_real_one()
    before = set(sys.modules)
    stand_ins = _stand_ins()
    sys.modules.update(stand_ins)
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = importlib.import_module("robustbench")
                importlib.import_module("robustbench.model_zoo")
        except ModuleNotFoundError as error:
            for other in set(sys.modules) - before:
                if other.partition(".")[0] == "robustbench":
                    del sys.modules[other]
            raise UserError(f"robustbench needs {error.name}, which is not installed\n{_INSTALL}") from error
        yield module
    finally:
        for other, stand_in in stand_ins.items():
            if sys.modules.get(other) is stand_in:
                del sys.modules[other]


def _require_the_real_one() -> None:
    """torchattacks ships an old copy as a top-level package: it is there without a distribution, or has overwritten the files."""
    try:
        files = metadata.files("robustbench") or []
    except metadata.PackageNotFoundError as error:
        found = "only the old copy inside torchattacks is" if util.find_spec("robustbench") else "it is not"
        raise UserError(f"robustbench is not installed: {found} there\n{_INSTALL}") from error
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".py" and path.is_file() and file.size not in (None, path.stat().st_size):
            raise UserError(
                f"robustbench is not itself: another package, such as torchattacks, has overwritten {file}\n"
                "pip install --no-deps --force-reinstall robustbench"
            )


def _stand_ins() -> dict[str, ModuleType]:
    modules: dict[str, ModuleType] = {}
    if _absent("pkg_resources"):
        resources: Any = ModuleType("pkg_resources")
        resources.resource_filename = _resource_filename
        modules["pkg_resources"] = resources
    if _absent("autoattack"):
        upstream: Any = ModuleType("autoattack")
        upstream.AutoAttack, upstream.state = _autoattack(), importlib.import_module("pyautoattack.state")
        modules |= {"autoattack": upstream, "autoattack.state": upstream.state}
    return modules


def _absent(name: str) -> bool:
    return name not in sys.modules and util.find_spec(name) is None


def _resource_filename(module: str, path: str) -> str:
    return str(Path(str(sys.modules[module].__file__)).parent / path)


def _autoattack() -> type:
    """Return pyautoattack's class with the keywords and the return value of the package that robustbench was written for."""
    import pyautoattack

    class AutoAttack(pyautoattack.AutoAttack):
        def __init__(self, model: nn.Module, *, log_path: str | None = None, seed: int = 0, **options: Any) -> None:
            super().__init__(model, seed=seed, **options)

        def run_standard_evaluation(self, x: Tensor, y: Tensor, *, bs: int = 250, state_path: Path | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            inputs, _ = super().run_standard_evaluation(x, y, batch_size=bs, state_path=state_path)
            return inputs

    return AutoAttack


def _entry(name: str, dataset: str, threat_model: str) -> dict[str, Any]:
    zoo = importlib.import_module("robustbench.model_zoo").model_dicts
    datasets = {key.value: networks for key, networks in zoo.items()}
    if dataset not in datasets:
        raise unknown_name("dataset of robustbench", dataset, datasets)
    threats = {key.value: networks for key, networks in datasets[dataset].items()}
    if threat_model not in threats:
        raise unknown_name(f"threat model of robustbench for {dataset}", threat_model, threats)
    networks = threats[threat_model]
    if name not in networks:
        raise unknown_name(f"network of robustbench for {dataset} and {threat_model}", name, networks)
    return networks[name]
