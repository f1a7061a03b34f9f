"""Say what keeps this tree from being released: version, tag, changelog and citation must agree, and nothing be uncommitted."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path

HEADING = re.compile(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?[ \t]*\n(.*?)(?=^## \[|\Z)", re.MULTILINE | re.DOTALL)


def faults(tree: Path, tags: Collection[str], changed: Collection[str]) -> Iterator[str]:
    """Yield what is wrong with a tree whose commit bears these tags, and which differs from it in these files."""
    version = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if f"v{version}" not in tags:
        yield f"pyproject.toml says {version}, and this commit has no tag v{version}: git tag --annotate v{version}"
    sections = HEADING.findall((tree / "CHANGELOG.md").read_text(encoding="utf-8"))
    if any(name == "Unreleased" and text.strip() for name, _, text in sections):
        yield f"CHANGELOG.md has unreleased entries: put them below ## [{version}] - YYYY-MM-DD"
    newest, date = next(((name, date) for name, date, _ in sections if name != "Unreleased"), ("none", ""))
    if newest != version:
        yield f"CHANGELOG.md's newest release is {newest}, not {version}"
    elif not date:
        yield f"CHANGELOG.md does not date {version}: ## [{version}] - YYYY-MM-DD"
    cited = re.search(r"^version: (.+)$", (tree / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    if cited is None or cited[1].strip("\"' ") != version:
        yield f"CITATION.cff does not say version: {version}"
    if changed:
        yield f"{', '.join(sorted(changed)[:5])}: not committed as it is"


def _git(*arguments: str) -> list[str]:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.splitlines()


def main() -> int:
    """Print what is wrong with the tree here; the exit code is 2 if anything is."""
    found = list(faults(Path.cwd(), _git("tag", "--points-at", "HEAD"), [line[3:] for line in _git("status", "--porcelain")]))
    sys.stderr.writelines(f"{fault}\n" for fault in found)
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main())
