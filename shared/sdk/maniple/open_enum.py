"""Enumerations to which a newer process may have added."""

import re
from enum import StrEnum
from typing import Self

_VALUE = re.compile(r"[a-z][a-z0-9_]{0,63}")


class OpenEnum(StrEnum):
    """What is not known here keeps its text: a newer process's word costs no message.

    Such a value is equal to its text and to nothing that is known, and is not `known` itself.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            return None
        member = str.__new__(cls, value)
        member._name_ = member._value_ = value
        return member

    @property
    def known(self) -> bool:
        """Whether it is one of those that are written down here."""
        return any(self is one for one in type(self))
