"""Byte order marks and other encodings of texts that other programs wrote."""

from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE

from maniple.errors import ConfigurationError

LEAST = 2


def is_told(beginning: bytes) -> bool:
    """Tell whether a text's first bytes are enough for `unmarked`."""
    return len(beginning) >= LEAST and not (
        len(beginning) < len(BOM_UTF8) and BOM_UTF8.startswith(beginning)
    )


def unmarked(beginning: bytes, name: str) -> bytes:
    """Return the beginning of the text `name`, in UTF-8, without a byte order mark.

    Raises `ConfigurationError` for UTF-16 and UTF-32, recognised by their mark or by an ASCII first
    letter.
    """
    if beginning.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or 0 in beginning[:LEAST]:
        raise ConfigurationError(f"{name}: is UTF-16 or UTF-32: save it as UTF-8")
    return beginning.removeprefix(BOM_UTF8)
