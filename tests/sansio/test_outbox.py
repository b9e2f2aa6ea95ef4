"""The out-queue of a pipe: whole frames in order, whatever a write takes and whoever withdraws."""

from __future__ import annotations

import pytest

from anyio_bus._sansio.outbox import Entry, Outbox, Route, Step

ANY = Route("p")


def outbox_of(*frames: bytes) -> tuple[Outbox, list[Entry]]:
    """Make an out-queue with an entry for each frame; its key is its place."""
    outbox = Outbox()
    entries = [Entry(content, ANY, key) for key, content in enumerate(frames)]
    for entry in entries:
        outbox.append(entry)
    return outbox, entries


def test_frames_are_written_in_order_whatever_a_write_takes() -> None:
    outbox, _ = outbox_of(b"one\n", b"two\n", b"three\n")
    written = b""
    while buffers := outbox.buffers(2, 5):
        piece = b"".join(buffers)[:3]
        written += piece
        outbox.advance(len(piece))
        assert outbox.size == 14 - len(written)

    assert written == b"one\ntwo\nthree\n"


def test_a_write_is_offered_as_many_frames_as_it_asks_for_and_at_least_one() -> None:
    outbox, _ = outbox_of(b"one\n", b"two\n", b"three\n")

    assert outbox.buffers(2, 1000) == [b"one\n", b"two\n"]
    assert outbox.buffers(10, 5) == [b"one\n", b"two\n"]
    assert outbox.buffers(10, 8) == [b"one\n", b"two\n"]
    assert outbox.buffers(1, 1) == [b"one\n"]
    outbox.advance(2)
    assert outbox.buffers(10, 6) == [b"e\n", b"two\n"]


def test_an_empty_outbox_has_nothing_to_write() -> None:
    outbox, _ = outbox_of()
    outbox.advance(0)

    assert outbox.buffers(10, 10) == []
    assert outbox.size == 0


def test_one_written_byte_makes_a_frame_sent_and_none_does_not() -> None:
    outbox, (first, second, third) = outbox_of(b"one\n", b"two\n", b"three\n")

    outbox.advance(0)
    assert not first.sent

    outbox.advance(5)
    assert (first.sent, second.sent, third.sent) == (True, True, False)


def test_claimed_frames_are_sent_before_they_are_written_and_no_others() -> None:
    outbox, entries = outbox_of(b"one\n", b"two\n", b"three\n", b"four\n")
    outbox.advance(2)
    outbox.withdraw(entries[1])

    outbox.claim(2)

    assert [entry.sent for entry in entries] == [True, False, True, False]
    assert outbox.buffers(10, 100) == [b"e\n", b"three\n", b"four\n"]


def test_a_withdrawn_frame_is_not_written_wherever_it_stands() -> None:
    outbox, entries = outbox_of(b"one\n", b"two\n", b"three\n", b"four\n")
    outbox.withdraw(entries[0])
    outbox.withdraw(entries[2])

    assert outbox.size == 9
    assert outbox.buffers(10, 100) == [b"two\n", b"four\n"]
    outbox.advance(9)
    assert outbox.size == 0
    assert not entries[2].sent


@pytest.mark.parametrize("written", [0, 3, 7, 10])
def test_many_withdrawn_frames_leave_the_others_whole(written: int) -> None:
    frames = [b"frame-%03d\n" % number for number in range(300)]
    outbox, entries = outbox_of(*frames)
    outbox.advance(written)
    for entry in entries[1:250]:
        outbox.withdraw(entry)

    rest = b"".join(outbox.buffers(1000, 10**9))

    assert rest == (frames[0] + b"".join(frames[250:]))[written:]
    assert outbox.size == len(rest)
    assert len(outbox._entries) < 150  # what was withdrawn is not kept for the pipe to come by


def test_a_cleared_outbox_starts_anew_even_within_a_frame() -> None:
    outbox, entries = outbox_of(b"one\n", b"two\n", b"three\n")
    outbox.advance(5)
    outbox.withdraw(entries[2])

    outbox.clear()

    assert (outbox.size, outbox.buffers(10, 100)) == (0, [])
    outbox.append(Entry(b"next\n", ANY, 9))
    assert outbox.buffers(10, 100) == [b"next\n"]


def test_frames_that_come_together_are_queued_as_one_by_one() -> None:
    outbox, _ = outbox_of(b"one\n")
    entries = [Entry(data, ANY, None, Step.OUTBOX) for data in (b"two\n", b"three\n")]
    outbox.extend(entries, 10)

    assert outbox.buffers(10, 100) == [b"one\n", b"two\n", b"three\n"]
    assert outbox.size == 14


def test_what_a_write_would_end_is_known_before_it_is_counted() -> None:
    outbox, (first, second, third) = outbox_of(b"one\n", b"two\n", b"three\n")
    outbox.withdraw(second)
    outbox.advance(2)

    assert outbox.ending_within(1) == []
    assert outbox.ending_within(2) == [first]
    assert outbox.ending_within(100) == [first, third]


def test_a_frame_that_is_answered_before_it_is_counted_is_over() -> None:
    outbox, (first, _) = outbox_of(b"one\n", b"two\n")
    first.step = Step.GONE
    outbox.advance(8)

    assert (first.step, first.sent, outbox.size) == (Step.GONE, True, 0)
