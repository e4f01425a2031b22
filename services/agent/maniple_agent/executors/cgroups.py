"""Cgroups (v2) of the worker processes: each bounds a worker and what it starts, together.

There are some where the agent's own cgroup has been *delegated* to it: it may write there and has
the controller `memory`, as with systemd's `Delegate=yes` or in a container whose cgroup namespace
is writable. A cgroup that has processes can bound none below it, so that all of the agent's own go
into one below, `AGENTS`, which agents that share a cgroup share as well. Those of workers are named
after the agent that made them; if it was killed, the next agent there removes them.
"""

import errno
import os
from itertools import count
from pathlib import Path

import structlog

from maniple_agent.pids import exists

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
AGENTS = "maniple-agents"
WORKER = "maniple-worker-"
VARIABLE = "MANIPLE_WORKER_CGROUP"
"""Tells a worker process its cgroup; gone before any handler is loaded."""
INSTEAD = "the memory of worker processes is bounded by RLIMIT_AS"
MOVES = 10
"""How often processes are moved that were started meanwhile by those that were there."""


class NotDelegated(Exception):
    """The cgroup that this process is in is not its to divide; says why."""


class Groups:
    """The cgroups of an agent's workers."""

    def __init__(self, folder: Path | None) -> None:
        """Make them in a folder that `groups_below` has made ready; None: there are none."""
        self._folder = folder
        self._numbers = count(1)
        self._left: set[Path] = set()
        self._told = False
        self._log = structlog.get_logger("maniple.agent.executor")

    def new(self) -> Path | None:
        """Make one for a worker; None if there can be none."""
        if self._folder is None:
            return None
        try:
            return _made(self._folder, self._numbers)
        except OSError as error:
            if not self._told:
                self._log.info(INSTEAD, reason=repr(error))
            self._told = True
            return None

    def remove_group(self, group: Path | None) -> bool:
        """Remove the one of a worker that has ended, and earlier ones; tell whether all are gone.

        One goes later that is not empty yet: what is killed takes a moment to end, and a child in a
        session of its own goes on.
        """
        if group is not None:
            self._left.add(group)
        self._left = {left for left in self._left if not _removed(left)}
        return not self._left


def groups_below(root: Path, membership: Path = MEMBERSHIP) -> Groups:
    """Make this process's cgroup ready for those of workers; `root` is where cgroup v2 is mounted.

    Where it was not delegated, or that fails, there are none, and a line in the log says why.
    """
    log = structlog.get_logger("maniple.agent.executor")
    try:
        folder = delegated(root, membership.read_text(encoding="utf-8"))
        _divide(folder)
    except (NotDelegated, OSError) as error:
        log.info(INSTEAD, reason=str(error))
        return Groups(None)
    _remove_of_the_dead(folder)
    log.info("the memory of worker processes is bounded by cgroups", folder=str(folder))
    return Groups(folder)


def delegated(root: Path, membership: str) -> Path:
    """Return the cgroup that was delegated to this process: its own, or that above `AGENTS`.

    `membership` is what Linux says in `/proc/self/cgroup`. Raises `NotDelegated` or `OSError`.
    """
    if not (root / "cgroup.controllers").exists():
        raise NotDelegated(f"{root} is no cgroup v2")
    paths = [line[3:] for line in membership.splitlines() if line.startswith("0::")]
    path = paths[0] if paths else ".."
    if ".." in path.split("/"):
        raise NotDelegated("the agent's cgroup is outside of its namespace")
    own = root / path.lstrip("/")
    if str(os.getpid()) not in (own / "cgroup.procs").read_text(encoding="ascii").split():
        raise NotDelegated(f"the agent is not in {own}")
    folder = own.parent if own.name == AGENTS else own
    needed = (folder, folder / "cgroup.procs", folder / "cgroup.subtree_control")
    if not all(os.access(one, os.W_OK) for one in needed):
        raise NotDelegated(f"{folder} is not writable")
    if not _begins_at(folder, root):
        raise NotDelegated(f"{folder} was not delegated to the agent")
    if "memory" not in (folder / "cgroup.controllers").read_text(encoding="ascii").split():
        raise NotDelegated(f"{folder} has no controller `memory`")
    return folder


def _begins_at(folder: Path, root: Path) -> bool:
    """Tell whether what may be written begins here: else somebody else divides it, e.g. systemd.

    Root may write everywhere, and a user all that a systemd of their own has: that marks what it
    delegates.
    """
    if folder == root:
        return (folder / "cgroup.type").exists()  # of a namespace; the machine's own has none
    return not os.access(folder.parent / "cgroup.procs", os.W_OK) or any(
        _attribute(folder, name) == b"1" for name in ("user.delegate", "trusted.delegate")
    )


def _attribute(path: Path, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError:
        return None


def _divide(folder: Path) -> None:
    """Move all processes of a cgroup into one below it, and let memory be bounded there."""
    agents = folder / AGENTS
    agents.mkdir(exist_ok=True)
    for moves in range(1, MOVES + 1):
        for pid in (folder / "cgroup.procs").read_text(encoding="ascii").split():
            _move(pid, agents)
        try:
            _write(folder / "cgroup.subtree_control", "+memory")
        except OSError as error:
            if error.errno != errno.EBUSY or moves == MOVES:
                raise
        else:
            return


def _move(pid: str, group: Path) -> None:
    if pid == "0":
        return  # of another namespace; as what is written, 0 is this process
    try:
        _write(group / "cgroup.procs", pid)
    except ProcessLookupError:
        return  # it has ended


def _remove_of_the_dead(folder: Path) -> None:
    for group in folder.glob(f"{WORKER}*"):
        agent = group.name.removeprefix(WORKER).partition("-")[0]
        if agent.isdecimal() and (int(agent) == os.getpid() or not exists(int(agent))):
            _removed(group)


def _made(folder: Path, numbers: "count[int]") -> Path:
    while True:
        group = folder / f"{WORKER}{os.getpid()}-{next(numbers)}"
        try:
            group.mkdir()
        except FileExistsError:
            continue  # of a predecessor with the same number, whose worker's child goes on
        try:
            _write(group / "memory.oom.group", "1")
            if (group / "memory.swap.max").exists():
                _write(group / "memory.swap.max", "0")
        except OSError:
            _removed(group)
            raise
        return group


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def enter(group: Path) -> None:
    """Move this process into a cgroup; what it starts is there too. Raises `OSError`."""
    _write(group / "cgroup.procs", "0")


def bound(group: Path, memory: int) -> None:
    """Allow what is in a cgroup so many bytes together. Raises `OSError`.

    It is killed at once if it uses more and the kernel can take nothing back.
    """
    _write(group / "memory.max", str(memory))


def ran_out(group: Path) -> bool:
    """Tell whether what was in a cgroup was killed because it went over its own limit.

    That something in it was killed does not say so: the machine may have run out of memory.
    """
    try:
        text = (group / "memory.events").read_text(encoding="ascii")
    except OSError:
        return False
    events = dict(line.split() for line in text.splitlines())
    killed = events.get("oom_kill", "0") != "0" or events.get("oom_group_kill", "0") != "0"
    return killed and events.get("oom", "0") != "0"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="ascii")
