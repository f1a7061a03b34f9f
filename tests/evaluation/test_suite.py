from pathlib import Path

import pytest
from pydantic import ValidationError

from robust_lowrank import tables as module
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import FGSM, PGD, AutoAttack
from robust_lowrank.evaluation.suite import Suite, load_suite, suite_names
from robust_lowrank.threat import radius


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_suites_that_come_with_the_package():
    assert {"quick", "standard", "demo"} <= set(suite_names())
    for name in suite_names():
        suite = load_suite(name)
        assert suite.name == name
        assert suite.description
    quick, standard = load_suite("quick"), load_suite("standard")
    assert [spec.label for spec in quick.attacks] == ["fgsm", "pgd-20"]
    assert quick.eps == (8 / 255,)
    assert standard.attacks == (AutoAttack(),)
    assert standard.eps == (8 / 255,)


def test_suites_are_found_inside_an_installed_package(tmp_path, monkeypatch):
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "shipped.toml").write_text('eps = 0.1\n[[attacks]]\nattack = "fgsm"\n')
    monkeypatch.setattr(module.resources, "files", lambda package: tmp_path)
    assert suite_names() == ["shipped"]
    assert load_suite("shipped").attacks == (FGSM(),)


def test_a_file_says_everything(tmp_path):
    path = written(
        tmp_path,
        """
        norm = "L2"
        eps = ["1/2", 0.25, 1]
        [[attacks]]
        attack = "pgd"
        name = "long"
        steps = 50
        relative_step = 2
        restarts = 3
        [[attacks]]
        attack = "fgsm"
        eps = 0.1
        examples = "survivors"
        """,
    )
    for found in (load_suite(path), load_suite(str(path))):
        long, fgsm = found.attacks
        assert found.name == "mine"
        assert found.radii(long) == (0.25, 0.5, 1.0)
        assert found.radii(fgsm) == (0.1,)
        assert isinstance(long, PGD)
        assert (long.label, long.steps, long.restarts) == ("long", 50, 3)
        assert long.step_size(0.5) == 2 * 0.5 / 50
        assert fgsm.examples == "survivors"


def test_labels_say_how_often_an_attack_starts():
    assert (PGD(steps=7).label, PGD(steps=7, restarts=4).label) == ("pgd-7", "pgd-7x4")


def test_eps_and_norm_replace_those_of_all_attacks():
    suite = Suite(name="s", eps=(0.3,), attacks=(FGSM(), PGD(eps=(0.1, 0.2))))
    changed = suite.replaced(eps=["4/255", 0.5], norm="L2")
    assert changed.norm == "L2"
    assert [changed.radii(spec) for spec in changed.attacks] == [(4 / 255, 0.5)] * 2
    assert suite.replaced() == suite
    assert suite.replaced(norm="Linf") == suite
    with pytest.raises(UserError, match="give an eps for L2"):
        suite.replaced(norm="L2")
    with pytest.raises(UserError, match="did you mean 'Linf'"):
        suite.replaced(norm="linf", eps=0.1)
    with pytest.raises(UserError, match="empty"):
        suite.replaced(eps=[])


@pytest.mark.parametrize("value", [0, -0.1, "0/255", "1/0", "a", "", float("nan"), float("inf"), True, None, [0.1]])
def test_radii_are_positive_numbers(value):
    with pytest.raises(UserError, match="eps"):
        radius(value)


def test_radii_are_read_exactly():
    assert radius("8/255") == 8 / 255
    assert radius("0.1") == radius(0.1) == 0.1
    assert radius(1) == 1.0


FGSM_TABLE = '[[attacks]]\nattack = "fgsm"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('eps = 0.1\n[[attacks]]\nattack = "pdg"', r"unknown attack 'pdg': did you mean 'pgd'\?.*attacks\[0\]"),
        ('eps = 0.1\n[[attacks]]\nattack = "pgd"\nstep = 3', r"unknown key 'step': did you mean 'steps'\?.*attacks\[0\]"),
        (f"epss = 0.1\n{FGSM_TABLE}", r"unknown key 'epss': did you mean 'eps'"),
        ('eps = 0.1\n[[attacks]]\nattack = "pgd"\nsteps = "3"', r"attacks\[0\]\.steps: .*integer"),
        ('eps = 0.1\n[[attacks]]\nattack = "pgd"\nsteps = true', r"attacks\[0\]\.steps"),
        ('eps = 0.1\n[[attacks]]\nattack = "pgd"\nsteps = 0', r"attacks\[0\]\.steps: 0 must lie between 1 and"),
        (f'norm = "linf"\neps = 0.1\n{FGSM_TABLE}', "unknown norm 'linf': did you mean 'Linf'"),
        (f"norm = 2\neps = 0.1\n{FGSM_TABLE}", "norm: "),
        (f'eps = ["x"]\n{FGSM_TABLE}', r"eps\[0\]: eps 'x' is not a number"),
        (f"eps = [0.1, -1]\n{FGSM_TABLE}", r"eps\[1\]: eps -1 is not above 0"),
        (f"eps = []\n{FGSM_TABLE}", "eps: .*at least 1"),
        (FGSM_TABLE, "no eps"),
        ("eps = 0.1", "attacks is missing"),
        ("eps = 0.1\nattacks = 3", "attacks is a list"),
        ("eps = 0.1\nattacks = []", "attacks: .*at least 1"),
        (f"eps = 0.1\n{FGSM_TABLE}{FGSM_TABLE}", "two attacks share a name"),
        (f'eps = 0.1\n{FGSM_TABLE}name = "autoattack-fast"', "belongs to the upstream attack"),
        ('eps = 0.1\n[[attacks]]\nattack = "autoattack"\nversion = "fast"', r"attacks\[0\]\.version: .*'standard'"),
        ('eps = 0.1\n[[attacks]]\nattack = "autoattack"\nname = "x"', "unknown key 'name'"),
        ('eps = 0.1\n[[attacks]]\nattack = "pgd"\nrestarts = 2\nrandom_start = false', "repeat the same attack"),
        (f'name = "x"\neps = 0.1\n{FGSM_TABLE}', "named after its file"),
        ("eps = [", "not a TOML file"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_to_three_lines(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        load_suite(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_suites_that_do_not_exist():
    with pytest.raises(UserError, match=r"unknown suite 'standrd': did you mean 'standard'\?"):
        load_suite("standrd")
    with pytest.raises(UserError, match="no suite file"):
        load_suite(Path("nowhere/quick.toml"))


def test_suites_are_checked_in_python_too():
    with pytest.raises(ValidationError):
        Suite(name="s", attacks=(FGSM(),))
    with pytest.raises(ValidationError):
        PGD(steps=0)
