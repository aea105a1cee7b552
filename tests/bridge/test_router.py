"""The way from inbox to outbox: nothing lost, nothing doubled, in order, wherever it is killed."""

import asyncio
from pathlib import Path

import pytest

from bridge.ledger import Ledger
from tests.bridge.worlds import BOB, Killed, Steps, World, run_until_quiet


def busy_worlds() -> tuple[World, World]:
    """A room that is linked, and three posts in either direction."""
    matrix, nostr = World("matrix"), World("nostr")
    matrix.write("$link", order=f"link {BOB.id}")
    for number in (1, 2, 3):
        matrix.write(f"$m{number}", text=f"message {number}")
        nostr.write(f"n{number}", text=f"note {number}")
    return matrix, nostr


async def link_first(path: Path, matrix: World) -> None:
    """Link the room in a run of its own, so that no note can overtake the link."""
    later, matrix.written = matrix.written[1:], matrix.written[:1]
    await run_until_quiet(path, [matrix, World("nostr")])
    matrix.written += later


def check(matrix: World, nostr: World) -> None:
    assert nostr.posts == ["message 1", "message 2", "message 3"]
    assert matrix.posts == ["note 1", "note 2", "note 3"]
    # The names came before the posts, each once.
    assert next(iter(nostr.happened)).startswith("profile @alice")
    assert sum(key.startswith("profile") for key in nostr.happened) == 1
    assert sum(key.startswith("profile") for key in matrix.happened) == 1
    assert sum(key.startswith("tell") for key in matrix.happened) == 1


async def test_posts_cross_in_order_both_ways(tmp_path: Path) -> None:
    matrix, nostr = busy_worlds()
    await link_first(tmp_path / "ledger", matrix)

    await run_until_quiet(tmp_path / "ledger", [matrix, nostr])

    check(matrix, nostr)


async def test_killed_between_any_two_steps_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    template = tmp_path / "linked"
    steps = Steps()
    matrix, nostr = busy_worlds()
    await link_first(template, matrix)
    await run_until_quiet(template, [matrix, nostr], steps)
    assert steps.taken > 50

    for kill_at in range(1, steps.taken + 1):
        path = tmp_path / f"killed-{kill_at}"
        matrix, nostr = busy_worlds()
        await link_first(path, matrix)
        with pytest.raises(Killed):
            await run_until_quiet(path, [matrix, nostr], Steps(kill_at))

        await run_until_quiet(path, [matrix, nostr])

        check(matrix, nostr)


async def test_killed_at_every_step_of_its_life_it_still_gets_everything_across(tmp_path: Path) -> None:
    matrix, nostr = busy_worlds()
    await link_first(tmp_path / "ledger", matrix)

    lives = 0
    kill_at = 3
    while True:
        try:
            await run_until_quiet(tmp_path / "ledger", [matrix, nostr], Steps(kill_at))
            break
        except Killed:
            lives += 1
            # Some steps need more than three steps of one life before they last.
            kill_at = 3 + lives % 5

    assert lives > 5
    check(matrix, nostr)


async def test_an_arrival_that_comes_twice_is_one_arrival(tmp_path: Path) -> None:
    matrix, nostr = busy_worlds()
    await link_first(tmp_path / "ledger", matrix)
    await run_until_quiet(tmp_path / "ledger", [matrix, nostr])

    matrix.acknowledged.clear()
    nostr.acknowledged.clear()
    await run_until_quiet(tmp_path / "ledger", [matrix, nostr])

    check(matrix, nostr)


@pytest.mark.parametrize("kind", ["poison", "fault"])
async def test_a_poisonous_arrival_is_set_aside_and_blocks_nothing(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    matrix, nostr = World("matrix"), World("nostr")
    matrix.write("$link", order=f"link {BOB.id}")
    matrix.write("$bad", **{kind: "this makes no sense"})
    matrix.write("$good", text="message")

    await run_until_quiet(tmp_path / "ledger", [matrix, nostr])

    assert nostr.posts == ["message"]
    assert "set aside an arrival network=matrix id=$bad" in caplog.text


async def test_a_refused_delivery_is_buried_and_the_lane_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    matrix, nostr = busy_worlds()
    nostr.refused = frozenset({"post $m2"})
    await link_first(tmp_path / "ledger", matrix)

    await run_until_quiet(tmp_path / "ledger", [matrix, nostr])

    assert nostr.posts == ["message 1", "message 3"]
    assert "gave up network=nostr key=post $m2: never" in caplog.text


async def test_what_gets_no_answer_is_tried_again_in_order(tmp_path: Path) -> None:
    matrix, nostr = busy_worlds()
    await link_first(tmp_path / "ledger", matrix)
    nostr.outages = 2
    path = tmp_path / "ledger"

    # The clock of these runs stands still: each life tries once, and waits for a later time in vain.
    for _ in range(2):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await run_until_quiet(path, [matrix, nostr])
        _forget_pauses(path)
    await run_until_quiet(path, [matrix, nostr])

    assert nostr.posts == ["message 1", "message 2", "message 3"]


def _forget_pauses(path: Path) -> None:
    ledger = Ledger(path)
    with ledger._transaction() as db:
        db.execute("UPDATE outbox SET not_before = 0")
    ledger.close()


async def test_who_opts_out_is_not_mirrored_any_more(tmp_path: Path) -> None:
    matrix, nostr = World("matrix"), World("nostr")
    matrix.write("$link", order=f"link {BOB.id}")
    matrix.write("$1", text="public")
    matrix.write("$out", order="optout")
    matrix.write("$2", text="private")

    await run_until_quiet(tmp_path / "ledger", [matrix, nostr])

    assert "private" not in nostr.posts
    assert nostr.happened["withdraw all $out 0"] == "Withdraw"
