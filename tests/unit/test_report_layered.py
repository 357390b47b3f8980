"""Places of nodes in layers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onnxq.report.layered import GAP_X, NODE_HEIGHT, NODE_WIDTH, place

CHAIN = [(0, 1), (1, 2), (2, 3)]


def test_nothing() -> None:
    assert place(0, []).centers == []


def test_a_chain_is_a_column() -> None:
    found = place(4, CHAIN)
    assert len({x for x, _ in found.centers}) == 1
    assert [y for _, y in found.centers] == sorted(y for _, y in found.centers)
    assert found.bends == [[], [], []]
    assert found.width == NODE_WIDTH


def test_an_edge_over_several_layers_bends_once_in_each_between() -> None:
    found = place(4, [*CHAIN, (0, 3)])
    assert len(found.bends[3]) == 2
    assert found.centers[1][0] != found.bends[3][0][0]


def test_two_branches_do_not_cross() -> None:
    # 0 -> 1, 2; 1 -> 3, 2 -> 4 as written, and with the second row the other way round.
    for second in ([(1, 3), (2, 4)], [(1, 4), (2, 3)]):
        found = place(5, [(0, 1), (0, 2), *second])
        x = [x for x, _ in found.centers]
        assert (x[1] < x[2]) == (x[second[0][1]] < x[second[1][1]])


def test_a_constant_stands_above_its_reader() -> None:
    found = place(5, [(0, 2), (2, 3), (3, 4), (1, 4)])
    assert found.centers[1][1] == found.centers[3][1]  # not in the first row, three layers away


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    count = draw(st.integers(1, 24))
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda e: e[0] < e[1])
    return count, draw(st.lists(pairs, max_size=40, unique=True)) if count > 1 else []


@given(graphs())
def test_arrows_go_down_and_nothing_overlaps(graph: tuple[int, list[tuple[int, int]]]) -> None:
    count, edges = graph
    found = place(count, edges)
    for (source, target), bends in zip(edges, found.bends, strict=True):
        heights = [found.centers[source][1], *(y for _, y in bends), found.centers[target][1]]
        assert heights == sorted(set(heights))
    rows: dict[float, list[float]] = {}
    for x, y in found.centers:
        rows.setdefault(y, []).append(x)
    for row in rows.values():
        gaps = [b - a for a, b in zip(sorted(row), sorted(row)[1:], strict=False)]
        assert min(gaps, default=NODE_WIDTH + GAP_X) >= NODE_WIDTH + GAP_X - 1e-6
    assert all(NODE_WIDTH / 2 - 1e-6 <= x <= found.width - NODE_WIDTH / 2 + 1e-6 for x, _ in found.centers)
    assert all(NODE_HEIGHT / 2 <= y <= found.height - NODE_HEIGHT / 2 for _, y in found.centers)
    assert place(count, edges) == found
