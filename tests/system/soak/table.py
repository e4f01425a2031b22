"""What a soak prints: every life of every process, then queues and the broker, then complaints."""

from rich.console import Console
from rich.table import Table

from system.soak.judging import Life, Samples, Series
from system.soak.run import Outcome


def report(outcome: Outcome, console: Console) -> None:
    """Print it all."""
    console.print(table_of(outcome))
    console.print(broker_table(outcome.samples))
    console.print(summary(outcome))
    for problem in outcome.complaints:
        console.print(problem, style="red", markup=False)


def table_of(outcome: Outcome) -> Table:
    """Return what was sampled of processes; lives that were too short to be judged are dim."""
    table = Table(box=None, pad_edge=False)
    titles = (
        "process",
        "lived",
        "MiB early",
        "late",
        "most",
        "growth",
        "MiB an hour",
        "fds",
        "late",
    )
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number else "left")
    for life in sorted(outcome.samples.lives, key=lambda one: (one.name, one.memory.times)):
        judged = life.memory.lasted >= outcome.shortest
        table.add_row(*_of_life(life), style="" if judged else "dim")
    return table


def broker_table(samples: Samples) -> Table:
    """Return queues that had messages and the broker's objects: medians, and the most."""
    table = Table(box=None, pad_edge=False)
    for number, title in enumerate(("in the broker", "early", "late", "most")):
        table.add_column(title, justify="right" if number else "left")
    for found in (samples.queues, samples.objects):
        for name, series in sorted(found.items()):
            if series.trend.most:
                table.add_row(name, *_of_series(series))
    return table


def _of_life(life: Life) -> list[str]:
    memory, handles = life.memory.trend, life.descriptors.trend
    return [
        life.name,
        f"{life.memory.lasted:.0f} s",
        *(f"{size:.1f}" for size in (memory.early, memory.late, memory.most)),
        f"{memory.late / memory.early - 1:+.1%}",
        f"{memory.an_hour:+.1f}",
        *(f"{count:.0f}" for count in (handles.early, handles.late)),
    ]


def _of_series(series: Series) -> list[str]:
    trend = series.trend
    return [f"{value:,.0f}" for value in (trend.early, trend.late, trend.most)]


def summary(outcome: Outcome) -> str:
    """Return a sentence about the tasks and what was done to the cluster."""
    accounts = outcome.accounts
    sums = ", ".join(f"{count} {what}" for what, count in sorted(accounts.sums.items()) if count)
    return (
        f"{accounts.submitted:,} tasks submitted at {outcome.pace.carried:,.0f}/s, "
        f"{accounts.told:,} ended; {outcome.killed} agents killed, "
        f"{outcome.closed} connections closed" + (f"; {sums}" if sums else "")
    )
