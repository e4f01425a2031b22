"""What an agent makes of a bundle that comes, before anything of it runs."""

from typing import Any

import pytest

from maniple.errors import ErrorCode
from maniple.messages import Status
from work_with_fakes import NOW, Agent, Delivery, envelope


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"deadline": NOW}, Status.EXPIRED, ErrorCode.DEADLINE_EXCEEDED),
        ({"capability": "unknown"}, Status.FAILED, ErrorCode.NO_AGENT),
    ],
)
async def test_what_cannot_run_here_ends_at_once(
    changes: dict[str, Any], status: Status, code: ErrorCode
) -> None:
    agent, delivery = Agent(), Delivery(envelope("1", **changes))
    await agent.take(delivery)
    (result,) = agent.results()
    assert result.error is not None
    assert (result.status, result.error.code, delivery.acked) == (status, code, 1)


@pytest.mark.parametrize(
    ("body", "settled"),
    [(b"[]", (1, 0)), (b"garbage", (0, 1)), (b'[{"id": 1}]', (0, 1))],
)
async def test_no_delivery_is_held_for_ever(body: bytes, settled: tuple[int, int]) -> None:
    agent = Agent()
    delivery = Delivery(body=body)
    await agent.take(delivery)
    assert (delivery.acked, delivery.rejected) == settled
