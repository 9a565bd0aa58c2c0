"""Runs commands of `pocketnet`, and blocks of pages, in children of a process that has imported torch.

Importing torch takes two seconds, which a page of ten commands would wait for ten times. As a program with a
socket's path this serves; a client at the same path runs one command and ends with its exit code:

    python command_server.py SOCKET                       # the server, until its input ends
    python -S -E command_server.py SOCKET pocketnet ...   # a command
    python -S -E command_server.py SOCKET python ...      # Python's -c, -m and -
    python -S -E command_server.py SOCKET page STEPS      # the steps of a page, a JSON file
"""

import contextlib
import json
import os
import socket
import sys

_STREAMS = 3
_HEAD = 8


def ask(path: str, arguments: list[str]) -> int:
    """Run a command with this process's streams, folder and environment; returns its exit code."""
    folder = os.getcwd()  # noqa: PTH109 - importing pathlib would take as long as all of this
    request = json.dumps({"arguments": arguments, "folder": folder, "environment": {**os.environ}}).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [len(request).to_bytes(_HEAD, "little")], [0, 1, 2])
        server.sendall(request)
        answer = server.recv(1)
    return answer[0] if answer else 125


def serve(path: str) -> None:
    """Answer until the input ends."""
    import threading

    import pocketnet_fast.cli.main
    import pocketnet_fast.export.torchscript
    import pocketnet_fast.faces.analyzer
    import pocketnet_fast.lowering.compiled  # noqa: F401

    # A thread would not be there in a child; this one waits for the input alone.
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(8)
        print("ready", flush=True)
        while True:
            client, _ = listening.accept()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if os.fork() == 0:
                listening.close()
                _answer(client)
            client.close()


def _answer(client: socket.socket) -> None:
    code = 125
    try:
        head, streams, _, _ = socket.recv_fds(client, _HEAD, _STREAMS)
        length = int.from_bytes(head, "little")
        content = b""
        while len(content) < length:
            content += client.recv(length - len(content))
        request = json.loads(content)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        # What is buffered, and whether it can seek, is of the streams that the server began with.
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        code = _run(request["arguments"])
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        client.sendall(bytes([code]))
        os._exit(code)


def _run(arguments: list[str]) -> int:
    import traceback

    try:
        if arguments[0] == "page":
            _run_page(arguments[1])
        elif arguments[0] == "python":
            _run_python(arguments[1:])
        else:
            from pocketnet_fast.cli.main import main

            sys.argv = arguments
            main()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _run_python(arguments: list[str]) -> None:
    import runpy

    kind, *others = arguments
    if kind == "-m":
        sys.argv = others
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif kind in ("-c", "-"):
        sys.argv = [kind, *others[kind == "-c" :]]
        exec(others[0] if kind == "-c" else sys.stdin.read(), {"__name__": "__main__"})
    else:
        os.execv(sys.executable, [sys.executable, *arguments])


def _run_page(steps: str) -> None:
    """Carry out steps: {"language", "where", "code"} and of a console "expected" outputs."""
    import pathlib

    namespace = {"__name__": "__main__"}
    sys.path.insert(0, "")
    for step in json.loads(pathlib.Path(steps).read_text(encoding="utf-8")):
        where = step["where"]
        print(f"--- {where}", flush=True)
        if step["language"] == "python":
            # Numbers of lines are the page's.
            code = "\n" * (int(where.rpartition(":")[2]) - 1) + step["code"]
            exec(compile(code, where.rpartition(":")[0], "exec"), namespace)
        elif step["language"] == "console":
            _run_console(step["code"], where)
        else:
            _shell(step["code"], where, None)


def _run_console(code: str, where: str) -> None:
    """Run what stands behind `$`; what it prints must be the lines below, in which ... is any text."""
    import re

    for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        while command.endswith("\\"):
            more, _, expected = expected.partition("\n")
            command = f"{command[:-1]}{more}"
        printed = _shell(command, where, -1)
        pattern = ".*?".join(re.escape(" ".join(piece.split())) for piece in expected.split("..."))
        if re.fullmatch(pattern.replace(r"\ ", r"\s*"), " ".join(printed.split())) is None:
            print(f"{where}: {command}\nprinted:\n{printed}\nwhere the page says:\n{expected}")
            sys.exit(1)


def _shell(code: str, where: str, stdout: "int | None") -> str:
    import subprocess

    script = f"set -e -o pipefail\n{code}"
    done = subprocess.run(["bash", "-c", script], stdout=stdout, text=True, check=False)
    if done.returncode != 0:
        print(f"{where}: exit code {done.returncode}\n{done.stdout or ''}")
        sys.exit(1)
    return done.stdout or ""


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
