"""What an evaluation says in a terminal and in a notebook."""

from robust_lowrank import evaluate


def test_an_evaluation_prints_its_accuracies(mlp, digits):
    result = evaluate(mlp, digits.x[:40], digits.y[:40], suite="quick", eps=[0.02, "8/255"])
    lines = str(result).splitlines()
    assert lines[0] == f"quick, Linf, 40 examples, seed 0: clean {str(result.clean_accuracy).replace(' %', '')} %"
    assert lines[1].split() == ["robust,", "%", "eps", "0.02", "eps", "8/255"]
    assert [line.split()[0] for line in lines[2:5]] == ["fgsm", "pgd-20", "worst"]
    assert str(result.robust_accuracy).replace(" %", "") in lines[4]
    passed = sum(found.status == "pass" for found in result.audit)
    assert f"audit: {passed} of {len(result.audit)} checks pass" in lines
    assert len(repr(result)) < 2000
    assert "8/255" in result._repr_html_()


def test_what_was_not_attacked_is_no_zero(mlp, digits):
    result = evaluate(mlp, digits.x[:40], digits.y[:40], suite="quick", eps=0.02, max_passes=1)
    assert "0.0 to " in str(result)
