"""The one exception that means "the caller's input is wrong", as opposed to a defect of ours."""

from __future__ import annotations


class PocketNetError(ValueError):
    """Input that cannot be used; the message says what was wrong and what is accepted.

    The command line prints the message alone and exits with code 2.
    """
