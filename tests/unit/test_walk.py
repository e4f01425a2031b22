"""`tools/walk_recorder.py`: what ran because of something, and in how deep a chain of calls."""

import asyncio
import threading
from pathlib import Path
from types import CodeType

from walk_recorder import Chain, Ran, Recorder, is_below, walk_of

HERE = Path(__file__).parent
OURS = is_below([HERE])


def top(number: int) -> int:
    return middle(number)


def middle(number: int) -> int:
    return sum(bottom(one) for one in range(number))


def bottom(number: int) -> int:
    return number


def thrice() -> int:
    return top(1) + middle(1) + bottom(1)


async def waits() -> None:
    await asyncio.sleep(0)
    await steps_on()


async def steps_on() -> None:
    bottom(1)


async def calls() -> None:
    await steps_on()


def names(chain: Chain) -> list[str]:
    return [code.co_name for code in chain]


def deepest(ran: Ran) -> list[str]:
    return names(max(ran.values(), key=len))


def test_each_function_has_the_longest_chain_to_it_and_a_comprehension_is_none() -> None:
    recorder = Recorder(OURS)
    with recorder.installed():
        top(1)  # before it is asked
        with recorder.recording() as ran:
            thrice()
        top(1)  # and after it
    assert names(tuple(ran)) == ["thrice", "top", "middle", "bottom"]
    assert deepest(ran) == ["thrice", "top", "middle", "bottom"]


def test_what_is_not_ours_is_passed_over() -> None:
    recorder = Recorder(lambda code: code is not middle.__code__ and OURS(code))
    with recorder.installed(), recorder.recording() as ran:
        thrice()
    assert deepest(ran) == ["thrice", "top", "bottom"]


async def test_who_has_waited_begins_a_chain_and_who_awaits_it_is_not_in_it() -> None:
    recorder = Recorder(OURS)
    with recorder.installed(), recorder.recording() as ran:
        await asyncio.create_task(waits())
    assert deepest(ran) == ["waits", "steps_on", "bottom"]
    with recorder.installed(), recorder.recording() as ran:
        await asyncio.create_task(calls())
    assert deepest(ran) == ["calls", "steps_on", "bottom"]

    async def outer() -> None:
        await waits()

    with recorder.installed(), recorder.recording() as ran:
        await asyncio.create_task(outer())
    # `outer` has called `waits`, and hands it the control when that goes on.
    assert names(ran[waits.__code__]) == ["outer", "waits"]
    assert names(ran[bottom.__code__]) == ["waits", "steps_on", "bottom"]


def test_each_thread_has_chains_of_its_own() -> None:
    recorder, begin = Recorder(OURS), threading.Event()

    def work() -> None:
        begin.wait(10)
        top(1)

    with recorder.installed():
        thread = threading.Thread(target=work)
        thread.start()
        with recorder.recording() as ran:
            begin.set()
            thread.join()
    assert names(ran[bottom.__code__]) == ["top", "middle", "bottom"]


def test_what_runs_in_the_quiet_too_or_seldom_is_not_caused() -> None:
    def ran(*functions: object) -> dict[CodeType, Chain]:
        codes = [function.__code__ for function in functions]  # type: ignore[attr-defined]
        return {code: tuple(codes[: place + 1]) for place, code in enumerate(codes)}

    rounds = [ran(thrice, top, middle), ran(thrice, top), ran(thrice, top, bottom)]
    walk = walk_of(rounds, ran(thrice).keys(), HERE)
    (file,) = walk.files
    assert (file.path, file.functions) == (Path(__file__).name, ("top",))
    assert file.lines == walk.lines == len(Path(__file__).read_text().splitlines())
    # How it came to what it caused is told whole.
    assert walk.deepest == tuple(f"test_walk.py: {name}" for name in ("thrice", "top", "middle"))
    assert walk_of(rounds, ran(thrice, top).keys(), HERE).files == ()
