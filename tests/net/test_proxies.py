"""Whose request it is: chains of proxies read from the right, and what nobody trusted has written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from relay.net.proxies import Proxies, Visitor, parse_forwarded, read_address, read_network

CLIENT = "198.51.100.7"


def proxies(*trusted: str, header: str = "x-forwarded-for") -> Proxies:
    return Proxies.of(trusted or ("10.0.0.0/8", "::1"), header)


def visitor(
    *headers: tuple[str, str], peer: str = "10.0.0.1", header: str = "x-forwarded-for", over_tls: bool = False
) -> Visitor:
    known = CIMultiDict(headers)
    return proxies(header=header).visitor(peer, "relay.test:7777", known, over_tls=over_tls)


def address(*chains: str, peer: str = "10.0.0.1") -> str:
    return visitor(*(("X-Forwarded-For", chain) for chain in chains), peer=peer).address


def test_without_proxies_the_peer_is_the_visitor_whatever_headers_say() -> None:
    headers = CIMultiDict(
        {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
    )

    assert Proxies().visitor(CLIENT, "relay.test", headers) == (CLIENT, "relay.test", False)


def test_a_strangers_headers_are_ignored() -> None:
    said = visitor(
        ("X-Forwarded-For", "1.2.3.4"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "evil.example"),
        peer=CLIENT,
    )

    assert said == (CLIENT, "relay.test:7777", False)


def test_a_trusted_proxy_names_its_client() -> None:
    assert address(CLIENT) == CLIENT


def test_what_the_client_wrote_stands_further_left_and_is_not_read() -> None:
    assert address(f"1.2.3.4, {CLIENT}") == CLIENT
    assert address(f"10.0.0.9, {CLIENT}, 10.0.0.2") == CLIENT
    assert address("1.2.3.4", f"5.6.7.8 , {CLIENT}", "10.0.0.2,10.0.0.3") == CLIENT


def test_of_a_chain_of_trusted_proxies_the_first_is_the_visitor() -> None:
    assert address("10.0.0.9, 10.0.0.2") == "10.0.0.9"


def test_without_the_header_the_peer_is_the_visitor() -> None:
    assert visitor().address == "10.0.0.1"


@pytest.mark.parametrize(
    "entry",
    ["", " ", "unknown", "_hidden", "1.2.3", "1.2.3.4.5", "1.2.3.4:x", "[::1", "host.example", "0x7f.1"],
)
def test_of_a_chain_with_an_entry_that_is_no_address_what_stands_right_of_it_counts(entry: str) -> None:
    assert address(entry) == "10.0.0.1"
    assert address(f"{CLIENT}, {entry}") == "10.0.0.1"
    assert address(f"{CLIENT}, {entry}, 10.0.0.2") == "10.0.0.2"


@pytest.mark.parametrize(
    ("entry", "known"),
    [
        ("198.51.100.7:4711", CLIENT),
        ("::ffff:198.51.100.7", CLIENT),
        ("[::ffff:c633:6407]:443", CLIENT),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
    ],
)
def test_addresses_are_read_in_every_form(entry: str, known: str) -> None:
    assert address(entry) == known


def test_a_peer_on_a_socket_for_both_families_is_known_by_its_ipv4_address() -> None:
    assert address(CLIENT, peer="::ffff:10.0.0.1") == CLIENT
    assert visitor(peer="::ffff:192.0.2.1").address == "192.0.2.1"
    assert Proxies.of(["::ffff:10.0.0.0/104"], "x-forwarded-for").trusted == (read_network("10.0.0.0/8"),)


def test_a_peer_without_an_address_is_nobody_to_trust() -> None:
    assert visitor(("X-Forwarded-For", CLIENT), peer="").address == ""


def test_a_trusted_proxy_says_by_which_name_it_was_called() -> None:
    said = visitor(("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "relay.example.com"))

    assert said == ("10.0.0.1", "relay.example.com", True)
    assert not visitor(("X-Forwarded-Proto", "http"), over_tls=True).is_secure


@pytest.mark.parametrize("host", ["", "a b", "a/b", "user@host", "[::1", "host:port", "x" * 300, 'a"b'])
def test_a_host_that_is_none_is_not_taken(host: str) -> None:
    assert visitor(("X-Forwarded-Host", host)).host == "relay.test:7777"


@pytest.mark.parametrize("scheme", ["", "ftp", "https://", "on"])
def test_a_scheme_that_is_none_changes_nothing(scheme: str) -> None:
    assert not visitor(("X-Forwarded-Proto", scheme)).is_secure
    assert visitor(("X-Forwarded-Proto", scheme), over_tls=True).is_secure


def test_x_real_ip_is_one_address() -> None:
    said = (("X-Real-IP", CLIENT), ("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-Proto", "https"))

    assert visitor(*said, header="x-real-ip") == (CLIENT, "relay.test:7777", True)
    assert visitor(*said, header="x-real-ip", peer="192.0.2.1").address == "192.0.2.1"
    assert visitor(("X-Real-IP", "nobody"), header="x-real-ip").address == "10.0.0.1"


def test_forwarded_is_read_from_the_right_too() -> None:
    said = (
        ("Forwarded", 'for=1.2.3.4;host=evil.example, For="[2001:db8::1]:4711"'),
        ("Forwarded", 'for=10.0.0.2;proto=https;by=10.0.0.1; HOST="relay.example.com:8443"'),
        ("X-Forwarded-For", "5.6.7.8"),
        ("X-Forwarded-Proto", "http"),
    )

    assert visitor(*said, header="forwarded") == ("2001:db8::1", "relay.example.com:8443", True)


@pytest.mark.parametrize(
    "forged", ['for="', 'for="1.2.3.4', "for=1.2.3.4;", ";,;,", 'host="\\', "for=1.2.3.4, =", "\x00"]
)
def test_what_a_client_breaks_in_forwarded_does_not_take_the_proxys_word_away(forged: str) -> None:
    assert visitor(("Forwarded", f"{forged}, for={CLIENT}"), header="forwarded").address == CLIENT


def test_elements_of_forwarded() -> None:
    assert parse_forwarded('for="_gazonk";By="a\\"b" ;x=1,nonsense,for=192.0.2.60;proto=http') == [
        {"for": "_gazonk", "by": 'a"b', "x": "1"},
        {},
        {"for": "192.0.2.60", "proto": "http"},
    ]


@given(st.text(max_size=60), st.sampled_from(["x-forwarded-for", "forwarded", "x-real-ip"]))
def test_no_header_makes_a_stranger_anybody_else(text: str, header: str) -> None:
    names = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded")
    headers = tuple((name, text) for name in names)

    assert visitor(*headers, peer=CLIENT, header=header) == (CLIENT, "relay.test:7777", False)


@given(st.text(max_size=60))
def test_whatever_a_client_writes_the_proxys_word_counts(text: str) -> None:
    assert address(f"{text}, {CLIENT}") == CLIENT
    assert visitor(("Forwarded", f"{text}, for={CLIENT}"), header="forwarded").address == CLIENT


@given(st.ip_addresses())
def test_an_address_is_read_as_itself(known: object) -> None:
    assert read_address(str(known)) == read_address(str(read_address(str(known))))
