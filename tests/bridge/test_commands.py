"""What people can say to the bot."""

import pytest

from bridge.commands import HELP, Explain, LinkRoom, OptIn, OptOut, Order, UnlinkRoom, parse_order

# NIP-19's example key.
NPUB = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"
HEX = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e"


@pytest.mark.parametrize(
    ("text", "order"),
    [
        (f"link {NPUB}", LinkRoom(HEX)),
        (f"  link   nostr:{NPUB} ", LinkRoom(HEX)),
        (f"link {HEX}", LinkRoom(HEX)),
        ("unlink", UnlinkRoom()),
        ("optout", OptOut()),
        ("optin", OptIn()),
        ("help", Explain(HELP)),
        ("", Explain(HELP)),
        ("dance", Explain(HELP)),
        ("unlink now", Explain(HELP)),
        ("link", Explain("Write !torv link npub1…")),
    ],
)
def test_orders_are_read(text: str, order: Order) -> None:
    assert parse_order(text) == order


def test_a_wrong_account_is_explained() -> None:
    order = parse_order("link npub1nonsense")

    assert isinstance(order, Explain)
    assert order.text.startswith("That is not a Nostr account: ")


def test_a_secret_key_is_not_taken_and_not_repeated() -> None:
    nsec = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5"

    order = parse_order(f"link {nsec}")

    assert isinstance(order, Explain)
    assert nsec not in order.text
