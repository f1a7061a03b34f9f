"""Every attack is found by its file, and says in its class how it runs and what it is called."""

from itertools import pairwise

from robust_lowrank.evaluation import APGD, evaluate
from robust_lowrank.evaluation.attacks.registry import ATTACKS, title_of
from robust_lowrank.evaluation.audit.attack_checks import BLACK_BOX, BLIND, ENSEMBLES
from robust_lowrank.evaluation.suite import Suite
from robust_lowrank.provenance import digest_definition


def test_attacks_run_from_cheap_to_dear():
    assert all(cheap.turn < dear.turn for cheap, dear in pairwise(ATTACKS.values()))
    assert (next(iter(ATTACKS)), list(ATTACKS)[-1]) == ("fgsm", "autoattack")
    assert all(name == kind.model_fields["attack"].default for name, kind in ATTACKS.items())


def test_what_the_audit_reads_from_names_is_that_of_the_classes():
    assert set(BLIND) == {"random-noise", "transfer"}
    assert set(BLACK_BOX) == {"random-noise", "transfer", "square", "hopskipjump"}
    assert set(ENSEMBLES) == {"aa-fast", "aa-native", "autoattack"}


def test_titles():
    names = ("fgsm", "pgd-20x5", "apgd-ce", "square-10-on-survivors", "autoattack-plus", "aa-native", "my-own")
    titles = ["FGSM", "PGD-20x5", "APGD-ce", "Square-10-on-survivors", "AutoAttack-plus", "aa-native", "my-own"]
    assert [title_of(name) for name in names] == titles


def test_a_result_says_what_reports_call_its_attacks_and_no_hash_depends_on_it(mlp, digits):
    suite = Suite(name="s", eps=(0.05,), attacks=(APGD(steps=2), APGD(name="mine", steps=3, examples="survivors")))
    record = evaluate(mlp, digits.x[:4], digits.y[:4], suite=suite, audit=False).record
    assert (record.title("apgd-ce-2"), record.title("mine-on-survivors")) == ("APGD-ce-2", "mine-on-survivors")
    assert record.title("pgd-20") is None
    for entry in record.definition["attacks"]:
        assert not record.seeks_nearest(entry["name"])
        del entry["title"], entry["minimal"]
    assert record.hashes["attack"] == digest_definition(record.definition)
    assert record.title("apgd-ce-2") is None  # as in a file of an older version
