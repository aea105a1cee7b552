"""Files to deploy Torv with: where no engine runs, they are read as one would read them."""

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_docs import check_command
from torv import TorvConfig, main, read_config

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "docs/operating/deploy"
UNIT = (DEPLOY / "torv.service").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DEFAULTS = TorvConfig.model_construct().relay


def unit(name: str) -> list[str]:
    """Return the values of a key of the unit, in order."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in joined.splitlines() if line]


def last(name: str) -> str:
    return [arguments for instruction, arguments in instructions() if instruction == name][-1]


def understood(words: list[str]) -> None:
    assert Path(words[0]).name == "torv"
    check_command(main, words[1:])


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    assert program is not None, "make test installs systemd"
    # What it starts must be there; here it is the shell's.
    copy = tmp_path / "torv.service"
    copy.write_text(UNIT.replace("/opt/torv/bin/torv", "/bin/true"))

    told = subprocess.run(
        [program, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )

    # It looks at all units of the machine; what it says of others is not ours.
    assert [line for line in told.stderr.splitlines() if "torv" in line] == []
    assert told.returncode == 0, told.stderr


def test_systemd_finds_the_unit_well_confined() -> None:
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(DEPLOY / "torv.service")],
        capture_output=True,
        text=True,
        check=False,
    )

    # 2.0 of 10, where a unit without any of it has 9.6.
    assert told.returncode == 0, told.stdout[-2000:]


def test_the_unit_starts_stops_and_reloads_what_torv_understands() -> None:
    (start,) = unit("ExecStart")
    understood(shlex.split(start))
    assert unit("ExecReload") == ["/bin/kill -HUP $MAINPID"]
    assert (unit("Type"), unit("NotifyAccess"), unit("KillMode")) == (["notify"], ["main"], ["mixed"])
    # It needs longer than Torv takes to say goodbye.
    assert int(unit("TimeoutStopSec")[0]) > DEFAULTS.timeouts.drain_seconds + 15
    assert unit("Environment") == ["TORV_DATA=/var/lib/torv"]
    assert unit("StateDirectory") == ["torv"]


def test_the_image_is_made_of_what_is_there() -> None:
    for instruction, arguments in instructions():
        if instruction == "COPY" and not arguments.startswith("--from"):
            *sources, _ = arguments.split()
            assert [source for source in sources if not (ROOT / source).exists()] == []
    copied = " ".join(arguments for instruction, arguments in instructions() if instruction == "COPY")
    named = re.findall(
        r'^(?:readme|license-files) = [^\n]*?"([^"\n]+)"', (ROOT / "pyproject.toml").read_text(), re.M
    )
    assert [name for name in named if name not in copied] == []
    stages = [arguments for instruction, arguments in instructions() if instruction == "FROM"]
    assert len(stages) == 2
    assert tuple(map(int, stages[-1].split(":")[1].split("-")[0].split("."))) >= (3, 11)


def test_the_image_runs_torv_as_nobody_in_particular(monkeypatch: pytest.MonkeyPatch) -> None:
    assert last("USER") not in ("root", "0")
    understood([*ast.literal_eval(last("ENTRYPOINT")), *ast.literal_eval(last("CMD"))])
    assert last("STOPSIGNAL") == "SIGTERM"
    for name, value in re.findall(r"(TORV_\w+)=(\S+)", last("ENV")):
        monkeypatch.setenv(name, value)
    config = read_config(None, {})
    assert str(config.data) == last("VOLUME")
    assert config.relay.host == "0.0.0.0"
    assert int(last("EXPOSE")) == config.relay.port


def test_the_image_is_asked_for_its_health_by_a_command_that_torv_understands() -> None:
    understood(ast.literal_eval(last("HEALTHCHECK").partition("CMD ")[2]))


def test_the_composition_is_of_one_relay_behind_one_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    relay, caddy = COMPOSE["services"]["relay"], COMPOSE["services"]["caddy"]
    assert (DEPLOY / relay["build"]["context"]).resolve() == ROOT
    assert (ROOT / relay["build"]["dockerfile"]).exists()
    assert relay["volumes"] == [f"data:{last('VOLUME')}"]
    assert "ports" not in relay  # only the proxy is reached from outside
    for name, value in relay["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{TORV_DOMAIN[^}]*\}", "relay.example.com", value))
    config = read_config(None, {}).relay
    assert config.url == "wss://relay.example.com"
    assert config.trusted_proxies == (
        caddy["networks"]["inside"]["ipv4_address"],
    ) or config.trusted_proxies == (caddy["networks"]["inside"]["ipv4_address"] + "/32",)
    for volume in (*relay["volumes"], *caddy["volumes"]):
        source = volume.split(":")[0]
        assert (DEPLOY / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_caddy_understands_its_file_and_asks_the_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("caddy")
    assert program is not None, "make test installs caddy"
    monkeypatch.setenv("TORV_DOMAIN", "relay.example.com")

    told = subprocess.run(
        [program, "adapt", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")],
        capture_output=True,
        text=True,
        check=True,
    )

    assert f'"dial":"relay:{DEFAULTS.port}"' in told.stdout
    assert '"host":["relay.example.com"]' in told.stdout
