"""All bytes that reach the aggregator in real rounds of real learner processes over TLS: nothing of a device can be read from them.

The same checks on the same recorder find what devices show that mask badly.
"""

from __future__ import annotations

import numpy as np
import pytest
from aggregator_recorder import number_windows
from recorded_rounds_world import (
    ASSESSMENT,
    BARE,
    HIDDEN,
    HONEST,
    MUTANTS,
    SELF_MASKED,
    SHORT_MASKED,
    SILENT,
    TRAINING,
    TWISTED,
    Record,
    inverted,
    is_hidden,
    record,
    scalars_sent,
    secrets_of,
    traces,
)
from secrecy_statistics import chi_squared_of_bytes, correlation, linear_complexity

__all__ = ["record"]  # the fixture
pytestmark = pytest.mark.slow


def test_the_recorder_has_every_byte_that_the_devices_say_they_sent(record: Record) -> None:
    for device in HONEST + MUTANTS:
        missing = record.counted_bytes[device] - record.recorded_bytes[device]
        # The last request, which a learner's end cuts off, may be counted and not have arrived. It is a pull or a late share, never
        # a vector: those have a hundred times as many bytes.
        assert -200 <= missing <= 1000
        assert record.recorded_bytes[device] > 100_000


@pytest.mark.parametrize("number", [TRAINING, ASSESSMENT])
def test_no_window_of_any_answer_reaches_the_aggregator(record: Record, number: int) -> None:
    seen = record.honest[number]
    for device in HONEST:
        wanted = number_windows(secrets_of(seen, device, number))
        assert len(wanted) > 100
        assert set(traces(seen, device, number).values()) == {0}


def test_no_count_and_no_loss_reaches_the_aggregator(record: Record) -> None:
    """Looked for outside the masked words: of their random bytes any four are some number."""
    number, seen = ASSESSMENT, record.honest[ASSESSMENT]
    found = [scalars_sent(seen, device, record.keys[device], number, masked=False) for device in HONEST]
    assert [name for names in found for name in names if name != "examples"] == []
    # A count has two zero bytes, and so have times now and then, as Flower sends them; a count that is sent is there for each device.
    assert sum("examples" in names for names in found) < len(HONEST) - 1


@pytest.mark.parametrize("number", [TRAINING, ASSESSMENT])
def test_what_is_sent_is_uniform_and_stays_so_when_the_aggregator_takes_the_self_mask_off(
    record: Record, number: int
) -> None:
    seen = record.honest[number]
    for device in HONEST:
        assert is_hidden(seen, seen.masked[device], seen.words[device])
        assert is_hidden(seen, seen.opened(device), seen.words[device])
    # And all of it together is the plain sum, so the words and the masks are the ones that were used.
    total = sum(seen.opened(device) for device in HONEST)
    mask = np.uint32((1 << seen.bits) - 1)
    np.testing.assert_array_equal(total & mask, sum(seen.words.values()) & mask)


def test_masks_that_stand_alone_follow_no_short_recurrence(record: Record) -> None:
    for device in HONEST:
        assert not record.honest[SILENT].words[device][: 7 * HIDDEN].any()
        for shown in (record.honest[SILENT].masked[device], record.honest[SILENT].opened(device)):
            bits = (shown[: 13 * HIDDEN] & 1).tolist()
            assert abs(linear_complexity(bits) - len(bits) / 2) < 30


def test_the_sample_that_a_plain_update_gives_away_is_not_in_the_sent_one(record: Record) -> None:
    seen = record.honest[TRAINING]
    for device in HONEST:
        assert inverted(seen.words[device], record.samples[device]) > 0.9
        assert abs(inverted(seen.masked[device], record.samples[device])) < 5 / np.sqrt(6 * HIDDEN)
        assert abs(inverted(seen.opened(device), record.samples[device])) < 5 / np.sqrt(6 * HIDDEN)


def test_a_device_that_leaves_its_masks_out_fails_every_check(record: Record) -> None:
    for number in (TRAINING, ASSESSMENT):
        seen = record.mutant[number]
        assert all(count > 10 for count in traces(seen, BARE, number).values())
        scalars = scalars_sent(seen, BARE, record.keys[BARE], number, masked=True)
        assert number == TRAINING or "examples" in scalars
        # Of small words, side by side, none is telling by itself; their windows are, above.
        assert chi_squared_of_bytes(seen.as_sent(seen.masked[BARE])) > 6
        assert correlation(seen.masked[BARE], seen.words[BARE]) > 0.99
    assert inverted(record.mutant[TRAINING].masked[BARE], record.samples[BARE]) > 0.9
    bits = (record.mutant[SILENT].masked[BARE] & 1).tolist()
    assert linear_complexity(bits[: 7 * HIDDEN]) == 0


def test_a_device_that_leaves_out_the_masks_it_shares_is_open_once_its_self_mask_is_taken_off(
    record: Record,
) -> None:
    seen = record.mutant[TRAINING]
    assert is_hidden(seen, seen.masked[SELF_MASKED], seen.words[SELF_MASKED])
    assert not is_hidden(seen, seen.opened(SELF_MASKED), seen.words[SELF_MASKED])
    assert inverted(seen.opened(SELF_MASKED), record.samples[SELF_MASKED]) > 0.9


def test_a_device_whose_masks_are_too_short_is_found_by_the_statistics(record: Record) -> None:
    seen = record.mutant[TRAINING]
    assert chi_squared_of_bytes(seen.masked[SHORT_MASKED]) > 6
    assert correlation(seen.masked[SHORT_MASKED], seen.words[SHORT_MASKED]) > 0.5


def test_a_mersenne_twister_that_the_statistics_let_pass_is_found_by_its_recurrence(record: Record) -> None:
    seen = record.mutant[TRAINING]
    assert is_hidden(seen, seen.masked[TWISTED], seen.words[TWISTED])
    bits = (record.mutant[SILENT].masked[TWISTED][: 13 * HIDDEN] & 1).tolist()
    assert linear_complexity(bits) <= 19_937
