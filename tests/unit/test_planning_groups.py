"""Union-find over tensor names."""

from __future__ import annotations

import itertools

from onnxq.planning.groups import Groups


def test_members_have_the_first_seen_as_id() -> None:
    groups = Groups()
    groups.union(["b", "a"])
    groups.union(["c", "a"])
    groups.union(["e", "d"])
    assert {t: groups.group_of(t) for t in "abcde"} == {"a": "b", "b": "b", "c": "b", "d": "e", "e": "e"}


def test_lone_tensors_have_no_group() -> None:
    groups = Groups()
    groups.union([])
    groups.union(["a"])
    assert groups.group_of("a") is None
    assert groups.group_of("never seen") is None


def test_partition_does_not_depend_on_the_order_of_unions() -> None:
    unions = [("a", "b"), ("c", "d"), ("b", "c"), ("e", "f")]
    for order in itertools.permutations(unions):
        groups = Groups()
        for pair in order:
            groups.union(pair)
        assert len({groups.group_of(t) for t in "abcd"}) == 1
        assert groups.group_of("e") == groups.group_of("f") != groups.group_of("a")
