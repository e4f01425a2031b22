"""What a real broker said, in pieces of every size."""

import asyncio
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maniple.amqp.wire.amqp_errors import NotFound
from recorded_broker import QUEUE, SECONDS, TOLD, pieces, replayed

LONGEST = max(map(len, pieces()))
BODIES = [b"", b"body", bytes(range(256))]


async def whole() -> list[object]:
    return await replayed(lambda piece: (piece,))


async def test_the_recording_shows_some_of_everything() -> None:
    deliveries = [(tag, body, TOLD, False) for tag, body in enumerate(BODIES, 1)]
    again = (4, b"", TOLD, True)
    *seen, refused = await whole()
    returned = "NO_ROUTE: /nowhere"
    assert seen == [0, "1.1", *deliveries, returned, again, (5, b"got", TOLD), None]
    assert str(refused).startswith(NotFound.__name__)
    assert QUEUE in str(refused)


async def test_what_is_cut_at_any_one_place_is_seen_as_if_it_were_whole() -> None:
    wanted = await whole()
    for at in range(1, LONGEST):

        def cut(piece: bytes, at: int = at) -> Iterator[bytes]:
            yield from filter(None, (piece[:at], piece[at:]))

        async with asyncio.timeout(SECONDS):
            assert await replayed(cut) == wanted, at


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9])
async def test_what_comes_in_small_pieces_is_seen_as_if_it_were_whole(size: int) -> None:
    def cut(piece: bytes) -> Iterator[bytes]:
        yield from (piece[at : at + size] for at in range(0, len(piece), size))

    async with asyncio.timeout(SECONDS):
        assert await replayed(cut) == await whole()


@given(st.lists(st.integers(1, LONGEST), max_size=8))
@settings(max_examples=50)
def test_what_is_cut_anywhere_is_seen_as_if_it_were_whole(cuts: list[int]) -> None:
    def cut(piece: bytes) -> Iterator[bytes]:
        edges = [0, *sorted(at % (len(piece) + 1) for at in cuts), len(piece)]
        yield from (piece[one:two] for one, two in pairwise(edges) if one < two)

    async def both() -> None:
        assert await replayed(cut) == await whole()

    asyncio.run(both())
