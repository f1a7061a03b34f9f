"""`doctor`: broken things end with 1, known traps are named with their remedy."""

import base64
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from robust_lowrank.cli import doctor
from robust_lowrank.records import AuditFinding

Command = Callable[..., Result]


def install(site: Path, name: str, version: str, files: dict[str, str]) -> None:
    """Lay out a distribution as pip does, with its record of files and their hashes."""
    lines = []
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}")
    information = site / f"{name}-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (information / "RECORD").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is searched before the real packages."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
    return directory


def by_check(findings: object) -> dict[str, AuditFinding]:
    return {finding.check: finding for finding in findings}  # type: ignore[attr-defined]


def test_this_installation_is_sound(rlr_eval: Command) -> None:
    result = rlr_eval("doctor", "--json")
    assert result.exit_code == 0
    findings = json.loads(result.stdout)
    assert {"torch", "torchvision", "pyautoattack", "devices", "digits", "attack suites"} <= {f["check"] for f in findings}
    assert all(finding["remedy"] for finding in findings if finding["status"] != "pass")
    spoken = rlr_eval("doctor")
    assert spoken.exit_code == 0
    assert spoken.stdout.endswith("This installation is sound.\n")


def test_a_broken_requirement_ends_with_1(rlr_eval: Command, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "altair.py").write_text("raise RuntimeError('half-installed')")
    monkeypatch.delitem(sys.modules, "altair", raising=False)
    result = rlr_eval("doctor", "--json")
    assert result.exit_code == 1
    finding = by_check(AuditFinding(**finding) for finding in json.loads(result.stdout))["altair"]
    assert finding.status == "fail"
    assert "half-installed" in finding.message
    assert finding.remedy == "pip install --force-reinstall altair"
    monkeypatch.delitem(sys.modules, "altair", raising=False)


def test_robustbench_overwritten_by_torchattacks(site: Path) -> None:
    install(site, "robustbench", "1.1.1", {"robustbench/__init__.py": "new = True\n", "robustbench/eval.py": "new = True\n"})
    assert "robustbench files" not in by_check(doctor.robustbench_traps())
    (site / "robustbench/eval.py").write_text("old = True\n")
    finding = by_check(doctor.robustbench_traps())["robustbench files"]
    assert finding.status == "warn"
    assert finding.message.startswith("1 of its files")
    assert "robustbench/eval.py" in finding.message
    assert finding.remedy == "pip install --no-deps --force-reinstall robustbench"


def test_what_robustbench_cannot_import_is_named(site: Path) -> None:
    install(site, "robustbench", "1.1.1", {"robustbench/__init__.py": ""})
    for module in (*doctor.ROBUSTBENCH_NEEDS, "pkg_resources", "autoattack"):
        (site / f"{module}.py").write_text("")
    complete = by_check(doctor.robustbench_traps())
    (site / "autoattack.py").unlink()
    lacking = by_check(doctor.robustbench_traps())
    assert set(lacking) - set(complete) == {"robustbench and autoattack"}
    assert "sys.modules['autoattack'] = pyautoattack" in lacking["robustbench and autoattack"].remedy


def test_torchattacks_own_autoattack_is_a_trap(site: Path) -> None:
    install(site, "torchattacks", "3.5.1", {"torchattacks/__init__.py": ""})
    findings = by_check(doctor.torchattacks_traps())
    assert findings["torchattacks"].message == "3.5.1"
    assert "10 iterations" in findings["torchattacks.AutoAttack"].message


def test_requests_held_back(site: Path) -> None:
    install(site, "requests", "2.25.1", {"requests/__init__.py": ""})
    (finding,) = doctor.old_requests()
    assert "2.25.1" in finding.message
