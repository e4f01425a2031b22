"""The faults of the campaign; it injects them in this order."""

from faults import disk_alarm, memory_alarm
from maniple.topology import QUEUES, agent_queue, lane_queues
from system.campaign.nemesis import Expected, Fault
from system.campaign.nemesis_faults import (
    alarm,
    close_all_of,
    cut_off_agent,
    cut_policies_off,
    end_broker,
    end_consul,
    freeze_agent,
    freeze_agent_and_kill_leader,
    freeze_consul,
    freeze_service,
    kill_agent_with_child,
    kill_agents,
    kill_leader,
    kill_one_of,
    kill_under_limit,
    last,
    mistake_time,
    nothing,
    reset_agent,
    silence,
    stall_broker,
)
from system.campaign.workload import AFFINE, COMPUTES, SHORT, SPLIT, THREAD

KILLED_WITHIN, SILENT_WITHIN = 1.0, 10.0  # in which tasks have to run elsewhere
FAILED, SUSPECTED = Expected.FAILED, Expected.SUSPECTED
AGENTS = 5  # the fewest that the registry's storm guard looks after
# All but the streams, which are everybody's, and of which a suspended leader loses nothing either.
IN_TURN = (
    *(queue for queue in QUEUES if queue.kind == "quorum"),
    *(queue for lane in (SPLIT, THREAD, COMPUTES, AFFINE, SHORT) for queue in lane_queues(lane)),
    *(agent_queue(f"agent-{number}") for number in range(1, AGENTS + 1)),
)
RESTART = 30.0  # a process that died is started after a pause, and Python and its imports take time

FAULTS: tuple[Fault, ...] = (
    Fault("nothing, for comparison", nothing),
    Fault("all cores are busy with computing", last(30), 30, busy=True),
    Fault("an agent is killed", kill_agents(1), 3, FAILED, KILLED_WITHIN, RESTART, short=True),
    Fault("two agents are killed at once", kill_agents(2), 3, FAILED, KILLED_WITHIN, RESTART),
    Fault("a dispatcher is killed", kill_one_of("dispatcher"), 3, whole_within=RESTART, short=True),
    Fault(
        "an agent is killed, and a child of its handler lives on",
        *(kill_agent_with_child, 3, FAILED, KILLED_WITHIN, RESTART),
        short=True,
    ),
    Fault(
        "an agent is killed, and comes back with a clock that is 120 s ahead",
        *(mistake_time(120, 40), 40, FAILED, KILLED_WITHIN, RESTART),
    ),
    Fault(
        "a dispatcher is killed among tasks that a limit refuses",
        *(kill_under_limit(all_of_them=False), 15),
        whole_within=RESTART,
    ),
    Fault(
        "all dispatchers are killed while a limit refuses",
        *(kill_under_limit(all_of_them=True), 15),
        whole_within=RESTART,
    ),
    Fault(
        "one of two policy services is cut off from Consul for 30 s",
        *(cut_policies_off(30), 30),
        shakes_consul=True,
        works_meanwhile=True,
    ),
    # The broker takes back what it had after 10 to 15 s.
    Fault("a dispatcher is frozen for 20 s", freeze_service("dispatcher", 20, one=True), 20),
    Fault("the leading registry is killed", kill_leader, 3, whole_within=RESTART, short=True),
    Fault(
        "all registries are frozen for 20 s",
        freeze_service("registry", 20),
        20,
        works_meanwhile=True,
    ),
    Fault(
        "the policy service is killed", kill_one_of("policy"), 3, whole_within=RESTART, short=True
    ),
    Fault(
        "the policy service is frozen for 20 s",
        freeze_service("policy", 20),
        20,
        works_meanwhile=True,
    ),
    Fault("an agent is frozen for 5 s", freeze_agent(5), 5, SUSPECTED, short=True),
    Fault("an agent is frozen for 12 s", freeze_agent(12), 12, FAILED, SILENT_WITHIN, short=True),
    Fault("an agent is frozen for 30 s", freeze_agent(30), 30, FAILED, SILENT_WITHIN),
    Fault(
        "an agent is frozen for 12 s, the leading registry killed before it acts",
        *(freeze_agent_and_kill_leader(12), 12, FAILED, SILENT_WITHIN, RESTART),
    ),
    Fault(
        "an agent is cut off for 12 s, silently",
        *(cut_off_agent(12), 12, FAILED, SILENT_WITHIN),
        short=True,
    ),
    Fault("an agent's connections are reset", reset_agent),
    Fault("an agent's connections are closed by an operator", close_all_of("agent"), 2),
    Fault(
        "all connections are closed by an operator",
        close_all_of(""),
        2,
        short=True,
        shakes_all=True,
    ),
    Fault("the broker is restarted", end_broker(kill=False), 12, shakes_all=True),
    Fault("the broker is killed", end_broker(kill=True), 8, short=True, shakes_all=True),
    Fault(
        "the broker stands still for 1, 2 and 4 s",
        *(stall_broker(1.0, 2.0, 4.0), 13),
        shakes_all=True,
    ),
    # What waits elsewhere for a lane that was stuck tries it again after up to a minute.
    Fault(
        "a lane's queue does not answer for 60 s",
        *(silence(lane_queues(SHORT)[:1], 60), 60),
        whole_within=75,
        works_meanwhile=True,
    ),
    Fault(
        "a lane's queue does not answer for 60 s, and nothing is submitted",
        *(silence(lane_queues(SHORT)[:1], 60), 60),
        whole_within=75,
        idle=True,
    ),
    Fault(
        "each queue in turn, lanes and agents' own among them, does not answer for 3 s",
        *(silence(IN_TURN, 3), 3 * len(IN_TURN)),
    ),
    Fault("the broker's memory alarm for 12 s", alarm(memory_alarm, 12), 14, shakes_all=True),
    Fault("the broker's disk alarm for 12 s", alarm(disk_alarm, 12), 14, shakes_all=True),
    Fault(
        "Consul is frozen for 20 s",
        freeze_consul(20),
        20,
        shakes_consul=True,
        works_meanwhile=True,
    ),
    Fault(
        "Consul is restarted empty",
        end_consul(),
        5,
        short=True,
        shakes_consul=True,
        works_meanwhile=True,
    ),
    Fault(
        "Consul is away for 30 s, and back empty",
        end_consul(30),
        35,
        shakes_consul=True,
        works_meanwhile=True,
    ),
)
