"""The table of docs/nips.md, made of the features: `make nips` writes it, and a test compares."""

import ast
from pathlib import Path

from relay import features
from relay.features.nip11 import supported_nips
from tests.features.test_features import EVERYTHING, all_features

ROOT = Path(__file__).parents[2]
PATH = ROOT / "docs" / "nips.md"
_SWITCHES = {
    5: "`names`",
    43: "`members.enabled`",
    56: "`admins` or `moderation`",
    66: "`announce` and `url`",
    86: "`admins` or `moderation`",
}
_HEAD = """# The NIPs that Torv speaks

Made by `make nips` from the features themselves (`relay/features/`); a test compares. What a running relay
advertises follows from its settings in the same way, and `torv doctor` proves it.

| NIP | | what it is here | on |
|---|---|---|---|
"""
_TAIL = """
NIP-98 (HTTP authorisation) stands behind NIP-86. Of NIP-29 there is no LiveKit; of NIP-50 no extension; of
NIP-86 the granting of single methods is left to roles. What was folded into NIP-01 (12, 16, 20, 33) is not
advertised, and NIP-26 is not done.
"""


def table() -> str:
    """Return the document."""
    by_default = supported_nips(all_features())
    rows = []
    for feature in sorted(all_features(EVERYTHING), key=lambda feature: feature.nip or 0):
        if feature.nip is None:
            continue
        file = Path(features.__file__).parent / f"nip{feature.nip:02}.py"
        said = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].replace("\n", " ")
        what = said.removeprefix(f"NIP-{feature.nip:02}: ")
        on = "by default" if feature.nip in by_default else f"with {_SWITCHES[feature.nip]}"
        rows.append(f"| {feature.nip} | {feature.title} | {what[0].upper()}{what[1:]} | {on} |\n")
    return f"{_HEAD}{''.join(rows)}{_TAIL}"


if __name__ == "__main__":
    PATH.write_text(table())
