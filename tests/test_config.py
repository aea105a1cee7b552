"""The configuration: file, environment and command line, and every mistake in one report."""

import tomllib
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, SecretStr

from relay.settings import (
    ConfigError,
    Settings,
    Table,
    changes,
    differences,
    example,
    keeping_fixed,
    load,
)
from tests.events import ALICE
from torv import SHORT_NAMES, TorvConfig, bridge_environment, read_config

ROOT = Path(__file__).parent.parent
NPUB = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"
NPUB_HEX = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e"


class BottleConfig(Table):
    """[bottle]: what the tests need beside Torv's own settings."""

    message: SecretStr = Field(description="A secret.", examples=["…"])
    open: bool = Field(False, description="Whether it is open.")


class BottledConfig(Settings):
    bottle: Annotated[BottleConfig | None, Field(description="Off when absent.")] = None


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "HOST", "PORT", "DATA", "WORKERS"):
        monkeypatch.delenv(f"TORV_{name}", raising=False)


def read(text: str = "", folder: Path | None = None, **overrides: object) -> TorvConfig:
    file = None
    if folder is not None:
        file = folder / "torv.toml"
        file.write_text(text)
    dotted = {name.replace("__", "."): value for name, value in overrides.items()}
    return load(TorvConfig, file=file, overrides=dotted, short_names=SHORT_NAMES)


def mistakes(text: str, folder: Path, **overrides: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text, folder, **overrides)
    return [str(mistake).replace(f"{folder}/", "") for mistake in caught.value.mistakes]


def test_nothing_at_all_is_a_configuration() -> None:
    config = read()

    assert config.data == Path("data")
    assert (config.relay.host, config.relay.port, config.relay.workers) == ("127.0.0.1", 7777, 0)
    assert config.relay.limits.max_filters == 20
    assert config.bridge.matrix is None


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORV_RELAY__NAME", "from the environment")
    monkeypatch.setenv("TORV_RELAY__PORT", "2000")
    text = '[relay]\nname = "from the file"\nport = 1000\ndescription = "from the file"'

    config = read(text, tmp_path, relay__port=3000)

    assert config.relay.description == "from the file"
    assert config.relay.name == "from the environment"
    assert config.relay.port == 3000


def test_an_override_of_none_overrides_nothing(tmp_path: Path) -> None:
    assert read("[relay]\nport = 1000", tmp_path, relay__port=None).relay.port == 1000


def test_variables_have_short_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORV_HOST", "::1")
    monkeypatch.setenv("TORV_PORT", "0")
    monkeypatch.setenv("TORV_DATA", "/srv/torv")
    monkeypatch.setenv("TORV_WORKERS", "3")

    config = read()

    assert (config.relay.host, config.relay.port, config.relay.workers) == ("::1", 0, 3)
    assert config.data == Path("/srv/torv")


def test_the_long_name_of_a_variable_wins_over_the_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORV_PORT", "1000")
    monkeypatch.setenv("TORV_RELAY__PORT", "2000")

    assert read().relay.port == 2000


@pytest.mark.parametrize("text", [f'["{NPUB}", "{ALICE.public}"]', f"{NPUB}, {ALICE.public}"])
def test_a_list_in_a_variable_is_json_or_has_commas(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORV_RELAY__ADMINS", text)

    assert read().relay.admins == (NPUB_HEX, ALICE.public)


def test_variables_reach_tables_that_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORV_BRIDGE__MATRIX__HOMESERVER", "http://127.0.0.1:8008")
    monkeypatch.setenv("TORV_BRIDGE__MATRIX__SERVER_NAME", "example.org")

    matrix = read().bridge.matrix

    assert matrix is not None
    assert matrix.server_name == "example.org"


def test_all_mistakes_stand_in_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORV_RELAY__WORKERS", "several")
    monkeypatch.setenv("TORV_PROT", "1000")
    text = """
dta = "x"

[relay]
prot = 1
admins = ["npub1oops"]
max_limit = 3

[relay.limits]
max_filters = 0
max_age_seconds = true

[log]
level = "loud"
"""

    found = mistakes(text, tmp_path, relay__port=70000)

    assert set(found) == {
        "environment variable TORV_PROT: unknown setting\n    Did you mean TORV_PORT?",
        "torv.toml:2: dta: unknown setting\n    Did you mean data?",
        "torv.toml:5: relay.prot: unknown setting\n    Did you mean relay.port?",
        "torv.toml:7: relay.max_limit: unknown setting\n    Did you mean relay.limits.max_limit?",
        (
            "torv.toml:6: relay.admins[0]: expected npub1… or 64 lowercase hex digits: not bech32 text, "
            "or its checksum is wrong, found 'npub1oops'\n"
            "    Keys (npub or hex) that may administer the relay."
        ),
        (
            "torv.toml:10: relay.limits.max_filters: expected at least 1, found 0\n"
            "    Filters in one REQ or COUNT."
        ),
        (
            "torv.toml:11: relay.limits.max_age_seconds: expected an integer, found 'true'\n"
            "    How old an event may be when it arrives, in seconds; unset: any age."
        ),
        (
            "torv.toml:14: log.level: expected 'debug', 'info', 'warning' or 'error', found 'loud'\n"
            "    The least level shown."
        ),
        (
            "environment variable TORV_RELAY__WORKERS: relay.workers: expected an integer, found 'several'\n"
            "    Worker processes; 0: one per core."
        ),
        (
            "command line: relay.port: expected at most 65535, found 70000\n"
            "    The port to listen on; 0: a free one."
        ),
    }


def test_a_short_variable_is_named_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORV_PORT", "tcp://10.0.0.1:7777")

    assert mistakes("", tmp_path) == [
        (
            "environment variable TORV_PORT: relay.port: expected an integer, found 'tcp://10.0.0.1:7777'\n"
            "    The port to listen on; 0: a free one."
        )
    ]


def test_an_unknown_key_that_is_like_no_other_gets_the_list_of_keys(tmp_path: Path) -> None:
    assert mistakes("[log]\nxyzzy = 1", tmp_path) == [
        "torv.toml:2: log.xyzzy: unknown setting\n    Known here: format, level."
    ]


def test_a_table_in_the_place_of_a_setting_is_a_mistake(tmp_path: Path) -> None:
    assert mistakes("[relay.name]\ninner = 1", tmp_path) == [
        "torv.toml:1: relay.name: expected text, found a table\n    The relay's name, as clients show it."
    ]


def test_a_table_cannot_be_given_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORV_BRIDGE__MATRIX", '{"homeserver": "hunter2"}')

    (found,) = mistakes("", tmp_path)

    assert found.startswith(
        "environment variable TORV_BRIDGE__MATRIX: bridge.matrix: expected a table, found text"
    )


def test_a_setting_that_is_required_is_asked_for(tmp_path: Path) -> None:
    assert mistakes('[bridge.matrix]\nserver_name = "example.org"', tmp_path) == [
        (
            "torv.toml:1: bridge.matrix.homeserver: this setting is required\n"
            "    Where the homeserver's client API is reached, such as http://127.0.0.1:8008."
        )
    ]


def test_a_file_that_is_not_toml_is_a_mistake_with_its_line(tmp_path: Path) -> None:
    assert mistakes("\n[relay]\nname = Torv", tmp_path) == [
        (
            "torv.toml:3: is not TOML: Invalid value (at line 3, column 8)\n"
            '    Text stands in quotes: name = "Torv"'
        )
    ]


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1 mistake:\n  .*torv.toml: cannot be read: No such file"):
        load(TorvConfig, file=tmp_path / "torv.toml")


def test_a_file_that_is_not_utf8_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "torv.toml").write_bytes(b'[relay]\nname = "\xff"')

    with pytest.raises(ConfigError, match=r"torv\.toml: expected UTF-8, found another byte at 16"):
        load(TorvConfig, file=tmp_path / "torv.toml")


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="/dev/zero: longer than 1048576 bytes"):
        load(TorvConfig, file=Path("/dev/zero"))


def test_what_may_be_a_secret_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torv.toml").write_text(
        'key = "hunter1"\n[bottle]\nmesage = "hunter2"\nmessage = ["hunter3"]\nopen = "nsec1hunter4"'
    )

    with pytest.raises(ConfigError) as caught:
        load(BottledConfig, file=tmp_path / "torv.toml")

    assert len(caught.value.mistakes) == 4
    assert "hunter" not in str(caught.value)


def test_long_values_are_cut_in_the_report(tmp_path: Path) -> None:
    (mistake,) = mistakes(f'[log]\nlevel = "{"x" * 1000}"', tmp_path)

    assert f"found '{'x' * 59}…" in mistake


def test_names_have_keys_of_their_own(tmp_path: Path) -> None:
    config = read(f'[relay]\nnames = ["alice={NPUB}", "_={ALICE.public}"]', tmp_path)

    assert config.relay.names == (f"alice={NPUB_HEX}", f"_={ALICE.public}")


@pytest.mark.parametrize(
    ("names", "mistake"),
    [
        ("Alice=x", "relay.names[0]: expected a name of a-z, 0-9, '-', '_' and '.', then '=' and its key"),
        ("alice", "relay.names[0]: expected a name of a-z, 0-9, '-', '_' and '.', then '=' and its key"),
        ("alice=oops", "relay.names[0]: expected npub1… or 64 lowercase hex digits"),
        (
            f"a={NPUB},b={NPUB},a={ALICE.public}",
            "relay.names: expected one key for each name; 'a' has several",
        ),
    ],
)
def test_names_that_are_none_are_mistakes(
    names: str, mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORV_RELAY__NAMES", names)

    (found,) = mistakes("", tmp_path)

    assert found.startswith(f"environment variable TORV_RELAY__NAMES: {mistake}")


def test_a_relay_without_a_url_cannot_announce_itself(tmp_path: Path) -> None:
    (found,) = mistakes("[relay]\nannounce = true", tmp_path)

    assert found.startswith("torv.toml:2: relay.announce: expected false as long as url is empty, found True")
    assert read('[relay]\nannounce = true\nurl = "wss://relay.test"', tmp_path).relay.announce


def test_changes_are_shown_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "torv.toml").write_text('data = "/srv"\n[bottle]\nmessage = "hunter2"\nopen = true')

    config = load(BottledConfig, file=tmp_path / "torv.toml")

    assert changes(config) == {"data": '"/srv"', "bottle.message": "(not shown)", "bottle.open": "true"}


def test_the_example_is_the_one_that_the_models_give() -> None:
    # `make example` writes it anew.
    assert (ROOT / "config.example.toml").read_text() == example(TorvConfig)


def test_the_example_changes_nothing(tmp_path: Path) -> None:
    assert read(example(TorvConfig), tmp_path) == read()


def test_every_line_of_the_example_may_be_switched_on(tmp_path: Path) -> None:
    lines = example(TorvConfig).splitlines()
    switched_on = "\n".join(line[1:] if line[:1] == "#" and line[:2] != "# " else line for line in lines)

    config = read(switched_on, tmp_path)

    given = tomllib.loads(switched_on)
    assert given["relay"].keys() == TorvConfig.model_fields["relay"].annotation.model_fields.keys()  # type: ignore[union-attr]
    assert config.relay.limits == read().relay.limits.model_copy(update={"max_age_seconds": 94_608_000})
    assert config.bridge.matrix is not None


def test_the_example_says_what_every_setting_means() -> None:
    for paragraph in example(TorvConfig).split("\n\n"):
        if "=" in paragraph:
            assert paragraph.startswith("# "), paragraph


def test_the_bridge_is_told_where_the_relay_listens(tmp_path: Path) -> None:
    config = read("[relay]\nhost = '::'\npath = '/nostr'", tmp_path, data=Path("/srv"), relay__port=1234)

    assert bridge_environment(config) == {
        "TORV_DATA": "/srv",
        "TORV_BRIDGE__RELAY_URL": "ws://[::1]:1234/nostr",
    }


def test_the_bridge_keeps_the_relay_that_it_was_given(tmp_path: Path) -> None:
    config = read('[bridge]\nrelay_url = "wss://relay.example.com"', tmp_path)

    assert bridge_environment(config) == {"TORV_DATA": "data"}


@pytest.mark.parametrize("kind", [4, 13, 14, 15, 1059, 20_001, 21_059])
def test_private_and_ephemeral_kinds_cannot_be_searched(tmp_path: Path, kind: int) -> None:
    (mistake,) = mistakes(f"[relay.search]\nkinds = [1, {kind}]", tmp_path)

    assert mistake.startswith(
        f"torv.toml:2: relay.search.kinds: expected kinds that are kept and are for everybody; {kind} is not"
    )


def test_searching_no_kinds_is_a_mistake(tmp_path: Path) -> None:
    (mistake,) = mistakes("[relay.search]\nkinds = []", tmp_path)

    assert "expected at least one kind; enabled = false switches search off" in mistake


def test_a_further_relay_takes_over_what_it_does_not_say(tmp_path: Path) -> None:
    config = read(
        '[relay]\nname = "Square"\nurl = "wss://square.test"\nport = 1234\nhosts = ["square.test"]\n'
        "[relay.limits]\nmax_limit = 7\n"
        '[relays.home]\nhosts = ["Home.test"]\n[relays.home.limits]\nmax_filters = 2',
        tmp_path,
    )

    square, home = config.sites
    assert (square.name, square.data, square.relay) == ("", Path("data"), config.relay)
    assert (home.name, home.data) == ("home", Path("data/relays/home"))
    assert (home.relay.name, home.relay.port, home.relay.hosts) == ("Square", 1234, ("home.test",))
    assert (home.relay.limits.max_limit, home.relay.limits.max_filters) == (7, 2)
    # What a relay is called is its own.
    assert home.relay.url == ""


def heads(text: str, folder: Path) -> list[str]:
    """Return the mistakes without their hints."""
    return [mistake.partition("\n")[0] for mistake in mistakes(text, folder)]


def test_mistakes_about_several_relays_are_named(tmp_path: Path) -> None:
    assert heads("[relays.home]\nport = 1\n[relays.home.limits]\nmax_filter = 1", tmp_path) == [
        "torv.toml:2: relays.home.port: expected nothing: all relays share what [relay] says, found 1",
        "torv.toml:4: relays.home.limits.max_filter: unknown setting",
    ]
    # A mistake in [relay] is told once.
    assert heads('[relay]\nport = -1\n[relays.home]\nhosts = ["a.test"]', tmp_path) == [
        "torv.toml:2: relay.port: expected at least 0, found -1"
    ]
    assert heads('[relays."No Name"]\nhosts = ["a.test"]', tmp_path)[0].startswith("torv.toml")
    (wrong,) = heads('[relays.home]\nhosts = ["https://a.test/"]', tmp_path)
    assert wrong.startswith("torv.toml:2: relays.home.hosts[0]: expected a host name such as")


def test_two_relays_have_two_doors_and_two_folders(tmp_path: Path) -> None:
    file = tmp_path / "torv.toml"
    file.write_text(
        '[relays.a]\nhosts = ["x.test"]\n[relays.b]\nhosts = ["x.test"]\ndata = "data"\n[relays.c]'
    )

    with pytest.raises(ConfigError) as raised:
        read_config(file, {})

    assert [(one.path, one.problem) for one in raised.value.mistakes] == [
        ("relays.b.hosts", "expected a door of its own, found that relays.a answers at x.test/ too"),
        ("relays.b.data", "expected a folder of its own, found that of relay"),
        (
            "relays.c.hosts",
            "expected a door of its own, found that relay answers at path / of other hosts too",
        ),
    ]


def test_what_differs_is_told_and_what_of_it_takes_a_restart(tmp_path: Path) -> None:
    before = read(
        '[relay]\nname = "A"\n[relays.home]\nhosts = ["a.test"]\n[relays.gone]\npath = "/x"', tmp_path
    )
    after = read(
        '[relay]\nname = "B"\nport = 1\n[relay.limits]\nmax_limit = 3\n[relays.home]\nhosts = ["b.test"]\n'
        '[bridge.matrix]\nhomeserver = "http://127.0.0.1:1"\nserver_name = "x.test"\n[log]\nlevel = "debug"',
        tmp_path,
    )

    told = differences(before, after)

    assert [one.path for one in told if one.takes_restart] == [
        "relay.port",
        "relays.gone",
        "relays.home.hosts",
        "bridge.matrix",
    ]
    assert [one.path for one in told if not one.takes_restart] == [
        "log.level",
        "relay.name",
        "relay.limits.max_limit",
        "relays.home.name",
        "relays.home.limits.max_limit",
    ]
    kept = keeping_fixed(before.relay, after.relay)
    assert (kept.name, kept.port, kept.limits.max_limit) == ("B", 7777, 3)


def test_streams_have_names_and_every_mistake_in_them_is_found(tmp_path: Path) -> None:
    text = """
[relay.router.friends]
urls = ["WSS://Relay.Example.com:443", "wss://other.example.org/nostr"]
filters = ['{"kinds":[0,3]}']

[relays.home]
hosts = ["home.example.com"]
"""
    config = read(text, tmp_path)

    assert config.relay.router["friends"].urls == (
        "wss://relay.example.com/",
        "wss://other.example.org/nostr",
    )
    assert config.relay.router["friends"].direction == "down"
    # What another relay of the configuration mirrors is its own.
    assert config.relays["home"].router == {}
    text = """
[relay.router.none]
urls = []
[relay.router.wrong]
urls = ["https://relay.example.com"]
direction = "sideways"
filters = ["{", '{"kind":1}', '{"limit":5}']
"""
    found = "\n".join(mistakes(text, tmp_path))
    for part in (
        "relay.router.none.urls",
        "relay.router.wrong.urls[0]: expected a URL such as 'wss://relay.example.com', found",
        "relay.router.wrong.direction: expected 'up', 'down' or 'both', found 'sideways'",
        "relay.router.wrong.filters[0]: expected a filter in JSON",
        "relay.router.wrong.filters[1]: expected a filter: filter contains unknown elements",
        "relay.router.wrong.filters[2]: expected a filter without search and limit",
    ):
        assert part in found
