"""The client, to run beside `uv run maniple dev --handlers examples.text_stats`.

uv run python examples/count_words.py README.md docs/*/*.md
"""

import asyncio
import sys
from pathlib import Path

from maniple import TaskError, connect


def read(file: str) -> str:
    """Return the text of a file, whatever its encoding."""
    return Path(file).read_text(errors="replace")


async def main(files: list[str]) -> None:
    """Count the words of all files at once and print a line for each, in their order."""
    names = iter(files)
    async with connect() as client:
        async for result in client.map("text.stats", map(read, files), return_errors=True):
            name = next(names)
            if isinstance(result, TaskError):
                print(f"{name}: {result.code}: {result}")
            else:
                print(f"{name}: {result['lines']} lines, {result['words']} words")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or [__file__]))
