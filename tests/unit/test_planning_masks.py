"""Rule R36: masked scores and masks end where a Softmax tells nothing apart; run with Q and DQ as written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

import onnxq
from onnxq.errors import DataError
from onnxq.numerics import QuantSpec, qparams_from_range
from onnxq.numerics.qparams import Range
from onnxq.numerics.qtypes import INT8, UINT8, UINT16
from onnxq.planning.masks import REACH, hidden_tensors, masked_scores
from tests.graphs import graph_of, model_of, normal

ATTENTION = """(float[n, 8, 32] x, bool[n, 8] keep) => (float[n, 8, 32] y) {{
   [q] q = MatMul(x, wq)
   [k] k = MatMul(x, wk)
   [v] v = MatMul(x, wv)
   [turn] kt = Transpose<perm = [0, 2, 1]>(k)
   [scores] s0 = MatMul(q, kt)
   [scale] s = Mul(s0, root)
   {mask}
   [soft] p = Softmax<axis = -1>(t)
   [mix] m = MatMul(p, v)
   [out] y = MatMul(m, wo)
}}"""
WEIGHTS = {name: normal(32, 32, seed=seed) * 0.2 for seed, name in enumerate(("wq", "wk", "wv", "wo"))}
FROM_FLAGS = """[flag] f = Cast<to = 1>(keep) [hidden] g = Sub(one, f) [far] h = Mul(g, low)
   [turn_mask] mask = Unsqueeze(h, axes) [masked] t = Add(s, mask)"""
FROM_CHOICE = "[far] h = Where(keep, zero, low) [turn_mask] mask = Unsqueeze(h, axes) [masked] t = Add(mask, s)"
IN_PLACE = "[turn_keep] kk = Unsqueeze(keep, axes) [masked] t = Where(kk, s, low)"
CAUSAL = "[masked] t = Add(s, corner)"
TWICE = """[first] t1 = Add(s, corner) [moved] t2 = Reshape(t1, same) [flag] f = Cast<to = 1>(keep)
   [hidden] g = Sub(one, f) [far] h = Mul(g, low) [turn_mask] mask = Unsqueeze(h, axes) [masked] t = Add(t2, mask)"""
FEEDS = [
    {"x": normal(4, 8, 32, seed=s) * 2, "keep": np.arange(8)[None] < np.random.default_rng(s).integers(3, 9, (4, 1))}
    for s in range(6)
]  # fmt: skip


def attention(mask: str, low: float = -10000.0, **constants: Any) -> ModelProto:
    corner = np.triu(np.full((1, 8, 8), low, np.float32), 1)
    every = {
        "root": np.float32(0.18), "one": np.float32(1), "zero": np.float32(0), "low": np.float32(low),
        "axes": np.array([1]), "corner": corner, "same": np.array([0, 8, 8]), **constants,
    }  # fmt: skip
    used = {name: value for name, value in every.items() if name in ATTENTION or name in mask}
    return model_of(ATTENTION.format(mask=mask), **WEIGHTS, **used)


def worst(model: ModelProto, **options: Any) -> float:
    made = onnxq.quantize(model, FEEDS, target="qnn", recover="none", **options)
    assert made.report.worst_sqnr_db is not None
    return made.report.worst_sqnr_db


LOWEST = float(np.finfo(np.float32).min)


FINITE = (-100.0, -10000.0, LOWEST)
CASES = [
    *((mask, low) for mask in (FROM_FLAGS, TWICE) for low in FINITE),  # 0 times -Inf is NaN in the float model
    *((mask, low) for mask in (FROM_CHOICE, IN_PLACE, CAUSAL) for low in (*FINITE, -np.inf)),
]


@pytest.mark.parametrize("activations", ["uint8", "uint16"])
@pytest.mark.parametrize(("mask", "low"), CASES)
def test_masked_attention_is_as_good_as_with_the_mask_in_float(mask: str, low: float, activations: str) -> None:
    """Within 1.5 dB, and no worse for any number: with -10000 in a range of 8 bits it kept less than 5 dB."""
    model = attention(mask, low)
    hiding = {"hidden", "far", "turn_mask", "first", "masked", "soft"}
    in_float = worst(model, activations=activations, exclude=[n.name for n in model.graph.node if n.name in hiding])
    found = worst(model, activations=activations)
    assert found > in_float - 1.5
    assert found == pytest.approx(worst(attention(mask, -100.0), activations=activations), abs=0.01)


@pytest.mark.parametrize("mask", [IN_PLACE, CAUSAL])
def test_scores_that_no_pair_rounds(mask: str) -> None:
    """Statistics leave -Inf out, and a range of what is seen would read hidden scores as the lowest of all.

    Which is near the highest where scores are small.
    """
    model, floats = attention(mask, -np.inf, root=np.float32(0.01)), ["scores", "scale"]
    in_float = worst(model, exclude=[*floats, "masked", "soft"])
    assert worst(model, exclude=floats) > in_float - 1.5


def test_ranges_end_below_the_scores() -> None:
    made = onnxq.quantize(attention(FROM_FLAGS), FEEDS, target="qnn", recover="none")
    ends = {}
    for key in ("s", "t", "h"):
        params = made.qparams[key]
        scale, zero_point = float(params.scale), int(params.zero_point)
        ends[key] = (-zero_point * scale, (255 - zero_point) * scale)
    low, high = ends["s"]
    # A zero-point is rounded, which moves ends by half a step.
    assert ends["t"] == pytest.approx((low - REACH, high), abs=float(made.qparams["t"].scale))
    assert ends["h"] == pytest.approx((low - high - REACH, 0.0), abs=float(made.qparams["h"].scale))
    decisions = {d.node: d for d in made.plan.nodes}
    assert decisions["masked"].rule == "Q4 R36"
    assert decisions["masked"].reason.endswith("; hidden scores end where Softmax gives nothing")
    assert "R36" not in decisions["scale"].rule


def test_data_that_hid_nothing_leave_room_for_a_mask() -> None:
    """Otherwise what is padding in use would be read like the rest."""
    shown = [{**feed, "keep": np.ones_like(feed["keep"])} for feed in FEEDS]
    made = onnxq.quantize(attention(FROM_FLAGS), shown, target="qnn", recover="none", eval_data=None)
    hidden = onnxq.verify(attention(FROM_FLAGS), made.model, FEEDS, target="qnn")
    assert hidden.worst_sqnr_db is not None and hidden.worst_sqnr_db > worst(attention(FROM_FLAGS)) - 3.0


def found_in(mask: str, **constants: Any) -> list[str]:
    graph = graph_of(
        ATTENTION.format(mask=mask), root=np.float32(0.18), axes=np.array([1]), **WEIGHTS, **constants
    )  # fmt: skip
    return [one.node for one in masked_scores(graph)]


FAR = np.float32(-10000)


@pytest.mark.parametrize(
    ("mask", "constants", "nodes"),
    [
        # Numbers between: a bias of positions decides among places that are not hidden.
        ("[masked] t = Add(s, bias)", {"bias": normal(8, 8) * 40}, []),
        ("[masked] t = Add(s, bias)", {"bias": np.where(np.eye(8) > 0, -60, 3).astype(np.float32)}, []),
        ("[masked] t = Add(s, bias)", {"bias": np.where(np.eye(8) > 0, -60, 0).astype(np.float32)}, ["masked"]),
        ("[masked] t = Add(s, small)", {"small": np.float32(-3)}, []),
        # Two tensors of scores, and scores that something else reads too.
        ("[masked] t = Add(s, s0)", {}, []),
        ("[masked] t1 = Add(s, far) [more] t = Relu(t1)", {"far": np.full((8, 8), FAR)}, []),
        # A factor that is no flag: distances, say.
        ("[far] h = Mul(x2, far) [masked] t = Add(s, h)", {"x2": normal(8, 8), "far": FAR}, []),
        (
            "[far] h = Mul(one, far) [masked] t = Add(s, h)",
            {"one": np.eye(8, dtype=np.float32), "far": FAR},
            ["masked"],
        ),
        # Of a Where one branch alone hides.
        ("[k] kk = Unsqueeze(keep, axes) [masked] t = Where(kk, far, far)", {"far": FAR}, []),
        ("[k] kk = Unsqueeze(keep, axes) [masked] t = Where(kk, far, s)", {"far": FAR}, ["masked"]),
        (
            "[k] k2 = Unsqueeze(keep, axes) [m] h0 = Where(k2, zero, far) [cut] h = Max(h0, low) [masked] t = Add(s,h)",
            {"far": np.float32(-np.inf), "zero": np.float32(0), "low": FAR},
            ["masked"],
        ),
    ],
)
def test_what_hides_scores(mask: str, constants: dict[str, NDArray[Any]], nodes: list[str]) -> None:
    assert found_in(mask, **constants) == nodes


def test_infinity_is_forgiven_where_it_hides_scores_alone() -> None:
    graph = graph_of(
        ATTENTION.format(mask=FROM_CHOICE), root=np.float32(1), zero=np.float32(0), low=np.float32(-np.inf),
        axes=np.array([1]), **WEIGHTS,
    )  # fmt: skip
    assert hidden_tensors(graph) >= {"t", "mask", "h"}
    assert not hidden_tensors(graph) & {"s", "s0", "p", "x", "q"}
    broken = [{**feed, "x": np.where(feed["x"] > 5, np.inf, feed["x"]).astype(np.float32)} for feed in FEEDS]
    with pytest.raises(DataError, match=r"holds (NaN|Inf)"):
        onnxq.quantize(attention(FROM_CHOICE, -np.inf), broken, target="qnn")


@pytest.mark.parametrize("qtype", [INT8, UINT8, UINT16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_largest_floats_have_finite_codes(qtype: Any, symmetric: bool) -> None:
    """Rounded up, the scale times 65535 was Inf, and a mask's 0 times it NaN."""
    ends = (LOWEST, 0.0) if not symmetric else (LOWEST, -LOWEST)
    params = qparams_from_range(Range.of(*ends), QuantSpec(qtype=qtype, symmetric=symmetric))
    codes = params.spec.qmax - params.spec.qmin
    steps = np.float32(codes // 2 if symmetric else codes)
    with np.errstate(over="raise"):
        assert np.isfinite(steps * params.scale)
    # The lowest number keeps its code, to half a step.
    assert float(steps) * float(params.scale) == pytest.approx(-LOWEST, rel=0.6 / float(steps))
