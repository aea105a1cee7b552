"""When looking for known events pays."""

from relay.engine.repetition import Repetition


def after(*observed: tuple[int, int]) -> bool:
    repetition = Repetition()
    for events, known in observed:
        repetition.observe(events, known)
    return repetition.is_common


def test_a_fresh_relay_expects_known_events() -> None:
    assert after()


def test_look_ups_end_after_some_thousand_new_events() -> None:
    assert after(*[(64, 0)] * 40)
    assert not after(*[(64, 0)] * 50)


def test_events_one_at_a_time_count_as_much_as_batches() -> None:
    assert after(*[(1, 0)] * 2_800)
    assert not after(*[(1, 0)] * 2_900)


def test_a_batch_of_known_events_brings_look_ups_back() -> None:
    quiet = [(64, 0)] * 1_000
    assert not after(*quiet)
    assert not after(*quiet, (64, 32))
    assert after(*quiet, (64, 64))


def test_few_known_events_among_many_new_ones_do_not() -> None:
    assert not after(*[(64, 3)] * 1_000)
    assert after(*[(64, 5)] * 1_000)


def test_a_batch_longer_than_the_window_replaces_what_was_before() -> None:
    assert not after((10_000, 0))
    assert after((10_000, 0), (10_000, 10_000))
