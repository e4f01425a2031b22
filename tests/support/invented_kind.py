"""An invented kind of policy: what CONTRIBUTING.md says of a new one, followed on a copy."""

from maniple_dispatcher.pipeline import stages
from maniple_policies import registry
from product_copy import Copy

PIPELINE = stages.__name__.rpartition(".")[0]
POLICIES = registry.__name__.rpartition(".")[0]

KIND = f'''
"""`pause`: how long a task rests before it goes to its lane."""

from typing import Literal

from pydantic import Field

from {POLICIES}.matching import StrictModel
from {POLICIES}.policy import Policy


class PauseSpec(StrictModel):
    """Lets tasks rest for `seconds` before they go to their lane."""

    seconds: float = Field(gt=0, le=3600)


class PausePolicy(Policy):
    """A rest before the lane."""

    kind: Literal["pause"] = "pause"
    spec: PauseSpec
'''
STAGE = f'''
"""`pause`: a task rests before it goes to its lane. Pure."""

from maniple.messages import Envelope, Waiting
from {POLICIES}.kinds.pause import PausePolicy
from {PIPELINE}.verdicts import Delay, State, Verdict


def decide(_task: Envelope, policy: PausePolicy, _state: State, _now: float) -> Verdict:
    """Delay every task."""
    return Delay(policy.spec.seconds, Waiting.NOT_DUE, "paused")
'''
REFUSING = f'''
"""`pause`: a task is refused until it has asked often enough, and never ends for that."""

from maniple.errors import ErrorCode
from maniple.messages import Envelope, Waiting
from {POLICIES}.kinds.pause import PausePolicy
from {PIPELINE}.verdicts import PASS, Reject, State, Verdict

asked: list[str] = []


def decide(task: Envelope, policy: PausePolicy, _state: State, _now: float) -> Verdict:
    """Refuse as many times as the policy has seconds."""
    asked.append(task.id)
    if len(asked) > policy.spec.seconds:
        return PASS
    return Reject(ErrorCode.OVERLOADED, "not yet", 1.0, Waiting.OVERLOADED, ends=False)
'''
"""Another stage of the same kind."""
DOCUMENT = {"kind": "pause", "name": "it", "spec": {"seconds": 7}}


def declared_in(copy: Copy) -> None:
    """Write the invented kind and enter it in the table."""
    module = f"{POLICIES}.kinds.pause"
    copy.add(module, KIND.lstrip())
    imported = "\n\n_DOCUMENTS: tuple"
    copy.change(registry, imported, f"\nfrom {module} import PausePolicy{imported}")
    copy.change(registry, "    RateLimitPolicy,\n", "    RateLimitPolicy,\n    PausePolicy,\n")


def enforced_in(copy: Copy, stage: str = STAGE) -> None:
    """Write the stage of the invented kind and enter it in the order of the stages."""
    module = f"{PIPELINE}.pause"
    copy.add(module, stage.lstrip())
    imported = "\n\n_Kind = TypeVar"
    lines = f"from {module} import decide as pause\nfrom {POLICIES}.kinds.pause import PausePolicy"
    copy.change(stages, imported, f"\n{lines}{imported}")
    last = "Stage(RateLimitPolicy, rate_limit.decide),"
    copy.change(stages, last, f"{last} Stage(PausePolicy, pause),")
