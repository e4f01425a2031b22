"""What is added in one turn of the loop, sent together for each key."""

import asyncio

import pytest

from maniple.amqp.batching import MAX_BYTES, MAX_ITEMS
from maniple_runtime.publish.confirm import Together, Turn

Sent = list[tuple[str, bytes, list[int]]]


def turn_to(sent: Sent, most: int = MAX_ITEMS) -> Turn[str, int]:
    def send(key: str, group: Together[int]) -> None:
        sent.append((key, group.joined(), group.members))

    return Turn(send, lambda _: most)


async def test_what_one_turn_brings_goes_together_by_key_and_in_order() -> None:
    sent: Sent = []
    turn = turn_to(sent)
    for number, key in enumerate("abab"):
        turn.add(key, b"%d" % number, number)
    assert (sent, turn.kept) == ([], 4)
    await asyncio.sleep(0)
    assert sent == [("a", b"0,2", [0, 2]), ("b", b"1,3", [1, 3])]
    assert turn.kept == 0


async def test_the_next_turn_begins_anew() -> None:
    sent: Sent = []
    turn = turn_to(sent)
    for number in range(3):
        turn.add("a", b"%d" % number, number)
        await asyncio.sleep(0)
    assert [members for _, _, members in sent] == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("most", "size", "expected"),
    [
        (2, 1, [2, 2, 1]),
        (MAX_ITEMS, MAX_BYTES // 2, [2, 2, 1]),
        (MAX_ITEMS, MAX_BYTES + 1, [1] * 5),
    ],
)
async def test_no_more_goes_together_than_a_bundle_takes(
    most: int, size: int, expected: list[int]
) -> None:
    sent: Sent = []
    turn = turn_to(sent, most)
    for number in range(5):
        turn.add("a", b"x" * size, number)
    turn.send_all()
    assert [len(members) for _, _, members in sent] == expected
    assert [number for _, _, members in sent for number in members] == list(range(5))
    assert turn.kept == 0
    await asyncio.sleep(0)
    assert len(sent) == len(expected)  # nothing goes twice
