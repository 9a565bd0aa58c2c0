"""The systemd unit and the Containerfile: as far as they can be checked where neither is run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from fake_service import FakeService

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "server" / "deploy" / "pocketnet-server.service"
CONTAINERFILE = ROOT / "server" / "deploy" / "Containerfile"
# Of the hundred points that systemd gives for what a service may do.
MOST_EXPOSURE = 15


def analyze(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze; `apt install systemd`")
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_unit_is_valid(tmp_path: Path) -> None:
    """Each line is one that systemd knows; the program, which is not installed here, is another's."""
    unit = tmp_path / UNIT.name
    text = UNIT.read_text()
    assert text.count("/usr/local/bin/pocketnet_server ") == 1
    unit.write_text(text.replace("/usr/local/bin/pocketnet_server ", "/bin/true "))
    done = analyze("verify", "--man=no", unit)
    assert done.returncode == 0, done.stderr
    # An unknown or malformed line is a warning that names the file.
    assert unit.name not in done.stderr, done.stderr


def test_unknown_lines_would_be_seen(tmp_path: Path) -> None:
    unit = tmp_path / "other.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nProtectEverything=yes\n")
    assert "ProtectEverything" in analyze("verify", "--man=no", unit).stderr


def test_unit_exposes_little() -> None:
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSURE}", UNIT)
    assert done.returncode == 0, done.stdout
    assert "Overall exposure level" in done.stdout


def test_unit_keeps_what_it_promises() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    assert "--tokens %d/tokens" in settings["ExecStart"] and settings["LoadCredential"].startswith("tokens:")
    assert settings["LimitCORE"] == "0"
    # Ended by force only after the server has drained.
    assert int(settings["TimeoutStopSec"].removesuffix("s")) > 30


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions, continued lines joined."""
    text = re.sub(r"^#.*\n", "", CONTAINERFILE.read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    return [(name, rest) for name, rest in pairs]


def test_container_installs_packages_that_exist() -> None:
    if shutil.which("apt-cache") is None:
        pytest.skip("no apt-cache: this is no Debian")
    if "bookworm" not in Path("/etc/os-release").read_text():
        pytest.skip("this is another Debian than the container's")
    packages = []
    for name, rest in instructions():
        if name == "RUN" and "apt-get install" in rest:
            words = shlex.split(rest.split("apt-get install")[1].split("&&")[0])
            packages += [word for word in words if not word.startswith("-")]
    assert len(packages) > 15
    done = subprocess.run(["apt-cache", "madison", *packages], capture_output=True, text=True, check=False)
    known = {line.split("|")[0].strip() for line in done.stdout.splitlines()}
    if not known:
        pytest.skip("apt has no index; `apt-get update`")
    assert set(packages) - known == set()


def test_container_has_what_it_names() -> None:
    named = instructions()
    stages = [rest for name, rest in named if name == "FROM"]
    assert [stage.split()[0] for stage in stages] == ["debian:bookworm-slim"] * 2
    # What the last stage copies, the first one made.
    made = " ".join(rest for name, rest in named if name == "RUN")
    for name, rest in named:
        if name == "COPY" and rest.startswith("--from=build"):
            source = rest.split()[1]
            folder = "/out/" if source != "/out/lib/" else "/out/lib"
            assert source in made or folder in made, rest
    assert ("COPY", ". .") in named
    (target,) = [
        rest.removeprefix("make ") for name, rest in named if name == "RUN" and rest.startswith("make ")
    ]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_container_is_not_root_and_needs_a_token() -> None:
    named = dict(instructions())
    user, group = named["USER"].split(":")
    assert int(user) > 0 and int(group) > 0
    command = json.loads(named["ENTRYPOINT"])
    assert command[command.index("--host") + 1] == "0.0.0.0"
    assert "--tokens" in command
    assert re.search(r"token|password|secret", named["ENV"], re.IGNORECASE) is None


@pytest.mark.parametrize("healthy", [True, False])
def test_container_health_check(healthy: bool) -> None:
    """The command itself, against a service that is ready, and against none."""
    (rest,) = [rest for name, rest in instructions() if name == "HEALTHCHECK"]
    command = json.loads(rest.split("CMD", 1)[1])
    if not Path(command[0]).exists():
        pytest.skip(f"no {command[0]}")
    with FakeService() as service:
        port = service.port
        if healthy:
            command[2] = command[2].replace("/8080", f"/{port}").replace("/readyz", "/healthz")
            assert subprocess.run(command, check=False, timeout=10).returncode == 0
            command[2] = command[2].replace("/healthz", "/nothing")
            assert subprocess.run(command, check=False, timeout=10).returncode == 1, "404 is not ready"
    if not healthy:
        command[2] = command[2].replace("/8080", f"/{port}")
        environment = {"PATH": os.environ["PATH"]}
        done = subprocess.run(command, check=False, timeout=10, env=environment, stderr=subprocess.DEVNULL)
        assert done.returncode != 0
