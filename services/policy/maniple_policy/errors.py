"""Why a request to the policy service may be refused; the codes are part of the contract."""

from maniple.errors import RequestFailed


class InvalidPolicy(RequestFailed):
    """The document is wrong; nothing was stored."""

    def __init__(self, message: str) -> None:
        """Describe which field is wrong, and how."""
        super().__init__("invalid_policy", message)


class UnknownPolicy(RequestFailed):
    """There is no policy of that kind and name."""

    def __init__(self, key: str) -> None:
        """Name it as `kind/name`."""
        super().__init__("unknown_policy", f"there is no policy {key}")


class VersionConflict(RequestFailed):
    """Somebody else changed the policy since the version that the caller knows."""

    def __init__(self, key: str, expected: int, found: int) -> None:
        """Name both versions; 0 stands for none."""
        super().__init__("conflict", f"{key} is at version {found}, not at {expected}")


class StoreUnavailable(RequestFailed):
    """Consul is unavailable, so nothing can be changed; what is in force stays."""

    def __init__(self, reason: str) -> None:
        """Describe how Consul failed."""
        super().__init__("store_unavailable", reason)


class UnknownVersion(RequestFailed):
    """The policy has no such version, or does not keep it any more."""

    def __init__(self, key: str, version: int) -> None:
        """Name policy and version."""
        super().__init__("unknown_version", f"{key} has no version {version} that could be used")


class PolicyTie(RequestFailed):
    """Neither of two documents would win; nothing was stored."""

    def __init__(self, one: str, two: str) -> None:
        """Name both as `kind/name`."""
        super().__init__(
            "policy_tie",
            f"{one} and {two} are equally specific and can match the same task: "
            "give one of them another selector",
        )
