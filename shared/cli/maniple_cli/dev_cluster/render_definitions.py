"""Writes the broker's definitions: `python -m maniple_cli.dev_cluster.render_definitions FILE`.

`MANIPLE_ENVIRONMENT` names the vhost, `MANIPLE_<ROLE>_PASSWORD` gives each role's password. Only
their salted hashes are written, so that whichever user the broker runs as may read the file.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from maniple.errors import ConfigurationError
from maniple_cli.dev_cluster.definitions import Role, rendered

WRONG_USAGE = 2


def passwords_of(environ: Mapping[str, str]) -> dict[Role, str]:
    """Return each role's password. Raises `ConfigurationError` with what is not set."""
    variables = {role: f"MANIPLE_{role.upper()}_PASSWORD" for role in Role}
    missing = [name for name in variables.values() if not environ.get(name)]
    if missing:
        raise ConfigurationError(f"not set: {', '.join(missing)}")
    return {role: environ[name] for role, name in variables.items()}


def main() -> None:
    """Write the file that the first argument names; ends with 2 when a password is missing."""
    try:
        definitions = rendered(
            os.environ.get("MANIPLE_ENVIRONMENT") or "dev", passwords_of(os.environ)
        )
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(WRONG_USAGE) from error
    Path(sys.argv[1]).write_text(json.dumps(definitions))


if __name__ == "__main__":
    main()
