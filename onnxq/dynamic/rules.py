"""What onnxruntime's CPU provider can run with activations that are quantized while the model runs. Literals only.

Each rule was run on onnxruntime 1.32 (tests/e2e/test_dynamic.py); times are medians on x64 with VNNI, one thread
(`python -m benches.dynamic`). D1 to D7 are explained in docs/modes.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxq.graph.messages import MICROSOFT


@dataclass(frozen=True, kw_only=True)
class DynamicRule:
    """An operator with constant weights that can be quantized without data.

    Attributes:
        op: Operator type.
        domain: Its domain.
        does: What becomes of it, for plans.
        slots: Input slots of its weights.
        integer: Whether it then computes on integers; where not, only its weights are stored as such.
        slower: Why placement "fast" leaves it in float; "" where it does not.
        rule: Identifier in docs/modes.md.
    """

    op: str
    domain: str = ""
    does: str
    slots: tuple[int, ...]
    integer: bool = True
    slower: str = ""
    rule: str


DYNAMIC_RULES: dict[tuple[str, str], DynamicRule] = {
    (rule.domain, rule.op): rule
    for rule in (
        DynamicRule(op="MatMul", does="its weight is int8, its input is quantized as it comes", slots=(1,), rule="D1"),
        DynamicRule(op="Gemm", does="its weight is int8, its input is quantized as it comes", slots=(1,), rule="D2"),
        DynamicRule(
            op="LSTM",
            does="its weights are int8, its input and state are quantized at each step",
            slots=(1, 2),
            rule="D3",
        ),
        DynamicRule(
            op="Attention",
            domain=MICROSOFT,
            does="the weight of its projections is int8, its input is quantized as it comes",
            slots=(1,),
            rule="D4",
        ),
        DynamicRule(op="Gather", does="its table is int8, with a scale for each row", slots=(0,), rule="D5"),
        DynamicRule(
            op="GRU",
            does="its weights are stored as int8; onnxruntime has no int8 kernel for GRU and computes in float",
            slots=(1, 2),
            integer=False,
            slower="onnxruntime has no int8 kernel for GRU; int8 weights would make it smaller and a little slower",
            rule="D6",
        ),
        DynamicRule(
            op="Conv",
            does="its weight is int8, its input is quantized as it comes",
            slots=(1,),
            slower="onnxruntime's ConvInteger is 3 to 20 times slower than its float Conv",
            rule="D7",
        ),
    )
}

SMALLEST_TABLE = 4096
"""Elements of a table that are worth three small nodes in place of one (D5)."""
