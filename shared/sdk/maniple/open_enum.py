"""Enumerations to which a newer release may add values."""

import re
from enum import StrEnum
from typing import Self

_VALUE = re.compile(r"[a-z][a-z0-9_]{0,63}")


class OpenEnum(StrEnum):
    """An enumeration that keeps the text of an unknown value, so that its message can be read.

    An unknown value is equal to its text and to no known value; its `known` is false.
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
        """Whether it is a value of this release."""
        return any(self is one for one in type(self))
