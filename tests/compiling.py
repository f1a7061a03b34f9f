"""What is needed to test compiled networks."""

import pytest


def require_a_compiler() -> None:
    """Skip where inductor finds no C++ compiler."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("there is NO C++ COMPILER: what inductor makes of compiled networks was not tested")
