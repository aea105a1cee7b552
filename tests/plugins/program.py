"""A plugin for tests: behaves as its first argument says. Nothing of Torv is in it."""

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any


def requests() -> Iterator[tuple[str, Any]]:
    """Yield what is asked: what the answer has to name, and the request."""
    for line in sys.stdin:
        request = json.loads(line)
        yield request.get("id") or request["event"]["id"], request


def say(id_: str, action: str = "accept", **more: object) -> None:
    print(json.dumps({"id": id_, "action": action, **more}), flush=True)


def by_content() -> None:
    """Do what the event's content says: an action, and behind a colon the message."""
    for id_, request in requests():
        action, _, message = request["event"]["content"].partition(":")
        say(id_, action or "accept", msg=message)


def hang() -> None:
    """Read, and never answer what is to hang."""
    for id_, request in requests():
        if request["event"]["content"] != "hang":
            say(id_)


def deaf() -> None:
    """Answer the first, and read no more."""
    id_, _ = next(requests())
    say(id_)
    time.sleep(1_000)


def crash() -> None:
    """End at once when told to."""
    for id_, request in requests():
        if request["event"]["content"] == "crash":
            os._exit(7)
        say(id_)


def nonsense() -> None:
    """Say what answers nothing before each answer; to some, nothing else."""
    for id_, request in requests():
        print("not JSON")
        print('{"id":5}')
        print(json.dumps({"id": "never asked", "action": "accept"}))
        if request["event"]["content"] == "nonsense":
            say(id_, "explode")
        else:
            say(id_)


def endless() -> None:
    """Answer with a line that does not end."""
    for _ in requests():
        while True:
            sys.stdout.write("x" * 65_536)
            sys.stdout.flush()


def backwards() -> None:
    """Answer ten at a time, the last first."""
    held: list[str] = []
    for id_, _ in requests():
        held.append(id_)
        if len(held) == 10:
            while held:
                say(held.pop())


def talkative() -> None:
    """Say much on standard error."""
    for id_, _ in requests():
        print("a word to the operator\n" * 1_000, file=sys.stderr, flush=True)
        say(id_)


def environment() -> None:
    """Refuse with what of the environment it sees."""
    for id_, _ in requests():
        say(id_, "reject", msg=",".join(sorted(name for name in os.environ if name.startswith("TORV"))))


def told() -> None:
    """Refuse with what it was told, but for the event."""
    for id_, request in requests():
        del request["event"]
        say(id_, "reject", msg=json.dumps(request))


def slowly() -> None:
    """Answer one line after the other, each after a while."""
    for id_, _ in requests():
        time.sleep(0.03)
        say(id_)


def told_apart() -> None:
    """Accept what it is told no more of than the event's content names."""
    for id_, request in requests():
        content = request.pop("event")["content"]
        is_all = content == "the end" or sorted(request) == json.loads(content)
        say(id_, "accept" if is_all else "reject")


if __name__ == "__main__":
    globals()[sys.argv[1]]()
