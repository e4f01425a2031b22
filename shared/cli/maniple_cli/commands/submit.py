"""`maniple submit`: one task, or many from JSON lines."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec import Raw

from maniple import codec
from maniple.client import connect
from maniple.client.handle import error_of
from maniple.client.submission import check_task
from maniple.errors import InvalidMessage
from maniple.identifiers import new_id
from maniple.messages import NULL, Task
from maniple_cli.commands.bulk import Bulk, BulkOptions
from maniple_cli.output import (
    BrokerOption,
    ExitCode,
    JsonOption,
    complain,
    explain,
    operator_url,
    print_bytes,
    print_line,
    run,
)

LABEL_HELP = "A label, key=value; may be given again."


def submit(  # noqa: PLR0913 - a command's options
    capability: Annotated[str | None, typer.Argument(help="What to run, e.g. text.stats.")] = None,
    payload: Annotated[
        str | None, typer.Argument(help="The payload as JSON; null if none.")
    ] = None,
    *,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            help="JSON lines ('-': standard input): a task object each, "
            "or with CAPABILITY a payload each.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the results here as JSON lines.")
    ] = None,
    task_id: Annotated[str | None, typer.Option("--id", help="The task's id.")] = None,
    tenant: Annotated[str | None, typer.Option(help="The tenant that the task belongs to.")] = None,
    label: Annotated[list[str] | None, typer.Option(help=LABEL_HELP)] = None,
    ttl: Annotated[float | None, typer.Option(help="Seconds until the task expires.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for one attempt.")] = None,
    max_attempts: Annotated[int | None, typer.Option(help="The most attempts in all.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait for the results.")] = True,
    wait_timeout: Annotated[
        float | None, typer.Option(help="Seconds to wait for the result of a single task.")
    ] = None,
    as_json: JsonOption = False,
    broker_url: BrokerOption = None,
) -> None:
    """Submit a task and print its output, or submit many from a file."""
    known = _given(
        tenant=tenant,
        labels=_labels(label) if label else None,
        ttl=ttl,
        timeout=timeout,
        max_attempts=max_attempts,
    )
    if file is None and output is not None:
        raise typer.BadParameter("--output is for the results of a --file")
    if wait_timeout is not None and not 0 <= wait_timeout < math.inf:
        raise typer.BadParameter("--wait-timeout is a number of seconds, from 0 on")
    if wait_timeout is not None and not wait:
        raise typer.BadParameter("--wait-timeout and --no-wait exclude each other")
    url = operator_url_or_exit(broker_url)
    if file is not None:
        if payload is not None or task_id is not None or wait_timeout is not None:
            raise typer.BadParameter(
                "PAYLOAD, --id and --wait-timeout are for a single task, not for --file"
            )
        bulk = Bulk(BulkOptions(file, output, capability, known, wait=wait, as_json=as_json))
        raise typer.Exit(run(bulk.submit_all(url)))
    if capability is None:
        raise typer.BadParameter("give a CAPABILITY, or --file")
    identity = _given(id=task_id) or {"id": new_id()}
    task = Task(capability=capability, payload=_payload(payload), **identity, **known)
    raise typer.Exit(run(_single(url, task, wait=wait, timeout=wait_timeout, as_json=as_json)))


def _given(**fields: Any) -> dict[str, Any]:
    """Return the given fields of a task. Raises `typer.BadParameter` for a wrong one."""
    given = {name: value for name, value in fields.items() if value is not None}
    for name, value in given.items():
        try:
            check_task(Task(capability="maniple.echo", **{name: value}))
        except InvalidMessage as error:
            flag = "--label" if name == "labels" else f"--{name.replace('_', '-')}"
            raise typer.BadParameter(error.message, param_hint=flag) from error
    return given


def operator_url_or_exit(broker_url: str | None) -> str:
    """Return the broker's URL, or end the program if there is none."""

    async def find() -> str:
        return operator_url(broker_url)

    return run(find())


async def _single(
    url: str, task: Task, *, wait: bool, timeout: float | None, as_json: bool
) -> ExitCode:
    async with connect(url) as client:
        handle = await client.submit_task(task)
        if not wait:
            identity: dict[str, Any] = {"id": handle.id, "tenant": handle.tenant}
            if as_json:
                print_bytes(codec.encode(identity))
            else:
                print_line(handle.id)
            return ExitCode.DONE
        result = await handle.outcome(timeout)
    error = error_of(result)
    if as_json:
        print_bytes(codec.encode(result))
    elif error is None:
        print_bytes(bytes(result.output))
    if error is None:
        return ExitCode.DONE
    complain(f"{result.status}: {error}")
    explain(getattr(error, "__notes__", ()))
    return ExitCode.FAILED


def _payload(text: str | None) -> Raw:
    if text is None:
        return NULL
    try:
        raw = text.encode()
        codec.decode_value(raw)
    except (InvalidMessage, UnicodeEncodeError) as error:
        raise typer.BadParameter(
            f"PAYLOAD is no JSON ({error}); a string needs its quotes: '\"text\"'"
        ) from error
    return Raw(raw)


def _labels(pairs: list[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"--label {pair!r} must look like key=value")
        if key in labels:
            raise typer.BadParameter(f"--label {key} is given twice")
        labels[key] = value
    return labels
