#!/usr/bin/env python3
"""A write plugin: refuses notes with invite links, and quietly drops what one author repeats."""

import json
import sys

last_content: dict[str, str] = {}

for line in sys.stdin:
    request = json.loads(line)
    if request["type"] != "new":
        print("unexpected request type", file=sys.stderr)  # appears in the relay's log
        continue
    event = request["event"]
    answer = {"id": event["id"], "action": "accept"}
    if "https://t.me/" in event["content"]:
        answer |= {"action": "reject", "msg": "blocked: no invites, please"}
    elif event["kind"] == 1 and last_content.get(event["pubkey"]) == event["content"]:
        answer["action"] = "shadowReject"
    last_content[event["pubkey"]] = event["content"]
    print(json.dumps(answer), flush=True)
