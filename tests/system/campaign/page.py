"""The page that a campaign writes: the matrix, and what it was measured with."""

import os
from collections.abc import Iterator

from paths import ROOT
from system.brokers import BrokerKind
from system.campaign.matrix import markdown_of
from system.campaign.run import Options, Outcome
from system.campaign.workload import RATE

PAGE = ROOT / "docs" / "failure-matrix.md"

HEAD = """# What fails, and what it costs

This page is written by the fault campaign; do not edit it. Above each table is the command that
wrote it.

The campaign runs a cluster of {agents} agents, two dispatchers, two registries and two policy
services on a broker and a Consul of its own. Two clients of the SDK and one plain AMQP publisher
submit {rate:.0f} tasks of 1 ms to 5 s a second, before, during and after each of the faults below,
which are injected one after the other. All the time policies of every kind are in force that let
through far more than comes. A row in which something of this does not hold ends the campaign with
an error, and nothing is written here:

- every submission is confirmed, and has exactly one first terminal result in the stream
  `maniple.records`, which no later one replaces; it says `succeeded` and has the right output; its
  submitter is told of it at least once, and of nothing else; it names each policy that decides
  about such tasks, so that none was without them;
- what a lost agent had runs elsewhere: within 1 s if it was killed, 10 s if it was frozen or cut
  off, less what two trips of a message of nobody's, through the same network and broker, took
  longer than usual meanwhile (at most a quarter of that 1 s or 10 s, and never more than a second);
  tasks with an affinity key, which wait until their agent has failed, within 11 s in any case;
- an agent that is silent is suspected within 5.5 s and declared failed within 10 s, and is not
  shown as better than that afterwards; it comes back as a new incarnation. No agent is suspected or
  failed without a fault that explains it;
- where only registries, the policy service or Consul are away, results keep coming, without a pause
  of more than 3 s;
- no process dies by itself; in the end no queue holds a message, all checks of all processes pass
  in Consul, and each process has at most a tenth and 10 MiB more memory than when it had started
  (the broker: a quarter and 40 MiB, without what its quorum queues have logged and not written).

The columns:

- *detected in*: until the registry said that the agent is unreachable, or failed. A killed agent
  that is started again at once is declared failed when its new incarnation registers.
- *migrated*: how many tasks the agent had, and when the last of them was running elsewhere; *with
  affinity*: the same of tasks with an affinity key.
- *all well after*: from the end of the fault until every process was ready and the registry said
  that every agent is active. At most 10 s, or 30 s where a process has to be started again.
- *re-executed*: tasks whose handler was started more than once; *late results refused*: terminal
  results that came after the first.
- *lost*: confirmed submissions without a terminal result.

"""

SECTION = "## "


def page_of(options: Options, outcome: Outcome, *, agents: int, before: str) -> str:
    """Return the page; of the one `before`, it keeps what was measured on other brokers."""
    title = f"{SECTION}{outcome.broker} ({options.broker})"
    measured = "".join(_measured_with(options, outcome))
    written = f"\n{_command(options)}\n{markdown_of(outcome.rows)}\n{measured}"
    sections = _sections(before) | {title: written}
    parts = (f"{title}\n{sections[title].rstrip()}\n" for title in sorted(sections))
    return HEAD.format(agents=agents, rate=RATE) + "\n".join(parts)


def _command(options: Options) -> str:
    chosen = [f"--seed {options.seed}"]
    if options.broker is not BrokerKind.NATIVE:
        chosen.insert(0, f"--broker {options.broker}")
    return f'```sh\nmake campaign ARGS="{" ".join(chosen)}"\n```\n'


def _sections(page: str) -> dict[str, str]:
    """Return the text under each title of a broker."""
    _, *parts = f"\n{page}".split(f"\n{SECTION}")
    named = (part.partition("\n") for part in parts)
    return {f"{SECTION}{title}": text for title, _, text in named}


def _measured_with(options: Options, outcome: Outcome) -> Iterator[str]:
    yield (
        f"Measured with {options.total:,} tasks of seed {options.seed} on {os.cpu_count()} cores, "
        f"in {outcome.seconds / 60:.0f} minutes. Submitters had {outcome.again:,} results more "
        "than once, with the same end. "
    )
    yield f"{memory_of(outcome)}.\n"


def memory_of(outcome: Outcome) -> str:
    """Return the memory of all processes in words."""
    sizes = (f"{name} {first:.0f} → {last:.0f}" for name, (first, last) in outcome.memory.items())
    return f"Memory in MiB, when each had started and at the end: {', '.join(sizes)}"
