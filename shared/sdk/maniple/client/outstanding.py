"""The tasks of one client that have not ended yet, by identity."""

import logging
from collections.abc import Callable, Iterable

from msgspec.structs import replace

from maniple.client.handle import Ticket
from maniple.codec import peek_identity
from maniple.errors import BAD_INPUT, ErrorCode, InvalidMessage, ManipleError
from maniple.messages import Progress, Result, Status, is_result_of

_PERHAPS_REFUSED = frozenset({Status.REJECTED, Status.EXPIRED})
"""How what was never admitted ends: the broker may have dropped it at the end of its time."""

_log = logging.getLogger(__name__)


class OutstandingHandles:
    """Gives each result to whoever waits for it; a second result of a task is ignored."""

    def __init__(self) -> None:
        """Begin with none."""
        self._tickets: dict[tuple[str, str], Ticket] = {}

    def __len__(self) -> int:
        """How many tasks have not ended yet."""
        return len(self._tickets)

    def add_ticket(self, ticket: Ticket) -> None:
        """Take a task. Raises `InvalidMessage` if one of the same identity is outstanding."""
        key = (ticket.tenant, ticket.id)
        if key in self._tickets:
            raise InvalidMessage(
                ErrorCode.INVALID_TASK,
                f"task {ticket.id!r} is already outstanding in this client",
                detail={"id": ticket.id},
            )
        self._tickets[key] = ticket

    def discard(self, ticket: Ticket) -> None:
        """Forget a task, if it is still this ticket's."""
        key = (ticket.tenant, ticket.id)
        if self._tickets.get(key) is ticket:
            del self._tickets[key]

    def discard_where(self, forget: Callable[[Ticket], bool]) -> None:
        """Forget the tasks for which `forget` holds."""
        for ticket in [t for t in self._tickets.values() if forget(t)]:
            self.discard(ticket)

    def settle_results(self, results: Iterable[Result | InvalidMessage]) -> None:
        """Hand on results; whose cannot be read hears of that."""
        take = self._tickets.pop
        for result in results:
            if isinstance(result, InvalidMessage):
                self._give_up(result)
                continue
            if result.error is not None and result.status in _PERHAPS_REFUSED:
                self._refuse(result)
                continue
            ticket = take((result.tenant, result.id), None)
            if ticket is None:
                continue
            if result.capability == ticket.capability or _is_of(ticket, result):
                ticket.settle_with(result)
            else:
                self._tickets[result.tenant, result.id] = ticket

    def report_all(self, reports: Iterable[Progress]) -> None:
        """Hand on progress."""
        for progress in reports:
            ticket = self._tickets.get((progress.tenant, progress.id))
            if ticket is not None:
                ticket.report_progress(progress)

    def abandon_where(
        self, error: ManipleError, where: Callable[[Ticket], bool] = lambda _: True
    ) -> None:
        """Give up all tasks for which `where` holds."""
        for ticket in [t for t in self._tickets.values() if where(t)]:
            self.discard(ticket)
            ticket.abandon(error)

    def _refuse(self, result: Result) -> None:
        """Hand on a rejection: of a task, of bad input, or of a whole message by that one's id.

        Bad input in another message says nothing of the task that is outstanding under its id now.
        """
        ticket = self._tickets.get((result.tenant, result.id))
        if ticket is None:
            self._settle_message(result)
            return
        if not _is_bad_input(result) and not _is_of(ticket, result):
            return
        message_id = _message_of(result, ticket.message_id)
        if message_id == ticket.message_id:
            self.discard(ticket)
            ticket.settle_with(result)
        else:
            _log.warning("task %s was refused in another message, %.100s", ticket.id, message_id)

    def _give_up(self, unreadable: InvalidMessage) -> None:
        _log.warning("a result that cannot be read: %s", unreadable)
        known = peek_identity(unreadable.body or b"")
        ticket = self._tickets.get((known.tenant, known.id or ""))
        if ticket is not None:
            self.discard(ticket)
            ticket.abandon(
                ManipleError(f"the task has ended, but its result cannot be read: {unreadable}")
            )

    def _settle_message(self, result: Result) -> None:
        if _message_of(result, result.id) != result.id:
            return
        for ticket in [t for t in self._tickets.values() if t.message_id == result.id]:
            self.discard(ticket)
            ticket.settle_with(
                replace(result, id=ticket.id, tenant=ticket.tenant, capability=ticket.capability)
            )


def _is_of(ticket: Ticket, result: Result) -> bool:
    """Tell whether a result is of the capability that was asked for, or of a fallback for it."""
    if is_result_of(result, ticket.capability):
        return True
    _log.warning("task %s has got a result of %.100s", ticket.id, result.capability)
    return False


def _is_bad_input(result: Result) -> bool:
    """Tell whether it is about a message, of which it may not even be known what it asked for."""
    return result.error is not None and result.error.code in BAD_INPUT


def _message_of(result: Result, ours: str) -> str:
    """Return the id of the message that a refusal of bad input is about; `ours` if of no other.

    A dispatcher tells the claimed id and the message's. If that has none, it is not one of ours,
    which all have. A dispatcher of an earlier release tells neither.
    """
    if result.error is None or not _is_bad_input(result):
        return ours  # whoever has written that detail means something else by it
    detail = result.error.detail
    if not isinstance(detail, dict) or not detail.keys() & {"id", "message_id"}:
        return ours
    return str(detail.get("message_id", "without an id"))
