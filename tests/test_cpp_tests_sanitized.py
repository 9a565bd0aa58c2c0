"""The native test suite under sanitizers, a file of its own so that another worker takes it."""

from __future__ import annotations

import pytest
from native import ctest, sanitized_build, thread_sanitized_build


@pytest.mark.slow(seconds=250)
def test_address_and_undefined_behaviour_sanitizers() -> None:
    """With the kernels' assertions on, those of AVX-512 and of tile registers in plain C++ included."""
    ctest(sanitized_build())


@pytest.mark.slow(seconds=60)
def test_thread_sanitizer() -> None:
    ctest(thread_sanitized_build("threads_tests"), "--label-regex", "threads")
