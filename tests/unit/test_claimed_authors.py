"""Who is said to have changed a policy is told as what it is: a claim."""

import pytest
from pydantic import ValidationError

from maniple_cli.commands.policy import looks
from maniple_cli.commands.policy.common import claimed
from maniple_policy.requests import Change


@pytest.mark.parametrize("author", ["alice", "root@host", "Consul of Rome"])
def test_a_claimed_author_is_told_as_one(author: str) -> None:
    assert Change(author=author).author == author
    assert claimed(author) == f"{author} (as claimed)"


def test_what_the_service_found_itself_is_no_claim() -> None:
    assert claimed("consul") == "consul"


@pytest.mark.parametrize("author", ["consul", " Consul ", "CONSUL", ""])
def test_nobody_may_claim_to_be_what_the_service_writes(author: str) -> None:
    with pytest.raises(ValidationError, match="author"):
        Change(author=author)


def test_history_and_list_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = {
        "kind": "retry",
        "name": "a",
        "version": 1,
        "match": {"capability": "*", "labels": {}},
        "rollout": None,
    }
    revision = {
        "policy": policy,
        "deleted": False,
        "reason": "why",
        "at": "2030-01-01T00:00:00Z",
        "author": "alice",
        "diff": "",
    }
    answers = {"history": {"revisions": [revision]}, "list": {"policies": [revision]}}
    monkeypatch.setattr(looks, "ask_policy", lambda _url, op, _body: answers[op])
    looks.history(["retry/a"])
    looks.list_()
    history, *listed = capsys.readouterr().out.splitlines()
    assert history == "version 1, 2030-01-01 00:00:00 by alice (as claimed): why"
    assert "by (claimed)" in listed[0]
