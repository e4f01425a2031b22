"""Files that several writers of one process id replace, as containers on a shared volume do."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from maniple_runtime.policy_cache import read_json, write_atomically

WRITERS = 8


def test_writers_at_the_same_time_leave_a_whole_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "policies.json"
    values = [[number] * 20_000 for number in range(WRITERS)]
    with ThreadPoolExecutor(WRITERS) as pool:
        for _ in range(10):
            list(pool.map(lambda value: write_atomically(path, value), values))
            assert read_json(path) in values
    assert list(tmp_path.iterdir()) == [path]
