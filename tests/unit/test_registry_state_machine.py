"""The registry's state machine: pure, so every case is a value."""

from documents import arrows
from maniple_registry.domain.agent_record import (
    UNKNOWN_LIFE,
    AgentRecord,
    AgentState,
    Decision,
)
from maniple_registry.domain.state_machine import (
    check,
    decide,
    learn,
    seed,
    tick,
)
from maniple_registry.domain.transitions import TRANSITIONS
from maniple_runtime.control.incarnations import Incarnation
from maniple_runtime.control.messages import AgentPhase, Announce, Retire
from maniple_runtime.events import AgentFailed
from paths import ROOT
from registry_values import BOUNDS, DESCRIPTION, NOW, active, at, beat, keys, known

PAGE = ROOT / "docs" / "states" / "agent.md"


def test_an_agent_that_describes_itself_is_registered() -> None:
    decision = decide(None, beat(description=DESCRIPTION), at(0))
    assert known(decision.record).state is AgentState.ACTIVE
    assert keys(decision) == ["agent.registered"]
    assert decision.commands == ()


def test_an_agent_that_nobody_described_is_asked_until_it_does() -> None:
    first = decide(None, beat(1), at(0))
    second = decide(first.record, beat(2), at(3))
    third = decide(second.record, beat(3, description=DESCRIPTION), at(6))
    assert (first.commands, second.commands, third.commands) == ((Announce(),), (Announce(),), ())
    assert keys(third) == ["agent.registered"]


def test_a_changed_digest_is_asked_about() -> None:
    assert decide(active(), beat(2, digest="other"), at(3)).commands == (Announce(),)


def test_silence_suspects_then_fails() -> None:
    assert keys(tick(active(), at(4.4), BOUNDS)) == []
    suspected = tick(active(), at(4.5), BOUNDS)
    assert keys(suspected) == ["agent.unreachable"]
    assert tick(known(suspected.record), at(8.9), BOUNDS).events == ()
    failed = tick(known(suspected.record), at(9), BOUNDS)
    assert keys(failed) == ["agent.failed"]
    assert failed.failed == (failed.record,)


def test_a_look_that_comes_late_tells_both_steps() -> None:
    assert keys(tick(active(), at(60), BOUNDS)) == ["agent.unreachable", "agent.failed"]


def test_a_suspected_agent_recovers_with_its_next_heartbeat() -> None:
    suspected = tick(active(), at(5), BOUNDS)
    recovered = decide(suspected.record, beat(2), at(6))
    assert keys(recovered) == ["agent.recovered"]
    assert known(recovered.record).state is AgentState.ACTIVE


def test_a_failed_incarnation_that_speaks_is_told_to_retire() -> None:
    failed = tick(active(), at(9), BOUNDS).record
    decision = decide(failed, beat(2), at(10))
    assert decision == Decision(failed, commands=(Retire(incarnation=beat().incarnation),))


def test_a_new_incarnation_begins_anew_after_a_failure() -> None:
    failed = tick(active(), at(9), BOUNDS).record
    decision = decide(failed, beat(1, incarnation="2", description=DESCRIPTION), at(10))
    assert keys(decision) == ["agent.registered"]
    assert known(decision.record).state is AgentState.ACTIVE
    assert decision.failed == ()


def test_a_new_incarnation_fails_the_one_that_it_replaces() -> None:
    decision = decide(active(), beat(1, incarnation="2", description=DESCRIPTION), at(1))
    assert keys(decision) == ["agent.failed", "agent.registered"]
    assert [gone.incarnation for gone in decision.failed] == ["1"]


def test_old_incarnations_change_nothing_and_are_told_whether_they_are_replaced() -> None:
    newer = decide(active(), beat(1, incarnation="2", description=DESCRIPTION), at(1)).record
    left = decide(newer, beat(2, incarnation="2", state=AgentPhase.LEAVING), at(2)).record
    for record, replaced in ((newer, True), (left, False)):
        after = "" if replaced else "2"
        retire = Retire(incarnation=Incarnation("1"), replaced=replaced, after=after)
        assert decide(record, beat(99), at(3)) == Decision(record, commands=(retire,))
        assert decide(record, beat(99, state=AgentPhase.LEAVING), at(3)) == Decision(record)
        assert decide(newer, beat(99, incarnation="0"), at(3)) == Decision(newer)


def test_behind_a_life_that_has_ended_no_older_one_begins_however_long_ago_it_was() -> None:
    failed = tick(active(), at(9), BOUNDS).record
    older = decide(failed, beat(5, incarnation="0", description=DESCRIPTION), at(10))
    retire = Retire(incarnation=Incarnation("0"), after="1")
    assert older == Decision(failed, commands=(retire,))
    leaving = beat(6, incarnation="0", state=AgentPhase.LEAVING)
    assert decide(failed, leaving, at(11)) == Decision(failed)


def test_an_agent_drains_and_leaves() -> None:
    draining = decide(active(), beat(2, state=AgentPhase.DRAINING), at(3))
    left = decide(draining.record, beat(3, state=AgentPhase.LEAVING), at(6))
    assert keys(draining) == ["agent.draining"]
    assert keys(left) == ["agent.left"]
    assert tick(known(left.record), at(605), BOUNDS).record == left.record
    assert tick(known(left.record), at(606), BOUNDS).record is None


def test_an_agent_that_is_frozen_while_draining_fails() -> None:
    draining = decide(active(), beat(2, state=AgentPhase.DRAINING), at(0)).record
    assert keys(tick(known(draining), at(9), BOUNDS)) == ["agent.failed"]


def test_a_critical_health_check_suspects_and_never_fails() -> None:
    suspected = check(active(), at(11), BOUNDS, critical=True)
    assert keys(suspected) == ["agent.unreachable"]
    record = known(suspected.record)
    for second in range(12, 60, 3):
        heard = decide(record, beat(second), at(second))
        assert keys(heard) == []
        record = known(tick(known(heard.record), at(second + 2), BOUNDS).record)
    assert record.state is AgentState.UNREACHABLE


def test_a_check_that_passes_again_lets_the_next_heartbeat_recover_the_agent() -> None:
    suspected = known(check(active(), at(11), BOUNDS, critical=True).record)
    passing = check(suspected, at(12), BOUNDS, critical=False)
    assert keys(passing) == []
    assert keys(decide(passing.record, beat(2), at(13))) == ["agent.recovered"]


def test_a_check_that_failed_for_the_life_before_says_nothing_about_this_one() -> None:
    assert check(active(), at(9.9), BOUNDS, critical=True) == Decision(active())
    assert keys(check(active(), at(10), BOUNDS, critical=True)) == ["agent.unreachable"]


def told_failed(incarnation: str = "1") -> AgentFailed:
    return AgentFailed.model_validate({"at": NOW, "agent": "a1", "incarnation": incarnation})


def test_what_another_registry_declared_failed_is_failed() -> None:
    decision = learn(active(), told_failed(), at(1))
    assert known(decision.record).state is AgentState.FAILED
    assert (keys(decision), decision.failed) == ([], (decision.record,))
    assert learn(active(), told_failed("0"), at(1)) == Decision(active())


def test_a_life_that_failed_before_it_was_heard_here_is_told_to_retire() -> None:
    inherited = learn(None, told_failed(), at(1)).record
    assert decide(inherited, beat(9), at(2)).commands == (Retire(incarnation=Incarnation("1")),)
    successor = decide(inherited, beat(1, incarnation="2", description=DESCRIPTION), at(3))
    assert keys(successor) == ["agent.registered"]


def seeded() -> AgentRecord:
    return known(seed(DESCRIPTION.agent, "abc", 0.0, at(2)).record)


def test_an_agent_that_is_only_seen_in_consul_fails_within_its_bound() -> None:
    assert keys(tick(seeded(), at(4.5), BOUNDS)) == ["agent.unreachable"]
    failed = tick(seeded(), at(9), BOUNDS)
    assert keys(failed) == ["agent.unreachable", "agent.failed"]
    assert [gone.prefix for gone in failed.failed] == ["a1.abc."]


def test_an_agent_that_was_only_seen_is_met_with_its_first_heartbeat() -> None:
    suspected = tick(seeded(), at(5), BOUNDS).record
    met = decide(suspected, beat(7, description=DESCRIPTION), at(6))
    assert keys(met) == ["agent.registered", "agent.recovered"]
    assert known(met.record).incarnation == "1"


def test_the_same_process_is_told_to_retire_after_it_failed_unheard() -> None:
    failed = tick(seeded(), at(9), BOUNDS).record
    same = decide(failed, beat(7, connections=["a1.abc.control"]), at(10))
    assert same.commands == (Retire(incarnation=Incarnation("1")),)
    assert known(same.record).state is AgentState.FAILED
    other = decide(failed, beat(1, connections=["a1.def.control"]), at(10))
    assert known(other.record).state is AgentState.ACTIVE


def test_an_unknown_life_is_named_by_who_knows_it() -> None:
    decision = learn(seeded(), told_failed("1"), at(3))
    assert seeded().incarnation == UNKNOWN_LIFE
    assert known(decision.record).incarnation == "1"


def test_an_unknown_life_that_stood_still_has_failed_and_is_told_to_retire() -> None:
    for record in (None, seeded()):
        decision = decide(record, beat(7, overdue=True, description=DESCRIPTION), at(3))
        assert known(decision.record).state is AgentState.FAILED
        assert (keys(decision), decision.failed) == ([], ())
        assert decision.commands == (Retire(incarnation=Incarnation("1")),)
        successor = decide(decision.record, beat(1, incarnation="2"), at(4))
        assert known(successor.record).state is AgentState.ACTIVE


def test_a_known_life_that_stood_still_goes_on() -> None:
    assert known(decide(active(), beat(2, overdue=True), at(3)).record).state is AgentState.ACTIVE
    suspected = tick(active(), at(5), BOUNDS).record
    assert keys(decide(suspected, beat(2, overdue=True), at(6))) == ["agent.recovered"]


def test_the_page_draws_the_table() -> None:
    drawn = arrows(PAGE)
    table = {(a or "[*]", str(b), str(why)) for (a, why), b in TRANSITIONS.items()}
    assert len(drawn) == len(table)
    assert set(drawn) == table


def test_who_failed_an_unknown_life_learns_from_another_registry_which_it_was() -> None:
    gone = known(tick(known(tick(seeded(), at(5), BOUNDS).record), at(10), BOUNDS).record)
    assert (gone.state, gone.incarnation) == (AgentState.FAILED, UNKNOWN_LIFE)
    decision = learn(gone, told_failed("1"), at(11))
    assert (known(decision.record).incarnation, decision.events, decision.failed) == ("1", (), ())
