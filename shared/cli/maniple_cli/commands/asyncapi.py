"""`maniple asyncapi`: the contract for programs in any language."""

from pathlib import Path
from typing import Annotated

import typer

from maniple_cli.contract.schemas import asyncapi_document, rendered, write_schemas
from maniple_cli.output import ExitCode, complain, print_line, why


def asyncapi(
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the document here.")
    ] = None,
    schemas: Annotated[
        Path | None, typer.Option(help="Also write each message's JSON Schema into this folder.")
    ] = None,
) -> None:
    """Print the AsyncAPI 3 document of Maniple's messages; needs no cluster."""
    text = rendered(asyncapi_document())
    try:
        if schemas is not None:
            write_schemas(schemas)
        if output is not None:
            output.write_text(text)
    except (OSError, ValueError) as error:
        place = getattr(error, "filename", None) or output or schemas
        complain(f"{place} cannot be written: {why(error)}; give a place that can be")
        raise typer.Exit(ExitCode.USAGE) from error
    if output is None:
        print_line(text.rstrip())
