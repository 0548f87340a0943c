"""The plan: what stays keeps what it needs, and nothing else stays."""

from hypothesis import given
from hypothesis import strategies as st

from gpt.maintenance.plan import Item, Limits, plan

NAMES = [f"thing {number}" for number in range(12)]
HASHES = [f"weights:{number}" for number in range(4)]


@st.composite
def items(draw: st.DrawFn) -> list[Item]:
    """Draw things that need each other at random, in circles too, by name or by a hash that several have."""
    known = st.sampled_from([*NAMES, *HASHES, "gone"])
    return [
        Item(
            name,
            "versions",
            draw(st.integers(0, 100)),
            "old",
            draw(st.sampled_from(["", "", "", "@champion", "young"])),
            frozenset(draw(st.sets(st.sampled_from(HASHES), max_size=2))),
            frozenset(draw(st.sets(known, max_size=3))),
        )
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True))
    ]


def needed(some: list[Item], of: Item) -> list[Item]:
    return [one for one in some if {one.name, *one.names} & of.needs]


@given(items())
def test_nothing_that_goes_is_needed_by_what_stays(some: list[Item]) -> None:
    planned = plan(some)
    free = {item.name for item in planned.free}
    for item, _ in planned.kept:
        assert not {one.name for one in needed(some, item)} & free


@given(items())
def test_what_stays_has_a_reason_of_its_own_or_is_needed(some: list[Item]) -> None:
    """By something that stays: a circle of things that only need each other goes."""
    reached = {item.name for item in some if item.stays}
    while more := {one.name for item in some if item.name in reached for one in needed(some, item)} - reached:
        reached |= more
    planned = plan(some)
    assert {item.name for item, _ in planned.kept} == reached
    assert all(why == item.stays or (not item.stays and why.startswith("needed by ")) for item, why in planned.kept)


@given(items())
def test_everything_is_planned_once(some: list[Item]) -> None:
    planned = plan(some)
    assert sorted([*(item.name for item in planned.free), *(item.name for item, _ in planned.kept)]) == sorted(
        item.name for item in some
    )
    assert planned.freed_bytes + sum(item.size_bytes for item, _ in planned.kept) == sum(i.size_bytes for i in some)


@given(items(), st.sampled_from(NAMES))
def test_one_more_reason_to_stay_frees_nothing_more(some: list[Item], name: str) -> None:
    more = [item if item.name != name else Item(**{**vars(item), "stays": "@candidate"}) for item in some]
    assert {item.name for item in plan(more).free} <= {item.name for item in plan(some).free}


def test_days_are_a_limit() -> None:
    assert Limits(30, 5).young(29 * 86_400) == "of the last 30 days"
    assert Limits(30, 5).young(31 * 86_400) == Limits(0, 0).young(0.0) == ""
