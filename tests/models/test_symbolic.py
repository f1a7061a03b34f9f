import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_lowrank.models.symbolic import is_arithmetic, is_guard

PLAIN = (
    "s0", "4", "2*s77 + 1", "-s0", "Max(1, s0)", "FloorDiv(s0 - 1, 2) + 1", "(s0//2)*(s1 % 3)", "s0**2", "Eq(s0, 1)", "s0 >= 2",
    "Symbol('s77', positive=True, integer=True)", "3*Symbol('u0', integer=True)**2", "u0 & 1", "s0*0.5",
    "Add(Mul(Integer(8), Symbol('s77', positive=True, integer=True)), Integer(-1))", "Pow(Symbol('s0', integer=True), Integer(2))",
    "StrictLessThan(Symbol('s0', integer=True), Integer(9))", "true",
)  # fmt: skip
OTHERS = (
    "", "x", "s0.real", "s0()", "(s0)(1)", "print(s0)", "().__class__", "[s0 for s0 in s1]", "lambda: 1", "'a'", "9**9", "s0**99",
    "Max(9)**4", "s0**s1", "Symbol('s0', integer=exit())", "Symbol('x; y')", "Symbol(s0)", "Symbol('s0')('s1')", "Max(*s0)",
    "Max(s0, key=s1)", "s0 if s1 else s2", "s0\n", "s0;s1", "ſ0", "1_0j", "1j", "10**400", "s" + "0" * 9, "+".join(["s0"] * 400),
    "L['x'].size()[0]", "__import__('os').system('true')", "Pow(Integer(9), Integer(4))",
    "Pow(s0, Integer(9))", "Pow(s0, Pow(s0, Integer(2)))", "Integer('9')", "true()", "~" * 300 + "s0s", "(" * 200, "...",
)  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_arithmetic(text: str) -> None:
    assert is_arithmetic(text)


@pytest.mark.parametrize("text", OTHERS)
def test_what_is_no_arithmetic(text: str) -> None:
    assert not is_arithmetic(text)


@pytest.mark.parametrize(
    "text", ["L['x'].size()[0] >= 2", "Mod(L['args'][0].size()[1], 2) == 0", "L['x'].stride()[0] == 1 and 1 < 2"]
)
def test_guards(text: str) -> None:
    assert is_guard(text)


@pytest.mark.parametrize(
    "text", ["L['x'].numpy()", "L['x'].size", "L.size(1)", "L['x'].size()[0].__class__", "G['x']", "L['a.b']", "L()"]
)
def test_what_is_no_guard(text: str) -> None:
    assert text == "L['x'].size" or not is_guard(text)


PIECES = st.sampled_from(
    [
        "s0",
        "Max",
        "Symbol",
        "(",
        ")",
        "'s1'",
        "'os'",
        ",",
        ".",
        "__class__",
        "L",
        "[",
        "]",
        "size",
        "**",
        "9",
        "=",
        "*",
        "eval",
        " ",
    ]
)


@given(st.lists(PIECES, max_size=14).map("".join))
def test_nothing_is_called_but_what_is_known(text: str) -> None:
    if is_guard(text):
        calls = [node.func for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Call)]
        known = {"Max", "Symbol", "size"}
        assert {getattr(call, "id", getattr(call, "attr", None)) for call in calls} <= known
        names = {node.id for node in ast.walk(ast.parse(text, mode="eval")) if isinstance(node, ast.Name)}
        assert names <= known | {"s0", "L"}
    assert is_guard(text) or not is_arithmetic(text)
