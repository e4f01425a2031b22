"""A client in a process of its own: `python -m bench.client_program celery`; `bench.clients` does.

It reads commands from its standard input, a JSON object a line (`{"do": "flat", "count": 1000}`),
and writes one for each; what it needs comes by the environment.
"""

import asyncio
import gc
import importlib
import json
import os
import sys

from maniple_runtime.event_loop import new_event_loop

KINDS = {
    "sdk": "bench.maniple_side",
    "plain": "bench.plain_side",
    "flooder": "bench.plain_side",
    "celery": "bench.celery_side",
    "dramatiq": "bench.dramatiq_side",
    "taskiq": "bench.taskiq_side",
}


async def serve(kind: str) -> None:
    """Do what the lines say until there are no more."""
    side = importlib.import_module(KINDS[kind])
    async with side.client(os.environ) as actions:
        print(json.dumps({"ready": sorted(actions)}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            command = json.loads(line)
            gc.collect()
            print(json.dumps(await actions[command["do"]](command)), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(sys.argv[1]))
