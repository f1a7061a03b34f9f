"""Sizes that a program leaves open are expressions, which torch evaluates as code: only plain arithmetic is let through."""

import ast
import re
from typing import Any

LONGEST = 1000  # characters of an expression
LARGEST_POWER = 4
SYMBOL = re.compile(r"(s|u|zuf|zf|f|i)\d{1,6}")
TEXT = re.compile(r"[A-Za-z0-9_ +\-*/%(),<>=!&|~'.\[\]]+")
_NAMED = """
    Add And CeilDiv CeilToInt CleanDiv Eq Equality FloatTrueDiv FloorDiv FloorToInt Ge GreaterThan Gt IntTrueDiv Integer Le
    LessThan Lt Max Min Mod Mul Ne Not Or PythonMod Rational RoundToInt StrictGreaterThan StrictLessThan ToFloat TruncToFloat
    TruncToInt Unequality
"""
FUNCTIONS = frozenset(_NAMED.split())
ASSUMPTIONS = frozenset(("finite", "integer", "negative", "nonnegative", "positive", "real"))
PLAIN = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Load, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def is_arithmetic(text: str) -> bool:
    """Return whether an expression is one of symbols and numbers.

    Example:
        >>> is_arithmetic("2*Symbol('s77', positive=True, integer=True) + FloorDiv(s1, 2)")
        True
        >>> is_arithmetic("().__class__"), is_arithmetic("9**9**9"), is_arithmetic("open('x')")
        (False, False, False)
    """
    return _consists(text, _is_term)


def is_guard(text: str) -> bool:
    """Return whether a guard compares sizes of inputs.

    Example:
        >>> is_guard("L['args'][0].size()[0] >= 2"), is_guard("L['x'].tofile('y')")
        (True, False)
    """
    return _consists(text, lambda node: _is_term(node) or _is_size(node))


def _consists(text: str, is_known: Any) -> bool:
    """Return whether all parts of an expression are plain or known; it is parsed, and never evaluated."""
    if len(text) > LONGEST or not TEXT.fullmatch(text):
        return False
    try:
        parsed = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    pending: list[ast.AST] = [parsed]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and not _is_power(node.left, node.right):
            return False
        known = is_known(node)
        if not known and not isinstance(node, PLAIN):
            return False
        if isinstance(node, ast.Call) and known:
            pending += [] if _is_symbol(node) else [*node.args, *_receiver(node)]
        else:
            pending += ast.iter_child_nodes(node)
    return True


def _receiver(call: ast.Call) -> list[ast.AST]:
    return [call.func.value] if isinstance(call.func, ast.Attribute) else []


def _is_power(base: ast.AST, exponent: ast.AST) -> bool:
    """Return whether a power is a small one of a symbol; those of numbers may have more digits than there is memory."""
    if isinstance(exponent, ast.Call) and isinstance(exponent.func, ast.Name) and exponent.func.id == "Integer" and exponent.args:
        exponent = exponent.args[0]
    small = isinstance(exponent, ast.Constant) and exponent.value in range(LARGEST_POWER + 1)
    return small and (isinstance(base, ast.Name) or (isinstance(base, ast.Call) and _is_symbol(base)))


def _is_term(node: ast.AST) -> bool:
    """Return whether a node is a number, a symbol, or a function of sizes."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and abs(node.value) < 2**63
    if isinstance(node, ast.Name):
        return SYMBOL.fullmatch(node.id) is not None or node.id in ("true", "false")
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    plain = node.func.id in FUNCTIONS or (node.func.id == "Pow" and len(node.args) == 2 and _is_power(*node.args))
    return _is_symbol(node) or (plain and not node.keywords)


def _is_symbol(node: ast.Call) -> bool:
    """Return whether a call is a symbol in sympy's long form: its name and what is assumed of it."""
    named = isinstance(node.func, ast.Name) and node.func.id == "Symbol" and len(node.args) == 1
    name = node.args[0] if named else None
    return (
        isinstance(name, ast.Constant)
        and isinstance(name.value, str)
        and SYMBOL.fullmatch(name.value) is not None
        and all(
            each.arg in ASSUMPTIONS and isinstance(each.value, ast.Constant) and each.value.value is True for each in node.keywords
        )
    )


def _is_size(node: ast.AST) -> bool:
    """Return whether a node belongs to the size of an input, such as L['x'].size()[0]."""
    if isinstance(node, ast.Call):
        inquiry = isinstance(node.func, ast.Attribute) and node.func.attr in ("size", "stride", "storage_offset")
        return inquiry and not node.args and not node.keywords
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and node.value.isidentifier()
    return isinstance(node, ast.Subscript) or (isinstance(node, ast.Name) and node.id == "L")
