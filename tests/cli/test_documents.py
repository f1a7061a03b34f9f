"""What README and docs claim: their code runs, their commands, files and equations exist."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from typer.main import get_command

import robust_lowrank as rlr
from robust_lowrank.cli.app import app
from robust_lowrank.evaluation import audit, load_suite, suite_names
from robust_lowrank.evaluation.attacks.base import Attack
from robust_lowrank.evaluation.attacks.registry import ATTACKS, title_of
from robust_lowrank.evaluation.audit.probe_checks import COMPARISONS
from robust_lowrank.models import make
from robust_lowrank.records import MONITOR, read_run
from robust_lowrank.training import parse_config

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/methods").glob("*.md"))
GUIDES = sorted((ROOT / "docs/guides").glob("*.md"))
EVALUATION = ROOT / "docs/evaluation.md"
MONITOR_PAGE = ROOT / "docs/monitor.md"
SUITES = ROOT / "attacks/README.md"
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *GUIDES,
    *PAGES,
    *sorted(ROOT.glob("*/README.md")),
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    lines = re.findall(r"^(?:rlr-eval|make) .*$", text, re.MULTILINE) + re.findall(r"`((?:rlr-eval|make) [^`]*)`", text)
    return [shlex.split(line, comments=True) for line in lines]


def table(path: Path, head: str) -> list[list[str]]:
    """Return the rows of the table whose first column has that head, the first cell without its backticks."""
    text = path.read_text().split(f"\n| {head} |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    return [[name.strip("`"), *cells] for name, *cells in rows]


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], check=False, **options)
    assert done.returncode == 0, done.stderr
    factored = dict(re.findall(r"^\d+ +(\w+) +\d+ +([\d.]+)$", done.stdout, re.MULTILINE))
    assert {"conv1", "conv2", "fc1"} <= set(factored)
    assert all(float(factored[layer]) <= 1.1 + 1e-4 for layer in ("conv1", "conv2", "fc1"))
    assert len(re.findall(r"\d % \[\d+\.\d, \d+\.\d\]", done.stdout)) == 2


@each_page
def test_the_python_of_a_methods_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    codes = blocks(page, "python")
    assert codes
    for code in codes:
        with torch.random.fork_rng():
            exec(compile(code, str(page), "exec"), {"__name__": page.stem})


@each_page
def test_the_toml_of_a_methods_page_is_a_configuration(page: Path) -> None:
    for text in blocks(page, "toml"):
        config = parse_config(tomllib.loads(text), source=page.name)
        if config.method.name != "dense":
            config.method.method()


@pytest.mark.slow
def test_the_python_of_the_evaluation_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "evaluation"}
    codes = blocks(EVALUATION, "python")
    assert codes
    with torch.random.fork_rng():
        for code in codes:  # each goes on from those before it
            exec(compile(code, str(EVALUATION), "exec"), namespace)


@pytest.mark.slow
def test_the_start_pages_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "docs/index.md", "python")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    exec(code, {"torch": torch, "rlr": rlr, "model": model, "x": torch.rand(20, 1, 8, 8), "y": torch.arange(20) % 10})
    assert "aa-fast" in capsys.readouterr().out


def test_the_answers_print_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs/faq.md"
    (code,) = blocks(page, "python")
    exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert all(line in page.read_text() for line in printed)


def test_the_command_line_is_told_as_it_is(tmp_path: Path) -> None:
    made = re.search(r"-m (typer .*) --output docs/cli.md", (ROOT / "Makefile").read_text())
    assert made
    page = tmp_path / "cli.md"
    command = [sys.executable, "-m", *shlex.split(made[1]), "--output", str(page)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert page.read_text() == (ROOT / "docs/cli.md").read_text(), "make cli-reference"


def test_the_monitors_page_runs_and_names_every_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        for code in blocks(MONITOR_PAGE, "python"):
            exec(compile(code, str(MONITOR_PAGE), "exec"), {"__name__": "monitor"})
    assert len((tmp_path / "monitor.jsonl").read_text().splitlines()) == 3 * 3
    (text,) = blocks(MONITOR_PAGE, "toml")
    assert parse_config(tomllib.loads(text), source=MONITOR_PAGE.name).monitor is not None
    rows = re.findall(r"^\| (`[^|]*) \|", MONITOR_PAGE.read_text().split("| column |")[1].split("\n\n")[0], re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(MONITOR)


def test_the_python_of_the_certificates_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks(ROOT / "docs/certificates.md", "python")
    with torch.random.fork_rng():
        exec(compile(code, "certificates.md", "exec"), {"__name__": "certificates"})


def test_the_page_of_runs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    function, loop = blocks(ROOT / "docs/runs.md", "python")
    (tmp_path / "nets.py").write_text(function)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    exec(compile(loop, "runs.md", "exec"), {"__name__": "runs"})
    assert read_run(tmp_path / "runs/mine").record.status == "complete"
    (text,) = blocks(ROOT / "docs/runs.md", "toml")
    config = parse_config(tomllib.loads(text), source="runs.md").model
    network = make(config.name, input_shape=(1, 8, 8), num_classes=10, mean=config.mean, std=config.std)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 10)


def test_the_toml_of_the_evaluation_page_is_a_suite(tmp_path: Path) -> None:
    (text,) = blocks(EVALUATION, "toml")
    (tmp_path / "mine.toml").write_text(text)
    assert load_suite(tmp_path / "mine.toml").name == "mine"


def test_the_evaluation_page_lists_every_suite_with_its_cost() -> None:
    told = {name: cells[-1] for name, *cells in table(EVALUATION, "suite")}
    assert list(told) and set(told) == set(suite_names())
    for name, passes in told.items():
        suite = load_suite(name)
        counts = [(spec, len(suite.radii(spec))) for spec in suite.attacks]
        due = sum(spec.most(10, suite.norm, radii) if spec.at_once else radii * spec.cost(10, suite.norm) for spec, radii in counts)
        assert passes == f"{due:,}", name


def test_the_evaluation_page_lists_every_check_of_the_audit() -> None:
    literal = re.compile(r'\bfinding\(\s*"([^"]+)"')
    names = {name for path in Path(audit.__file__).parent.glob("*.py") for name in literal.findall(path.read_text())}
    names |= {comparison.check for comparison in COMPARISONS}
    names |= {f"{title_of(name)} against {title_of(kind.rival)}" for name, kind in ATTACKS.items() if kind.rival}
    names |= {f"{title_of(name)}'s gain" for name, kind in ATTACKS.items() if kind.searches and not kind.gradients}
    assert {name for name, *_ in table(EVALUATION, "check")} == names


def test_the_evaluation_page_lists_every_attack_with_its_keys() -> None:
    told = {name: cells for name, *cells in table(EVALUATION, "attack")}
    assert set(told) == set(ATTACKS)
    for name, (keys, _) in told.items():
        own = set(ATTACKS[name].model_fields) - set(Attack.model_fields) - {"attack", "engine", "name"}
        assert set(re.findall(r"`(\w+)(?: =[^`]*)?`", keys)) == own, name


def test_the_folder_of_suites_lists_every_suite() -> None:
    suites = [load_suite(name) for name in suite_names()]
    due = [[suite.name, suite.norm, ", ".join(spec.label for spec in suite.attacks)] for suite in suites]
    assert table(SUITES, "suite") == due


def test_the_toml_of_the_folder_of_suites_is_a_suite(tmp_path: Path) -> None:
    (text,) = blocks(SUITES, "toml")
    (tmp_path / "mine.toml").write_text(text)
    assert [spec.label for spec in load_suite(tmp_path / "mine.toml").attacks] == ["pgd-50x5", "square-late"]


def test_every_methods_page_is_in_the_index_and_in_the_navigation() -> None:
    index, navigation = (ROOT / "docs/methods.md").read_text(), (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        assert f"](methods/{page.name})" in index
        assert f": methods/{page.name}\n" in navigation


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist_with_their_options(document: Path) -> None:
    known = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, *words in commands(document.read_text()):
        if program == "make":
            assert words[0] in targets
        elif not words[0].startswith("-") and words[0] != "COMMAND":
            options = {option for parameter in known[words[0]].params for option in parameter.opts} | {"--help"}
            assert {word for word in words[1:] if word.startswith("--")} <= options


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    paths = re.findall(r"`((?:robust_lowrank|attacks|experiments|docs|tests|benchmarks)/[\w/.-]*)`", text)
    for link in links:  # notebooks are made with the site, in which test_site follows links
        assert (document.parent / link).exists() or link.endswith(".ipynb"), link
    for path in paths:
        assert (ROOT / path.replace("NAME", "").removesuffix(".py").removesuffix(".toml")).exists() or (ROOT / path).exists(), path


def test_every_equation_that_the_code_cites_is_in_the_documents() -> None:
    texts = [path.read_text() for path in (ROOT / "docs/methods.md", *PAGES)]
    numbered = {number for text in texts for number in re.findall(r"^(?: +|\\text\{)\((\d+b?)\)", text, re.MULTILINE)}
    citation = re.compile(r"\b(?:methods|CondLR|DLRT|TDLRT|GeoLoRA|RobustDLRT) ((?:\(\d+b?\)(?:-|, | and )?)+)")
    cited = set()
    for path in (ROOT / "robust_lowrank").rglob("*.py"):
        for found in citation.findall(path.read_text()):
            cited |= set(re.findall(r"\((\d+b?)\)", found))
    assert cited
    assert cited <= numbered


def test_every_numbered_property_is_told_and_measured() -> None:
    rows = re.findall(r"^\| (T[\dT, ]+) \|", (ROOT / "docs/methods.md").read_text(), re.MULTILINE)
    told = set(re.findall(r"T\d+", " ".join(rows)))
    measured = set(re.findall(r"T\d+", (ROOT / "docs/conformance.md").read_text()))
    assert told == {f"T{i}" for i in range(1, 37)}
    assert told <= measured


def test_the_picture_of_the_rooms_is_the_contract() -> None:
    contracts = settings()["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["name"].startswith("layers of the package")]
    drawn = re.findall(
        r"^    (\w+(?: │ \w+)*)(?:  .*)?$", (ROOT / "docs/architecture.md").read_text().split("## ")[2], re.MULTILINE
    )
    assert [set(row.split(" │ ")) for row in drawn] == [
        {name.strip().removeprefix("robust_lowrank.") for name in row.split("|")} for row in layers
    ]


def test_citation_names_the_projects_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {settings()['project']['version']}\n" in citation
    for paper in ("2306.01485", "2205.13571", "2305.19059", "2410.18720"):
        assert citation.count(f"arXiv:{paper}") == 1


def settings() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())
