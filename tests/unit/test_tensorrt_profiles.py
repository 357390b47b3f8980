"""Optimization profiles from what the user gave."""

from __future__ import annotations

import pytest

from onnxq.errors import ConfigError
from onnxq.graph.view import Graph
from onnxq.verification.engines.tensorrt_profiles import (
    completed,
    dynamic_inputs,
    given_ranges,
    one_sided,
    shape_ranges,
    untold_inputs,
)
from tests.verify_models import ModelBuilder


def two_inputs() -> Graph:
    b = ModelBuilder()
    b.node("Mul", [b.input("x", ["N", 3, "H"]), b.input("mask", [1, 3, 1])], "y")
    b.output("y")
    return Graph(b.model())


ONE, TWO, FOUR = (1, 3, 8), (2, 3, 8), (4, 3, 16)


def test_dynamic_inputs_are_those_with_open_sizes() -> None:
    assert list(dynamic_inputs(two_inputs())) == ["x"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (({"x": ONE}, {"x": TWO}, {"x": FOUR}), (ONE, TWO, FOUR)),
        (({}, {"x": TWO}, {}), (TWO, TWO, TWO)),
        (({"x": ONE}, {}, {"x": FOUR}), (ONE, FOUR, FOUR)),
        (({}, {"x": TWO}, {"x": FOUR}), (TWO, TWO, FOUR)),
        (({"x": ONE}, {}, {}), (ONE, ONE, ONE)),
    ],
)
def test_what_is_left_out_follows_from_what_is_given(given, expected) -> None:
    assert given_ranges(two_inputs(), *given) == {"x": expected}


def test_an_input_of_fixed_sizes_needs_no_profile() -> None:
    assert given_ranges(two_inputs(), {}, {"mask": (1, 3, 1)}, {}) == {}


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        (({}, {"z": ONE}, {}), "the model has no input 'z'; its inputs are 'x', 'mask'", "--opt-shape"),
        (({}, {"x": (1, 4, 8)}, {}), "input 'x': the shape 1x4x8 does not fit the model's ?x3x?", "--opt-shape x:"),
        (({"x": (1, 3)}, {"x": ONE}, {}), "input 'x': the shape 1x3 does not fit", "--min-shape x:"),
        (({}, {}, {"x": (1, 3)}), "input 'x': the shape 1x3 does not fit", "--max-shape x:"),
        (({}, {"x": (1, 3)}, {}), "input 'x': the shape 1x3 does not fit the model's ?x3x?", "--opt-shape x:"),
        (({}, {"mask": (2, 3, 1)}, {}), "input 'mask': the shape 2x3x1 does not fit the model's 1x3x1", "--opt-shape"),
        (
            ({"x": FOUR}, {"x": TWO}, {"x": FOUR}),
            "input 'x': its shapes are not in order: min 4x3x16, opt 2x3x8, max 4x3x16",
            "every size must rise",
        ),
    ],
)
def test_shapes_that_do_not_fit(given, message, hint) -> None:
    with pytest.raises(ConfigError) as caught:
        given_ranges(two_inputs(), *given)
    assert str(caught.value).startswith(message)
    assert hint in (caught.value.hint or "")


def sharing() -> Graph:
    """Two inputs whose first sizes have one name."""
    b = ModelBuilder()
    b.node("MatMul", [b.input("x", ["N", 4, "K"]), b.input("z", ["N", "K", 5])], "y")
    b.output("y")
    return Graph(b.model())


def test_usual_sizes_of_several_inputs_come_from_one_batch() -> None:
    seen = [{"x": (n, 4, k), "z": (n, k, 5)} for n, k in ((1, 6), (2, 6), (1, 7), (2, 6))]
    assert shape_ranges(sharing(), seen) == {
        "x": ((1, 4, 6), (2, 4, 6), (2, 4, 7)),
        "z": ((1, 6, 5), (2, 6, 5), (2, 7, 5)),
    }


def test_sizes_with_the_name_of_one_given_follow_it() -> None:
    asked = {"x": ((1, 4, 6), (8, 4, 6), (16, 4, 6))}
    found = {"x": ((1, 4, 9),) * 3, "z": ((1, 9, 5),) * 3}
    assert completed(sharing(), asked, found) == {**asked, "z": ((1, 6, 5), (8, 6, 5), (16, 6, 5))}


def test_inputs_whose_sizes_all_follow_are_told() -> None:
    assert untold_inputs(sharing(), {}) == ("x", "z")
    assert untold_inputs(sharing(), {"x": ((1, 4, 6), (8, 4, 6), (16, 4, 6))}) == ()
    b = ModelBuilder()
    b.node("MatMul", [b.input("x", ["N", 4, "K"]), b.input("z", ["N", "K", "M"])], "y")
    b.output("y")
    assert untold_inputs(Graph(b.model()), {"x": ((1, 4, 6),) * 3}) == ("z",)


def test_one_end_alone_is_no_range() -> None:
    given = {"x": (1, 4, 6)}
    assert one_sided({"x": ((1, 4, 6),) * 3}, given, {}, {}) == ("x",)
    assert one_sided({"x": ((1, 4, 6),) * 3}, {}, {}, given) == ("x",)
    assert one_sided({"x": ((1, 4, 6),) * 3}, given, {}, given) == ()
    assert one_sided({"x": ((1, 4, 6),) * 3}, given, given, {}) == ()
    assert one_sided({"x": ((1, 4, 6),) * 3}, {}, given, {}) == ()
