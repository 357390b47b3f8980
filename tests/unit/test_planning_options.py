"""What a user may say about placement: patterns, include and exclude, subgraphs between tensors."""

from __future__ import annotations

from typing import Any

import pytest

from onnxq.errors import ConfigError
from onnxq.graph.view import Graph
from onnxq.planning.names import selected
from onnxq.planning.options import PlanOptions
from onnxq.planning.planner import make_plan
from onnxq.targets import TARGETS
from tests.graphs import graph_of, model_of, normal
from tests.planned import actions, planned, reason, tensors

W = normal(16, 16, 3, 3)

# x -> stem -> left -> relu -> join, x2 = stem -> right -> join -> tail
DIAMOND = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
    [stem] a = Conv<pads=[1,1,1,1]>(x, w)
    [left] b = Conv<pads=[1,1,1,1]>(a, w)
    [relu] c = Relu(b)
    [right] d = Conv<pads=[1,1,1,1]>(a, w)
    [join] e = Add(c, d)
    [tail] y = Conv<pads=[1,1,1,1]>(e, w)
    }"""
ALL = {"stem", "left", "relu", "right", "join", "tail"}


def floats(options: PlanOptions, target: str = "ort-x64-vnni") -> set[str]:
    plan = planned(DIAMOND, options=options, target=target, w=W)
    return {name for name, action in actions(plan).items() if action == "float"}


# ---- patterns ------------------------------------------------------------------------------------------------------

NAMES = ("conv1", "conv2", "Conv1", "head/conv1", "conv[1]", "re:x")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("conv1", ("conv1",)),
        ("conv?", ("conv1", "conv2")),
        ("*conv1", ("conv1", "head/conv1")),
        ("conv[12]", ("conv1", "conv2")),
        # A name that is exactly the pattern is the only one, whatever it means as a pattern.
        ("conv[1]", ("conv[1]",)),
        ("re:x", ("re:x",)),
        ("re:[cC]onv1", ("conv1", "Conv1")),
        # The whole name has to match, as it does for shell-style patterns.
        ("re:conv", ()),
        ("re:.*/conv\\d", ("head/conv1",)),
    ],
)
def test_patterns(pattern: str, found: tuple[str, ...]) -> None:
    assert selected(pattern, NAMES) == found


def test_what_is_no_regular_expression() -> None:
    with pytest.raises(ConfigError) as error:
        planned(DIAMOND, options=PlanOptions(placement="full", exclude=("re:conv(",)), w=W)
    assert error.value.message.startswith("'re:conv(' is not a regular expression: ")
    assert error.value.where == "exclude=(...) (--exclude)"


def test_what_is_no_string() -> None:
    with pytest.raises(ConfigError, match="a name or pattern is a string, not 3"):
        planned(DIAMOND, options=PlanOptions.of({"exclude": [3]}), w=W)  # type: ignore[typeddict-item]


# ---- include and exclude -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (PlanOptions(placement="full", exclude=("re:left|right",)), {"left", "right", "relu", "join"}),
        # The Add has no code on either side any more, but what is excluded by name alone is the Conv.
        (PlanOptions(placement="full", include=("stem", "tail")), {"left", "relu", "right", "join"}),
        (PlanOptions(placement="full", include_ops=("Conv",)), {"join"}),
        (PlanOptions(placement="full", include=("re:.*",)), set()),
        # Exclude wins.
        (PlanOptions(placement="full", include_ops=("Conv",), exclude=("tail",)), {"join", "tail"}),
        (PlanOptions(placement="full", include=("left",), include_ops=("Add",)), {"stem", "right", "tail", "join"}),
    ],
)
def test_include_and_exclude(options: PlanOptions, expected: set[str]) -> None:
    assert floats(options) == expected


def test_activations_come_along_unless_they_are_excluded() -> None:
    assert actions(planned(DIAMOND, options=PlanOptions(placement="full", include=("left",)), w=W))["relu"] == "fused"
    options = PlanOptions(placement="full", include=("left",), exclude=("relu",))
    assert actions(planned(DIAMOND, options=options, w=W))["relu"] == "float"


def test_an_excluded_activation_is_float_where_pairs_are_on_inputs_too() -> None:
    assert actions(planned(DIAMOND, target="tensorrt", w=W))["relu"] == "fused"
    plan = planned(DIAMOND, options=PlanOptions(placement="full", exclude=("relu",)), target="tensorrt", w=W)
    assert reason(plan, "relu") == "excluded by the user [user]"


def test_a_node_that_is_not_included_says_so() -> None:
    plan = planned(DIAMOND, options=PlanOptions(placement="full", include=("left",)), w=W)
    assert reason(plan, "tail") == "not among the nodes that the user includes [user]"


def test_include_is_understood_where_pairs_are_on_inputs() -> None:
    assert floats(PlanOptions(placement="full", include=("right",)), target="tensorrt") == {
        "stem",
        "left",
        "relu",
        "tail",
    }
    plan = planned(DIAMOND, options=PlanOptions(placement="full", include=("right",)), target="tensorrt", w=W)
    # The residual Add fuses behind the included Conv, and so its other branch has a pair.
    assert [line.split()[0] for line in tensors(plan)] == ["a", "c", "w"]


# ---- between -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ends", "nodes"),
    [
        (("a", "e"), {"left", "relu", "right", "join"}),
        (("b", "e"), {"relu", "join"}),
        (("a", "c"), {"left", "relu"}),
        (("x", "y"), ALL),
        ("x:a", {"stem"}),
    ],
)
def test_between_means_every_node_on_a_path(ends: Any, nodes: set[str]) -> None:
    graph = graph_of(DIAMOND, w=W)
    selection = PlanOptions.of({"exclude_between": [ends], "include_between": [ends]}).select(graph)
    assert selection.excluded == nodes
    assert selection.included == nodes


def test_excluded_between_stay_float() -> None:
    assert floats(PlanOptions.of({"exclude_between": [("a", "e")], "placement": "full"})) == {
        "left",
        "relu",
        "right",
        "join",
    }
    assert floats(PlanOptions.of({"include_between": ["a:c"], "placement": "full"})) == {
        "stem",
        "right",
        "join",
        "tail",
    }


def test_names_of_tensors_may_hold_colons() -> None:
    model = model_of(DIAMOND, w=W)
    for node in model.graph.node:
        node.input[:] = [f"{t}:0" if t in ("a", "e") else t for t in node.input]
        node.output[:] = [f"{t}:0" if t in ("a", "e") else t for t in node.output]
    graph = Graph(model)
    assert PlanOptions.of({"exclude_between": "a:0:e:0"}).select(graph).excluded == {"left", "relu", "right", "join"}


def test_a_path_into_a_body_counts() -> None:
    graph = graph_of("""(bool c, float[4] x) => (float[4] y) {
        [before] a = Relu(x)
        [choose] b = If(c) <
            then_branch = t () => (float[4] p) { p = Neg(a) },
            else_branch = e () => (float[4] q) { q = Abs(a) }
        >
        [after] y = Relu(b)
        }""")
    assert PlanOptions.of({"exclude_between": [("x", "y")]}).select(graph).excluded == {"before", "choose", "after"}


WHERE = "exclude_between=[(FROM, TO)] (--exclude-between FROM:TO): "
WRONG: dict[str, tuple[Any, str]] = {
    "other way": (
        [("e", "a")],
        WHERE + "no path leads from tensor 'e' to tensor 'a'\nHint: there is one from 'a' to 'e': swap them",
    ),
    "side by side": (
        [("c", "d")],
        WHERE + "no path leads from tensor 'c' to tensor 'd'\nHint: name tensors on one path of data",
    ),
    "unknown": ([("a", "ee")], WHERE + "no tensor of the model matches 'ee'\nHint: did you mean 'e'?"),
    "unknown in one string": (
        "a:zzz",
        WHERE + "no tensor of the model matches 'zzz'\nHint: `onnxq plan MODEL --tensors` lists them",
    ),
    "one tensor": (["a"], WHERE + "'a' does not name two tensors\nHint: write them as FROM:TO"),
    "three tensors": (
        [("a", "b", "c")],
        "exclude_between=, include_between= (--exclude-between, --include-between): "
        "('a', 'b', 'c') are not two tensors\n"
        "Hint: pass pairs: exclude_between=[(FROM, TO)] (--exclude-between FROM:TO)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_ends_that_name_no_subgraph(case: str) -> None:
    given, message = WRONG[case]
    with pytest.raises(ConfigError) as error:
        PlanOptions.of({"exclude_between": given}).select(graph_of(DIAMOND, w=W))
    assert str(error.value) == message


def test_a_name_that_was_folded_says_so() -> None:
    source = graph_of(
        "(float[N,16,8,8] x) => (float[N,16,8,8] y) { [gone] a = Identity(x) [conv] y = Conv(a, w) }", w=W
    )
    left = graph_of("(float[N,16,8,8] x) => (float[N,16,8,8] y) { [conv] y = Conv(x, w) }", w=W)
    for options, what in (
        (PlanOptions.of({"exclude": "gone"}), "node 'gone'"),
        (PlanOptions.of({"exclude": "go*"}), "node 'go*'"),
        (PlanOptions.of({"exclude_ops": "Identity"}), "operator 'Identity'"),
        (PlanOptions.of({"include_between": "x:a"}), "tensor 'a'"),
    ):
        with pytest.raises(ConfigError) as error:
            make_plan(left, TARGETS["tensorrt"], options=options, digest="", source=source)
        assert error.value.message == f"{what} is not there any more: it was folded into others before planning"


@pytest.mark.parametrize("argument", ["include", "include_ops"])
def test_what_is_included_must_exist(argument: str) -> None:
    with pytest.raises(ConfigError) as error:
        planned(DIAMOND, options=PlanOptions.of({argument: "stam"}), w=W)
    option = "--include-op" if argument == "include_ops" else "--include"
    assert error.value.where == f"{argument}=(...) ({option})"
