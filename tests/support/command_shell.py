"""Many commands of `maniple` in one process beside the test: starting Python each time is slow.

Reads lines of JSON, [arguments, standard input], and answers each with [exit code, stdout, stderr].
"""

import json
import sys

from typer.testing import CliRunner

from maniple_cli.main import build

if __name__ == "__main__":
    for line in sys.stdin:
        arguments, given = json.loads(line)
        result = CliRunner().invoke(build(), arguments, input=given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        sys.stdout.write(json.dumps([result.exit_code, result.stdout, result.stderr]) + "\n")
        sys.stdout.flush()
