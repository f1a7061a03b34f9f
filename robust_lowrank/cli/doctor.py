"""The installation is examined: required packages must work, known traps of optional ones are named with remedies."""

import base64
import hashlib
import importlib
import platform
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import Literal

from robust_lowrank.errors import first_line
from robust_lowrank.extras import installed
from robust_lowrank.records import AuditFinding

REQUIRED = {
    "numpy": "numpy",
    "pandas": "pandas",
    "PIL": "pillow",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "torchvision": "torchvision",
}
OF_EXTRAS = {  # modules, the packages that they are of, and an extra that brings them
    "altair": ("altair", "report"),
    "jinja2": ("jinja2", "report"),
    "pyautoattack": ("pyautoattack", "eval"),
    "vl_convert": ("vl-convert-python", "report"),
}
BESIDE = {"onnx": "onnx", "onnxruntime": "onnx", "timm": "timm", "peft": "peft", "tensorboard": "tensorboard", "ray": "ray"}
REINSTALL = "pip install --force-reinstall"

ROBUSTBENCH_NEEDS = {"timm": "timm", "gdown": "gdown", "geotorch": "geotorch", "torchdiffeq": "torchdiffeq", "yaml": "pyyaml"}


def examine() -> list[AuditFinding]:
    """Return every finding of this installation; one with status "fail" means that something required is broken."""
    return [
        _pass("python", f"Python {platform.python_version()} on {platform.platform(terse=True)}"),
        *(_imported(module, distribution) for module, distribution in REQUIRED.items()),
        *(_optional(module, distribution, extra) for module, (distribution, extra) in OF_EXTRAS.items()),
        *(_beside(distribution, extra) for distribution, extra in BESIDE.items()),
        _attempt(
            "torch operators",
            _run_operators,
            "do not run",
            "install a torch and a torchvision of the same release: pip install --upgrade torch torchvision",
        ),
        _pass("devices", ", ".join(_devices())),
        _attempt("digits", _load_digits, "cannot be loaded", f"{REINSTALL} scikit-learn"),
        _suites(),
        *torchattacks_traps(),
        *robustbench_traps(),
        *old_requests(),
    ]


def _attempt(check: str, work: Callable[[], str], wrong: str, remedy: str) -> AuditFinding:
    """Return what `work` says of itself, or a failure where it raises."""
    try:
        return _pass(check, work())
    except Exception as error:  # a broken dependency may raise anything, and may do so while it is imported
        return _fail(check, f"{wrong}: {first_line(error)}", remedy)


def _imported(module: str, distribution: str) -> AuditFinding:
    """Return the version of a package, or a failure where it cannot be imported."""

    def version() -> str:
        importlib.import_module(module)
        return metadata.version(distribution)

    return _attempt(distribution, version, "cannot be imported", f"{REINSTALL} {distribution}")


def _optional(module: str, distribution: str, extra: str) -> AuditFinding:
    """Return the same of a package that an extra brings, which is no failure where it is not installed."""
    if installed(distribution) is None:
        return _pass(distribution, f"not installed (optional): pip install 'robust-lowrank[{extra}]'")
    return _imported(module, distribution)


def _beside(distribution: str, extra: str) -> AuditFinding:
    """Return the version of a package that takes long to import, or what would install it."""
    return _pass(distribution, installed(distribution) or f"not installed (optional): pip install 'robust-lowrank[{extra}]'")


def _run_operators() -> str:
    """Run what training needs most: a convolution forward and backward, a QR and an SVD, and torchvision's compiled operators."""
    import torch
    from torchvision.ops import nms

    image = torch.ones(1, 1, 8, 8, requires_grad=True)
    torch.nn.functional.conv2d(image, torch.ones(2, 1, 3, 3)).sum().backward()
    torch.linalg.svd(torch.linalg.qr(torch.eye(4)).Q)
    nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)
    return "convolution, QR, SVD and torchvision's own operators run"


def _devices() -> list[str]:
    import torch

    names = [f"cpu ({torch.get_num_threads()} threads)"]
    names += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    return [*names, "mps"] if torch.backends.mps.is_available() else names


def _load_digits() -> str:
    from robust_lowrank import data

    return f"the built-in data set loads, {len(data.load('digits').train_y)} training images"


def _suites() -> AuditFinding:
    from robust_lowrank import evaluation

    names = evaluation.suite_names()
    if names:
        return _pass("attack suites", ", ".join(names))
    return _fail("attack suites", "none found", f"{REINSTALL} robust-lowrank")


def torchattacks_traps() -> Iterator[AuditFinding]:
    """Name what is known to go wrong with torchattacks; nothing here needs it, it serves comparisons."""
    version = installed("torchattacks")
    if version is None:
        yield _pass("torchattacks", "not installed (optional)")
        return
    yield _pass("torchattacks", version)
    yield _warn(
        "torchattacks.AutoAttack",
        "runs 10 iterations where the standard is 100: its figures are not AutoAttack's",
        "use the suite 'standard', which runs pyautoattack",
    )


def robustbench_traps() -> Iterator[AuditFinding]:
    """Name what keeps robustbench from being imported, and whether torchattacks has overwritten it."""
    version = installed("robustbench")
    if version is None:
        if util.find_spec("robustbench") is not None:
            yield _warn(
                "robustbench",
                "the importable package is the old copy inside torchattacks, not robustbench itself",
                "pip install --no-deps robustbench, if you need it",
            )
        else:
            yield _pass("robustbench", "not installed (optional)")
        return
    yield _pass("robustbench", version)
    overwritten = _overwritten("robustbench")
    if overwritten:
        yield _warn(
            "robustbench files",
            f"{len(overwritten)} of its files were overwritten by another package, {overwritten[0]} for one: "
            "torchattacks ships an old copy under the same name, and the one installed last wins",
            "pip install --no-deps --force-reinstall robustbench",
        )
    yield from _robustbench_imports()
    yield _warn(
        "robustbench.benchmark",
        "passes options that pyautoattack rejects, so its attack run fails",
        "load the network with robustbench, attack it with robust_lowrank.evaluate",
    )


def _robustbench_imports() -> Iterator[AuditFinding]:
    missing = [package for module, package in ROBUSTBENCH_NEEDS.items() if util.find_spec(module) is None]
    if missing:
        yield _warn(
            "robustbench's needs",
            f"it cannot be imported without {', '.join(missing)}",
            f"to load its model zoo: pip install {' '.join(missing)}",
        )
    if util.find_spec("pkg_resources") is None:
        yield _warn(
            "robustbench and pkg_resources",
            "it imports pkg_resources, which setuptools 82 and later no longer bring",
            "to load its model zoo: pip install 'setuptools<82'",
        )
    if util.find_spec("autoattack") is None:
        yield _warn(
            "robustbench and autoattack",
            "it imports autoattack, but the package it depends on installs pyautoattack",
            "before importing it: import sys, pyautoattack; sys.modules['autoattack'] = pyautoattack",
        )


def old_requests() -> Iterator[AuditFinding]:
    """Find the requests that torchattacks' own pin pulls in, which has known vulnerabilities."""
    version = installed("requests")
    if version is not None and tuple(int(part) for part in version.split(".")[:2]) < (2, 32):
        yield _warn(
            "requests",
            f"{version} has known vulnerabilities; torchattacks asks for it and never imports it",
            "pip install --upgrade requests, and install torchattacks with --no-deps",
        )


def _overwritten(distribution: str) -> list[str]:
    changed = []
    for file in metadata.files(distribution) or []:
        path = Path(str(file.locate()))
        if file.hash is None or file.hash.mode != "sha256" or not path.is_file():
            continue
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        if digest != file.hash.value:
            changed.append(str(file))
    return changed


def _finding(status: Literal["pass", "warn", "fail"], check: str, message: str, remedy: str = "") -> AuditFinding:
    return AuditFinding(check=check, status=status, message=message, remedy=remedy)


_pass, _warn, _fail = (partial(_finding, status) for status in ("pass", "warn", "fail"))
