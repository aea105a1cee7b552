"""A real Synapse on loopback, and the people who use it."""

import hmac
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

SYNAPSE_PYTHON = Path(__file__).parents[3] / ".peers" / "synapse" / "bin" / "python"
SERVER_NAME = "square.test"
START_SECONDS = 90
WAIT_SECONDS = 30

Json = dict[str, Any]


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class MatrixError(Exception):
    """The homeserver said no."""

    def __init__(self, status: int, body: Json) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.code = body.get("errcode")


class Homeserver:
    """One Synapse process and its folder."""

    def __init__(self, folder: Path, registration: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._secret = "only loopback sees this server"
        self._process: subprocess.Popen[bytes] | None = None
        self._write_configuration(registration)

    def _write_configuration(self, registration: Path) -> None:
        fast = {"per_second": 10_000, "burst_count": 10_000}
        log_config = {
            "version": 1,
            "handlers": {"file": {"class": "logging.FileHandler", "filename": f"{self.folder}/log"}},
            "root": {"level": "WARNING", "handlers": ["file"]},
            "disable_existing_loggers": False,
        }
        config = {
            "server_name": SERVER_NAME,
            "pid_file": f"{self.folder}/pid",
            "listeners": [
                {
                    "port": self.port,
                    "type": "http",
                    "tls": False,
                    "bind_addresses": ["127.0.0.1"],
                    "resources": [{"names": ["client", "media"], "compress": False}],
                }
            ],
            "database": {"name": "sqlite3", "args": {"database": f"{self.folder}/homeserver.db"}},
            "log_config": f"{self.folder}/log.yaml",
            "media_store_path": f"{self.folder}/media",
            "signing_key_path": f"{self.folder}/signing.key",
            "registration_shared_secret": self._secret,
            "macaroon_secret_key": "x" * 32,
            "form_secret": "y" * 32,
            "report_stats": False,
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "federation_domain_whitelist": [],
            "presence": {"enabled": False},
            "url_preview_enabled": False,
            "bcrypt_rounds": 4,
            "app_service_config_files": [str(registration)],
            "rc_message": fast,
            "rc_registration": fast,
            "rc_room_creation": fast,
            "rc_login": {"address": fast, "account": fast, "failed_attempts": fast},
            "rc_joins": {"local": fast, "remote": fast},
            "rc_invites": {"per_room": fast, "per_user": fast, "per_issuer": fast},
        }
        # JSON is YAML.
        (self.folder / "log.yaml").write_text(json.dumps(log_config))
        (self.folder / "homeserver.yaml").write_text(json.dumps(config))

    def generate_keys(self) -> None:
        """Make the signing key."""
        self._synapse_command("--generate-keys", check=True)

    def _synapse_command(self, *more: str, check: bool) -> None:
        command = [str(SYNAPSE_PYTHON), "-m", "synapse.app.homeserver"]
        command += ["-c", str(self.folder / "homeserver.yaml")]
        subprocess.run([*command, *more], check=check, cwd=self.folder, capture_output=True)

    def start(self) -> None:
        """Start it and return when it answers."""
        with (self.folder / "stdout").open("ab") as output:
            self._process = subprocess.Popen(
                [SYNAPSE_PYTHON, "-m", "synapse.app.homeserver", "-c", self.folder / "homeserver.yaml"],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "stdout").read_text()[-2000:]) from None
                # Synapse has no other sign of being ready.
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop it gracefully."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(WAIT_SECONDS)
            self._process = None

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def register(self, name: str) -> "Person":
        """Make an account, log it in and return it."""
        path = "/_synapse/admin/v1/register"
        nonce = request(self.url, "GET", path)["nonce"]
        fields = [nonce, name, "password", "notadmin"]
        mac = hmac.new(self._secret.encode(), "\0".join(fields).encode(), sha1).hexdigest()
        body = {"nonce": nonce, "username": name, "password": "password", "admin": False, "mac": mac}
        made = request(self.url, "POST", path, body)
        return Person(self.url, made["user_id"], made["access_token"])


def request(url: str, method: str, path: str, body: Json | None = None, token: str | None = None) -> Json:
    """Make one request of the client-server API. Raises MatrixError."""
    asked = urllib.request.Request(f"{url}{path}", method=method)
    if body is not None or method in ("POST", "PUT"):
        asked.data = json.dumps(body or {}).encode()
        asked.add_header("Content-Type", "application/json")
    if token is not None:
        asked.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            found: Json = json.loads(answer.read())
            return found
    except urllib.error.HTTPError as error:
        with error:
            raise MatrixError(error.code, json.loads(error.read())) from None


@dataclass
class Person:
    """Somebody's logged-in Matrix client."""

    url: str
    id: str
    token: str
    _next: int = field(default=0)

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """Make a request below /_matrix/client/v3."""
        return request(self.url, method, f"/_matrix/client/v3{path}", body, self.token)

    def show_name(self, name: str) -> None:
        """Set the display name."""
        self.call("PUT", f"/profile/{quote(self.id)}/displayname", {"displayname": name})

    def create_room(self, *, visibility: str | None = "world_readable", **more: Any) -> str:
        """Make a room that anybody may join, read as `visibility` says, and return its id."""
        state = []
        if visibility is not None:
            content = {"history_visibility": visibility}
            state.append({"type": "m.room.history_visibility", "state_key": "", "content": content})
        body = {"preset": "public_chat", "initial_state": state, **more}
        return str(self.call("POST", "/createRoom", body)["room_id"])

    def join(self, room: str) -> None:
        """Enter a room."""
        self.call("POST", f"/join/{quote(room)}")

    def invite(self, room: str, user_id: str) -> None:
        """Invite somebody."""
        self.call("POST", f"/rooms/{quote(room)}/invite", {"user_id": user_id})

    def say(self, room: str, text: str, **more: Any) -> str:
        """Send a text message and return its id."""
        self._next += 1
        content = {"msgtype": "m.text", "body": text, **more}
        path = f"/rooms/{quote(room)}/send/m.room.message/{self._next}"
        return str(self.call("PUT", path, content)["event_id"])

    def react(self, room: str, event_id: str, key: str) -> str:
        """Put a mark on a message and return the reaction's id."""
        self._next += 1
        content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": key}}
        path = f"/rooms/{quote(room)}/send/m.reaction/{self._next}"
        return str(self.call("PUT", path, content)["event_id"])

    def redact(self, room: str, event_id: str) -> None:
        """Take a message back."""
        self._next += 1
        self.call("PUT", f"/rooms/{quote(room)}/redact/{quote(event_id)}/{self._next}")

    def set_state(self, room: str, type_: str, content: Json) -> None:
        """Set a state event with an empty key."""
        self.call("PUT", f"/rooms/{quote(room)}/state/{type_}/", content)

    def messages(self, room: str) -> list[Json]:
        """Return all events of a room's timeline, oldest first."""
        found: list[Json] = []
        since = ""
        while True:
            query = urlencode({"dir": "f", "limit": "100", **({"from": since} if since else {})})
            page = self.call("GET", f"/rooms/{quote(room)}/messages?{query}")
            found += page["chunk"]
            if not page.get("end") or not page["chunk"]:
                return found
            since = page["end"]

    def texts(self, room: str, sender: str | None = None) -> list[str]:
        """Return the bodies of a room's messages, oldest first; of one sender if given."""
        return [
            event["content"]["body"]
            for event in self.messages(room)
            if event["type"] == "m.room.message"
            and "body" in event["content"]
            and sender in (None, event["sender"])
        ]

    @contextmanager
    def reading(self, room: str) -> Iterator["Timeline"]:
        """Follow a room from now on."""
        yield Timeline(self, room, self.call("GET", "/sync?timeout=0")["next_batch"])


class Timeline:
    """A room as it grows, by long-polling /sync."""

    def __init__(self, person: Person, room: str, since: str) -> None:
        self._person = person
        self._room = room
        self._since = since
        self.seen: list[Json] = []

    def until(self, wanted: Any, *, seconds: float = WAIT_SECONDS) -> Json:
        """Wait for an event that `wanted(event)` accepts, also among those seen before; return it."""
        deadline = time.monotonic() + seconds
        start = 0
        while True:
            for event in self.seen[start:]:
                if wanted(event):
                    return event
            start = len(self.seen)
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s; seen: {self.seen}")
            path = f"/sync?{urlencode({'since': self._since, 'timeout': '1000'})}"
            try:
                synced = self._person.call("GET", path)
            except (OSError, MatrixError):
                # The homeserver is being restarted by the test.
                time.sleep(0.1)
                continue
            self._since = synced["next_batch"]
            joined = synced.get("rooms", {}).get("join", {}).get(self._room)
            if joined:
                self.seen += joined["timeline"]["events"]

    def until_text(self, text: str, *, seconds: float = WAIT_SECONDS) -> Json:
        """Wait for a message that contains a text."""
        return self.until(lambda event: text in str(event["content"].get("body", "")), seconds=seconds)


def environment() -> dict[str, str]:
    """Return the environment without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TORV_")}
