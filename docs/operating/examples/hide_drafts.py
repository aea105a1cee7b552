#!/usr/bin/env python3
"""A read plugin: shows drafts to their authors only, and what has a content warning to who proved a key."""

import json
import sys

for line in sys.stdin:
    request = json.loads(line)
    event, reader = request["event"], request["authed"]
    is_shown = True
    if event["kind"] == 31234:
        is_shown = event["pubkey"] in reader
    elif any(tag[:1] == ["content-warning"] for tag in event["tags"]):
        is_shown = bool(reader)
    print(json.dumps({"id": request["id"], "action": "accept" if is_shown else "reject"}), flush=True)
