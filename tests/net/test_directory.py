"""Which relay a request is for."""

import pytest

from relay.net.directory import Directory, host_of


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("relay.example.com", "relay.example.com"),
        ("Relay.Example.COM:7777", "relay.example.com"),
        ("relay.example.com.", "relay.example.com"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:7777", "::1"),
        ("[::1]", "::1"),
        ("", ""),
        (":", ""),
        ("[", ""),
    ],
)
def test_a_host_header_is_read_as_a_name(header: str, host: str) -> None:
    assert host_of(header) == host


@pytest.mark.parametrize(
    ("host", "path", "found"),
    [
        ("a.test", "/", "a"),
        ("A.TEST:7777", "/", "a"),
        ("aa.test", "/", "a"),
        ("a.test", "/inner", "inner"),
        ("a.test", "/metrics", "a"),
        ("a.test", "/inner/metrics", "a"),
        ("b.test", "/nostr", "b"),
        ("b.test", "/", "b"),
        ("c.test", "/", "rest"),
        ("", "/", "rest"),
        ("a.test.evil", "/", "rest"),
    ],
)
def test_a_request_is_for_one_relay(host: str, path: str, found: str) -> None:
    directory = Directory(
        [
            ((), "/", "rest"),
            (("a.test", "aa.test"), "/", "a"),
            (("a.test",), "/inner", "inner"),
            (("b.test",), "/nostr", "b"),
        ]
    )

    assert directory.find(host, path) == found


def test_without_a_relay_for_all_others_unknown_hosts_find_none() -> None:
    directory = Directory([(("a.test",), "/", "a")])

    assert directory.find("b.test", "/") is None
    assert directory.find("", "/") is None
