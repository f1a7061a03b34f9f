"""A tree that is not fit to be released says why."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci/release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2030-01-02\n\n- more\n\n## [1.1.0]\n\n- less\n"
    )
    (tmp_path / "CITATION.cff").write_text("cff-version: 1.2.0\nversion: 1.2.0\n")
    return tmp_path


def test_a_tree_that_agrees_with_its_tag_is_fit(release: ModuleType, tree: Path) -> None:
    assert list(release.faults(tree, ["v1.2.0", "other"], [])) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("pyproject.toml", "1.2.0", "1.3.0", "no tag v1.3.0"),
        ("CHANGELOG.md", "[Unreleased]\n", "[Unreleased]\n\n- new\n", "unreleased entries"),
        ("CHANGELOG.md", "## [1.2.0] - 2030-01-02", "", "newest release is 1.1.0, not 1.2.0"),
        ("CHANGELOG.md", " - 2030-01-02", "", "does not date 1.2.0"),
        ("CITATION.cff", "\nversion: 1.2.0", "\nversion: 1.1.0", "CITATION.cff does not say version: 1.2.0"),
    ],
)
def test_what_disagrees_is_named(release: ModuleType, tree: Path, file: str, old: str, new: str, says: str) -> None:
    path = tree / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert any(says in fault for fault in release.faults(tree, ["v1.2.0"], []))


def test_changes_that_are_not_committed_are_named(release: ModuleType, tree: Path) -> None:
    assert list(release.faults(tree, ["v1.2.0"], ["README.md"])) == ["README.md: not committed as it is"]


def test_this_trees_changelog_and_citation_are_read(release: ModuleType) -> None:
    assert not [fault for fault in release.faults(ROOT, [], []) if fault.startswith("CITATION")]
