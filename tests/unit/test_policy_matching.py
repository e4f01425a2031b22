"""Which policy wins, which two are a tie, and when two selectors can meet."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maniple_policies import Match, Policy, PolicySet, Where, matching, parse_policy, ties
from maniple_policies.matching import globs_overlap, matcher

TEXTS = ["".join(letters) for n in range(5) for letters in itertools.product("ab", repeat=n)]
short_globs = st.text("ab*?", min_size=1, max_size=3)

words = ["", "a", "b", "ab"]
globs = st.sampled_from(["*", "a", "b", "a*", "*b", "?", "ab", "**"])
labels = st.dictionaries(st.sampled_from(["x", "region"]), globs, max_size=2)
matches = st.builds(
    Match, capability=globs, tenant=globs, labels=labels, region=globs, instance=globs
)
TASKS = [
    (capability, tenant, {k: v for k, v in (("x", x), ("region", region)) if v is not None}, where)
    for capability, tenant in (("a", "a"), ("ab", "b"), ("b", "ab"))
    for x in (None, "", "ab")
    for region in (None, *words)
    for where in itertools.starmap(Where, itertools.product(["a", "ab"], words))
]


def timeout(name: str, match: Match) -> Policy:
    document = {"kind": "timeout", "name": name, "match": match.model_dump()}
    return parse_policy({**document, "spec": {"seconds": 1}})


def fits(glob: str, text: str) -> bool:
    match = matcher(glob)
    return match is None or bool(match(text))


def matched(match: Match, task: tuple[str, str, dict[str, str], Where]) -> bool:
    capability, tenant, labels, where = task
    region = labels.get("region") or where.region
    pairs = [
        (match.capability, capability),
        (match.tenant, tenant),
        (match.region, region),
        (match.instance, where.instance),
    ]
    return all(fits(*pair) for pair in pairs) and all(
        name in labels and fits(glob, labels[name]) for name, glob in match.labels.items()
    )


@settings(deadline=None)
@given(st.lists(short_globs, min_size=1, max_size=3))
def test_globs_overlap_exactly_when_some_text_matches_all(some: list[str]) -> None:
    # With two letters and three characters a common text, if there is one, can be had this short.
    found = any(all(fits(glob, text) for glob in some) for text in TEXTS)
    if globs_overlap(*some) and not found:
        longer = ("".join(letters) for letters in itertools.product("ab", repeat=6))
        found = any(all(fits(glob, text) for glob in some) for text in longer)
    assert globs_overlap(*some) == found


@settings(deadline=None)
@given(st.text("ab*?[!]", min_size=1, max_size=6), st.text("ab[!]\n", max_size=6))
def test_a_glob_overlaps_a_plain_text_exactly_when_it_matches_it(glob: str, text: str) -> None:
    assert globs_overlap(glob, text) == fits(glob, text)


@settings(deadline=None)
@given(st.lists(matches, min_size=1, max_size=4), st.sampled_from(TASKS), st.randoms())
def test_the_most_specific_wins_in_any_order_of_the_documents(
    some: list[Match], task: tuple[str, str, dict[str, str], Where], random: Any
) -> None:
    policies = [timeout(f"p{n}", match) for n, match in enumerate(some)]
    expected = sorted(
        (p for p in policies if matched(p.match, task)),
        key=lambda p: ([-n for n in p.match.specificity], p.name),
    )
    random.shuffle(policies)
    capability, tenant, labels, where = task
    found = PolicySet(policies, where).resolve(capability, tenant, labels)
    assert list(found.versions) == [p.key for p in expected[:1]]


@settings(deadline=None)
@given(matches, matches)
def test_a_tie_is_two_equally_specific_documents_that_one_task_matches(
    one: Match, two: Match
) -> None:
    meet = any(matched(one, task) and matched(two, task) for task in TASKS)
    tied = bool(list(ties(timeout("one", one), [timeout("two", two)])))
    if tied and not meet:  # the sample of tasks is small; more texts may still have one
        assert one.overlaps(two)
    else:
        assert tied == (meet and one.specificity == two.specificity)


@pytest.mark.parametrize(
    ("one", "two", "tied"),
    [
        ({"capability": "a.*"}, {"capability": "b.*"}, False),
        ({"capability": "text.*"}, {"capability": "*.stat"}, True),
        ({"tenant": "acme"}, {"tenant": "acme"}, True),
        ({"tenant": "acme"}, {"tenant": "umbrella"}, False),
        ({"labels": {"x": "1"}}, {"labels": {"y": "1"}}, True),
        ({"labels": {"x": "1"}}, {"labels": {"x": "2"}}, False),
        ({"capability": "a.b"}, {"tenant": "abc"}, False),
        ({"instance": "one"}, {"instance": "two"}, False),
        # A task with the label region=eu is of no other region.
        (
            {"labels": {"region": "eu"}, "region": "*u"},
            {"labels": {"x": "1"}, "region": "?s"},
            False,
        ),
        (
            {"labels": {"region": "*"}, "region": "eu"},
            {"labels": {"x": "*"}, "region": "?u"},
            False,
        ),
        ({"labels": {"region": "*"}, "region": "eu"}, {"labels": {"x": "*"}, "region": "eu"}, True),
    ],
)
def test_ties(one: dict[str, Any], two: dict[str, Any], tied: bool) -> None:
    first, second = timeout("one", Match(**one)), timeout("two", Match(**two))
    assert list(ties(first, [second])) == ([second] if tied else [])
    assert list(ties(second, [first])) == ([first] if tied else [])


def test_a_document_is_no_tie_with_itself_or_with_another_kind() -> None:
    one = timeout("one", Match())
    retry = parse_policy({"kind": "retry", "name": "two", "spec": {"attempts": 1}})
    assert list(ties(one, [one, retry])) == []


STARS = "*a" * 40
BOMBS = [
    # Two regions that are also asked for as a label, so that one text has to match all four.
    ("the issue's", {"region": STARS + "x", "labels": {"region": STARS + "x"}}, True),
    ("of what is fixed", {"region": "?" * 250, "labels": {"region": "*a?" * 60 + "*b"}}, True),
    ("of capabilities", {"capability": "*a" * 127 + "*x", "tenant": "*?" * 127}, True),
]


@pytest.mark.parametrize(("_", "bomb", "tied"), BOMBS, ids=[name for name, _, _ in BOMBS])
def test_globs_that_are_made_to_take_long_are_compared_at_once(
    _: str, bomb: dict[str, Any], tied: bool
) -> None:
    one, two = Match(**bomb), Match(**{name: _starred(glob) for name, glob in bomb.items()})
    assert one.overlaps(two) == tied


def _starred(glob: Any) -> Any:
    """Return what is as specific, and not the same."""
    if isinstance(glob, dict):
        return {name: _starred(one) for name, one in glob.items()}
    return glob.replace("*a", "a*")


@pytest.mark.parametrize("glob", ["*a" * 127 + "x", "*a?" * 85, "*" * 256])
def test_a_glob_of_many_stars_reads_a_long_text_once(glob: str) -> None:
    assert fits(glob, "a" * 1_000_000) == (not glob.endswith("x"))


@settings(deadline=None)
@given(st.lists(short_globs, min_size=1, max_size=3))
def test_a_quick_answer_about_overlaps_is_that_of_the_whole_walk(some: list[str]) -> None:
    assert globs_overlap(*some) == matching._walk(*some)


@pytest.mark.parametrize(
    "match",
    [{"region": "*a" * 40 + "x"}, {"labels": {"x": "*****"}}, {"capability": "a*b*c*d*e*f"}],
)
def test_a_new_document_has_at_most_four_stars_in_a_glob_and_an_old_one_stays_in_force(
    match: dict[str, Any],
) -> None:
    document = {"kind": "timeout", "name": "p", "match": match, "spec": {"seconds": 1}}
    with pytest.raises(ValueError, match="has more than 4 stars"):
        parse_policy(document)
    assert PolicySet.from_json([{"policy": document}]).versions == {"timeout/p": 0}
