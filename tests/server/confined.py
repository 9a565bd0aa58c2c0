"""Run a program under the system calls that the systemd unit leaves, and without new machine code.

    python confined.py PROGRAM ARGUMENTS...

The unit needs systemd as the first process. Its filter is read here from the unit and from systemd's own sets
of system calls, and laid on by libseccomp, as systemd does.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

UNIT = Path(__file__).resolve().parents[2] / "server" / "deploy" / "pocketnet-server.service"

# linux/prctl.h and seccomp.h
PR_SET_NO_NEW_PRIVS = 38
PR_SET_MDWE = 65
ACT_ALLOW = 0x7FFF0000
ACT_ERRNO = 0x00050000


def calls_of(name: str) -> set[str]:
    """The system calls of one of systemd's sets, sets inside it resolved."""
    command = ["systemd-analyze", "syscall-filter", name]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found: set[str] = set()
    for entry in map(str.strip, lines[1:]):
        if entry.startswith("@"):
            found |= calls_of(entry)
        elif entry and not entry.startswith("#"):
            found.add(entry)
    return found


def allowed_calls() -> set[str]:
    """What the unit's SystemCallFilter lines leave."""
    allowed = calls_of("@default")
    for line in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        named = set().union(*(calls_of(name) for name in line.lstrip("~").split()))
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


def obstacle() -> str | None:
    """Why this cannot be done here."""
    if ctypes.util.find_library("seccomp") is None:
        return "no libseccomp; `apt install libseccomp2`"
    # Asked, not set: a kernel that knows it answers with what is set.
    if ctypes.CDLL(None).prctl(PR_SET_MDWE + 1, 0, 0, 0, 0) < 0:
        return "this kernel cannot refuse new machine code"
    return None


def confine() -> None:
    """Take from this process what the unit takes."""
    seccomp = ctypes.CDLL(ctypes.util.find_library("seccomp"))
    seccomp.seccomp_init.restype = ctypes.c_void_p
    libc = ctypes.CDLL(None)
    context = ctypes.c_void_p(seccomp.seccomp_init(ACT_ERRNO | errno.EPERM))
    for name in allowed_calls():
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0 and seccomp.seccomp_rule_add(context, ACT_ALLOW, number, 0) != 0:
            raise SystemExit(f"no filter for {name}")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_MDWE, 1, 0, 0, 0):
        raise SystemExit("the kernel refuses to confine this process")
    if seccomp.seccomp_load(context) != 0:
        raise SystemExit("the kernel refuses the filter")


if __name__ == "__main__":
    confine()
    os.execv(sys.argv[1], sys.argv[1:])
