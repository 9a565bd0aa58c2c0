"""What means "the caller's input is wrong" or "the package was not built", as opposed to a defect of ours."""

from __future__ import annotations


class PocketNetError(ValueError):
    """Input that cannot be used; the message says what was wrong and what is accepted.

    The command line prints the message alone and exits with code 2.
    """


class NotBuiltError(ImportError):
    """The package's native part is missing, as in sources that were never installed.

    The command line treats it as ``PocketNetError``.
    """
