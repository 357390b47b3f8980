"""Tables of Gather: which are quantized, and why the others are not (C19)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxq.planning.options import FULL, PlanOptions
from onnxq.planning.plan import QuantPlan
from tests.graphs import normal
from tests.planned import planned, reason, tensors

TABLE = normal(512, 32)
BEHIND = "[m] y = MatMul(e, w)"
SMALL = "its table has 16352 values; fewer than 16384 do not pay in int8"
VECTOR = "its table has one value in a row"
TAKEN = "takes rows of an int8 table, which are dequantized behind it [C19]"


def embedding(
    gather: str, output: str = "float[N,5,32] y", options: PlanOptions | None = None, **more: Any
) -> QuantPlan:
    constants = {"t": TABLE, "w": normal(32, 32)} | more
    target = constants.pop("target", "ort-x64-vnni")
    return planned(f"(int64[N,5] i) => ({output}) {{ {gather} {BEHIND} }}", options=options, target=target, **constants)


@pytest.mark.parametrize("target", ["ort-x64-vnni", "ort-x64-avx2", "ort-arm64"])
def test_a_table_is_int8_with_a_scale_for_each_row(target: str) -> None:
    plan = embedding("[g] e = Gather(t, i)", target=target)
    assert tensors(plan) == ["e u8 observed -> m.0", "w s8@1 values -> m.1", "t s8@0 values -> g.0"]
    assert reason(plan, "g") == TAKEN


def test_one_entry_for_all_that_take_rows_of_it() -> None:
    plan = embedding("[g] a = Gather(t, i) [h] b = Gather<axis=-2>(t, i) e = Add(a, b)")
    assert tensors(plan)[-1] == "t s8@0 values -> g.0 h.0"


@pytest.mark.parametrize("target", ["tensorrt", "openvino"])
def test_other_engines_keep_it_float(target: str) -> None:
    plan = embedding("[g] e = Gather(t, i)", target=target)
    assert not any(t.name == "t" for t in plan.tensors.values())


@pytest.mark.parametrize(
    ("gather", "constants", "why"),
    [
        ("[g] e = Gather(t, i)", {"t": normal(511, 32)}, SMALL),
        ("[g] e = Gather<axis=1>(t, i)", {"t": normal(5, 4096)}, "it takes slices along another axis than the first"),
        ("[g] v = Gather(t, i) [a] e = Add(v, c)", {"t": normal(2**15), "c": normal(5), "w": normal(5, 32)}, VECTOR),
        ("[g] e = Gather(t, i) [n] u = Neg(t)", {}, "its table 't' is read in float by 'n' too"),
    ],
    ids=["small", "axis", "vector", "float reader"],
)  # fmt: skip
def test_it_stays_float(gather: str, constants: dict[str, Any], why: str) -> None:
    more = ", float[512,32] u" if " u = " in gather else ""
    plan = embedding(gather, f"float[N,{'' if why == VECTOR else '5,'}32] y{more}", **constants)
    assert reason(plan, "g") == f"{why} [C19]"
    assert not any(t.role.value == "table" for t in plan.tensors.values())


def test_excluded_gathers_stay_float() -> None:
    plan = embedding("[g] e = Gather(t, i)", options=PlanOptions.of({"exclude_ops": "Gather", "placement": FULL}))
    assert reason(plan, "g") == "excluded by the user [user]"
    assert tensors(plan) == ["e u8 observed -> m.0", "w s8@1 values -> m.1"]


def test_a_table_that_is_a_weight_too_has_an_entry_of_its_own() -> None:
    text = "(int64[N] i) => (float[N,512] y) { [g] e = Gather(t, i) r = Relu(e) [m] y = Gemm<transB=1>(r, t) }"
    assert tensors(planned(text, t=TABLE)) == [
        "r u8 observed[0,] -> m.0", "t s8@0 values -> m.1", "t@g s8@0 values -> g.0",
    ]  # fmt: skip


def test_without_int8_nodes_nothing_is_quantized() -> None:
    assert not planned("(int64[N] i) => (float[N,32] y) { [g] y = Gather(t, i) }", t=TABLE).tensors


def test_a_constant_row_is_no_table() -> None:
    plan = embedding("[g] r = Gather(t, k) e = Add(z, r)", k=np.array([[3] * 5]), z=normal(1, 5, 32))
    assert not any(t.role.value == "table" for t in plan.tensors.values())
