"""`make floods`: what an outside publisher can do to a neighbour, and to a dispatcher's memory.

For each flood it prints the latencies of a neighbour as a ratio to how they were while it
was quiet, by how much the dispatcher grew, and how much of a processor it used; the last line is
JSON. Times are printed, not judged: they are the machine's.
"""

import argparse
import asyncio
import json
import sys

from needs import CONSUL, RABBITMQ, need
from system.floods.kinds import KINDS
from system.floods.measure import measured


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make floods", description=__doc__)
    parser.add_argument("--only", default="", help="floods whose name contains this")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long each is watched")
    return parser.parse_args()


async def main() -> None:
    """Measure each kind of flood in a cluster of its own, and print what it did."""
    given, found = arguments(), {}
    need(RABBITMQ, CONSUL)
    for name, kind in KINDS.items():
        if given.only in name:
            found[name] = seen = await measured(kind, given.seconds)
            sys.stdout.write(f"{name}: {seen}\n")
            sys.stdout.flush()
    sys.stdout.write(json.dumps({name: seen.figures for name, seen in found.items()}) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
