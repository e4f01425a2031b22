"""What other programs put before a text: marks of its encoding."""

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE

from maniple.errors import ConfigurationError

LEAST = 2


def is_told(beginning: bytes) -> bool:
    """Whether so much of a text tells its encoding, for `unmarked`."""
    return len(beginning) >= LEAST and not (
        len(beginning) < len(BOM_UTF8) and BOM_UTF8.startswith(beginning)
    )


def unmarked(beginning: bytes, name: str) -> bytes:
    """Return the beginning of the text `name`, in UTF-8, without a mark.

    Raises `ConfigurationError` for UTF-16 and UTF-32, with a mark or by a first letter of ASCII.
    """
    if beginning.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or 0 in beginning[:LEAST]:
        raise ConfigurationError(f"{name}: is UTF-16 or UTF-32: save it as UTF-8")
    return beginning.removeprefix(BOM_UTF8)
