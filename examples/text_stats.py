"""A handler. A cluster that has it: `uv run maniple dev --handlers examples.text_stats`."""

from collections import Counter

from maniple import TaskContext, task


@task("text.stats", timeout=30, max_attempts=3)
async def text_stats(text: str, context: TaskContext) -> dict[str, object]:
    """Count the lines and words of a text and find its most frequent words."""
    words = text.lower().split()
    context.logger.info("counted", words=len(words))
    return {
        "lines": text.count("\n"),
        "words": len(words),
        "most_frequent": Counter(words).most_common(3),
    }
