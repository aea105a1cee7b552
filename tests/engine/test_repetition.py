"""When looking for known events pays."""

from relay.engine.repetition import Repetition


def after(*observed: tuple[int, int], together: int = 64) -> bool:
    """Say whether a look-up of so many events pays after these."""
    repetition = Repetition()
    for events, known in observed:
        repetition.observe(events, known)
    return repetition.pays(together)


def test_a_fresh_relay_expects_known_events() -> None:
    assert after()
    assert after(together=1)


def test_look_ups_end_after_a_thousand_new_events() -> None:
    assert after(*[(64, 0)] * 14)
    assert not after(*[(64, 0)] * 15)


def test_events_one_at_a_time_count_as_much_as_batches() -> None:
    assert after(*[(1, 0)] * 14 * 64)
    assert not after(*[(1, 0)] * 15 * 64)


def test_an_event_alone_is_looked_up_only_where_many_are_known() -> None:
    assert after(*[(1, 0)] * 140, together=1)
    assert not after(*[(1, 0)] * 141, together=1)
    assert not after(*[(4, 1)] * 1_000, together=1)
    assert after(*[(4, 1)] * 1_000, together=4)
    assert after(*[(3, 1)] * 1_000, together=1)


def test_a_batch_of_known_events_brings_look_ups_back() -> None:
    quiet = [(64, 0)] * 1_000
    assert not after(*quiet)
    assert not after(*quiet, (64, 32))
    assert after(*quiet, (64, 64), (64, 64))


def test_few_known_events_among_many_new_ones_do_not() -> None:
    assert not after(*[(64, 3)] * 1_000)
    assert after(*[(64, 5)] * 1_000)


def test_a_batch_longer_than_the_window_replaces_what_was_before() -> None:
    assert not after((10_000, 0))
    assert after((10_000, 0), (10_000, 10_000))
