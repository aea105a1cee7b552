"""Relay URLs in one form."""

import pytest

from relay.nostr.urls import normalize


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("wss://relay.example.com", "wss://relay.example.com/"),
        ("WSS://Relay.Example.COM/", "wss://relay.example.com/"),
        (" wss://relay.example.com:443/\n", "wss://relay.example.com/"),
        ("ws://relay.example.com:80", "ws://relay.example.com/"),
        ("ws://relay.example.com:443", "ws://relay.example.com:443/"),
        ("wss://relay.example.com:8443/", "wss://relay.example.com:8443/"),
        ("wss://relay.example.com./", "wss://relay.example.com/"),
        ("wss://relay.example.com/Path/?Query=1#part", "wss://relay.example.com/Path/?Query=1"),
        ("wss://user:secret@relay.example.com", "wss://relay.example.com/"),
        ("ws://[2001:DB8::1]:7777", "ws://[2001:db8::1]:7777/"),
        ("ws://127.0.0.1:7777", "ws://127.0.0.1:7777/"),
    ],
)
def test_one_relay_has_one_form(url: str, normal: str) -> None:
    assert normalize(url) == normal
    assert normalize(normal) == normal


@pytest.mark.parametrize(
    "url",
    [
        "",
        "relay.example.com",
        "https://relay.example.com",
        "wss://",
        "wss:///path",
        "wss://:443",
        "wss://.",
        "wss://relay.example.com:port",
        "wss://relay.example.com:70000",
        "ws://[::1",
        "ws://[x]",
        "ALL_RELAYS",
    ],
)
def test_what_is_no_relays_url_has_none(url: str) -> None:
    assert normalize(url) is None
