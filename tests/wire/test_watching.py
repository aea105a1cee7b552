"""What an operator sees of a running relay: metrics, who is connected, slow questions, and is it well."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.serving import ROOT, UNLIMITED, Served, TorvServe
from tests.wire.client import dial, new_key, note
from tests.wire.test_http import metrics, request
from tests.wire.test_proxies import free_port

DASHBOARD = ROOT / "docs/operating/grafana.json"
RULES = ROOT / "docs/operating/prometheus-rules.yml"
_NAME = re.compile(r"\btorv_[a-z_]+")
_KNOWN_LABEL = re.compile(r'(\w+)(?:=~|!=|!~|=)"')


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def watched(_serving: TorvServe, port: int) -> Served:
    return _serving(
        f'[relay]\nmetrics = "off"\nmetrics_listen = "127.0.0.1:{port}"\nlog_slow_queries_ms = 1\n{UNLIMITED}'
    )


def torv(served: Served, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command on the relay's folder and configuration."""
    config = served.command[served.command.index("--config") + 1]
    return subprocess.run(
        [sys.executable, "-m", "torv", "relay", *words, "--config", config, "--data", str(served.data)],
        cwd=ROOT,
        env={**served.environment, "TORV_PORT": str(served.port)},
        capture_output=True,
        text=True,
        timeout=60,
    )


async def top(served: Served) -> dict[str, Any]:
    done = await asyncio.to_thread(torv, served, "top", "--once", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def exposed(port: int) -> str:
    status, _, body = request(f"http://127.0.0.1:{port}/metrics")
    assert status == 200
    return body


def queries() -> list[str]:
    """Return every PromQL expression of the dashboard and of the alerts."""
    board = json.loads(DASHBOARD.read_text())
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    alerts = re.findall(r"^ +expr: (.+)$", RULES.read_text(), re.MULTILINE)
    assert len(panels) > 15 and len(alerts) > 5
    return panels + alerts


async def test_the_dashboard_and_the_alerts_ask_for_what_there_is(watched: Served, port: int) -> None:
    async with dial(watched.url) as wire:
        await wire.publish(note(new_key()))
        await wire.query({"limit": 1})
    samples: dict[str, set[str]] = {}
    for line in exposed(port).splitlines():
        if not line.startswith("#"):
            name, _, rest = line.partition(" ")[0].partition("{")
            samples.setdefault(name, set()).update(re.findall(r'(\w+)="', rest))

    for query in queries():
        names = _NAME.findall(query)
        assert names, query
        assert set(names) <= samples.keys(), query
        known = {"job", "instance", "relay"}.union(*(samples[name] for name in names))
        assert {
            label for labels in re.findall(r"\{([^}]*)\}", query) for label in _KNOWN_LABEL.findall(labels)
        } <= known
        for labels in re.findall(r"\bby \(([^)]*)\)", query):
            assert set(re.split(r", *", labels)) <= known, query


async def test_metrics_can_be_for_others_than_everybody(watched: Served, port: int) -> None:
    assert request(watched.http + "/metrics")[0] == 404
    assert request(f"http://127.0.0.1:{port}/")[0] == 404
    assert request(f"http://127.0.0.1:{port}/metrics", method="POST")[0] == 404
    assert "torv_info" in exposed(port)


async def test_metrics_tell_what_the_machine_gives(relay: Served) -> None:
    async with dial(relay.url) as wire:
        await wire.publish(note(new_key()))
        await wire.query({"limit": 1})

    found = await asyncio.to_thread(metrics, relay)

    for name in ("torv supervisor", "torv writer", "torv worker 0", "torv worker 1", "torv indexer"):
        assert found[f'torv_process_memory_bytes{{process="{name}"}}'] > 2**20
        assert found[f'torv_process_open_files{{process="{name}"}}'] > 2
        assert found[f'torv_process_cpu_seconds_total{{process="{name}"}}'] >= 0
    assert found['torv_file_bytes{file="torv.sqlite3"}'] > 0
    assert found['torv_file_bytes{file="torv.sqlite3-wal"}'] > 0
    assert found['torv_write_seconds_bucket{le="+Inf"}'] == found["torv_write_seconds_count"] > 0
    assert found["torv_question_seconds_count"] > 0
    assert found["torv_verifying_seconds_total"] > 0


async def test_top_shows_connections_of_all_workers_and_kick_ends_one(watched: Served) -> None:
    key = new_key()
    async with dial(watched.url) as wire:
        await wire.authenticate(key)
        await wire.publish(note(key))
        await wire.subscribe({"authors": [key.public], "kinds": [1]}, name="mine")

        (mine,) = (one for one in (await top(watched))["connections"] if one["keys"] == [key.public[:8]])

        assert mine["address"] == "127.0.0.1"
        assert mine["subscriptions"] == [[{"authors": 1, "kinds": [1], "limit": 500}]]
        assert (mine["events_in"], mine["events_out"]) == (1, 1)
        assert (await asyncio.to_thread(torv, watched, "kick", "0-999999")).returncode == 1
        assert (await asyncio.to_thread(torv, watched, "kick", mine["id"])).returncode == 0
        with pytest.raises(ConnectionClosed) as closed:
            await wire.receive()

    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "disconnected by the operator")
    shown = await asyncio.to_thread(torv, watched, "top", "--once")
    assert re.match(r"\d+ connections \(worker 0: \d+, worker 1: \d+\)\n", shown.stdout)


async def test_slow_questions_are_in_the_log_and_in_top(watched: Served) -> None:
    many = [f"{n:064x}" for n in range(3_000)]
    async with dial(watched.url) as wire:
        await wire.query({"authors": many, "kinds": [1]})

    (query, *_) = (
        query for query in (await top(watched))["slow_queries"] if query["filters"][0].get("authors") == 3_000
    )

    assert query["ms"] >= 1
    assert "authors:3000 kinds:1 limit:500" in watched.log.read_text()


def test_the_control_sockets_are_their_owners_alone(watched: Served) -> None:
    sockets = sorted(watched.data.glob("worker-*.sock"))

    assert [path.name for path in sockets] == ["worker-0.sock", "worker-1.sock"]
    assert {path.stat().st_mode & 0o777 for path in sockets} == {0o600}


def test_a_healthcheck_says_whether_the_relay_is_ready(watched: Served, tmp_path: Path) -> None:
    assert torv(watched, "healthcheck").returncode == 0

    nobody = [sys.executable, "-m", "torv", "relay", "healthcheck", "--json"]
    environment = {**watched.environment, "TORV_PORT": str(free_port())}
    done = subprocess.run(nobody, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "does not answer" in json.loads(done.stdout)["error"]
    nobody[4:] = ["top", "--json", "--data", str(tmp_path)]
    done = subprocess.run(nobody, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "no relay runs on this folder" in done.stdout) == (1, True)
