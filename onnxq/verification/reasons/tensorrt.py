"""How TensorRT runs each node, as far as its Q/DQ pairs decide: rules R20 to R33 of docs/targets.md.

Under explicit quantization the pairs decide which operators run in int8, and TensorRT tells nothing about single nodes
before an engine runs on a GPU. So this is an account by the rules, not the engine's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import NodeProto

from onnxq.graph.view import Graph
from onnxq.targets.tensorrt import TENSORRT
from onnxq.verification.engines.result import NodeExecution, Precision
from onnxq.verification.lint_tensorrt import Violation
from onnxq.verification.reasons.reason import Reason, because, has_pair, is_weight, named, origin, past_pairs
from onnxq.verification.structure import (
    MATRIX_OPS,
    MOVERS,
    dequantizer,
    is_float_tensor,
    is_qdq,
    moved_dequantizer,
    output_problem,
    placement,
    quantizer,
)

_EPILOGUE = frozenset({*TENSORRT.fused_activations, "BatchNormalization"})
_HIGHER_PRECISION = frozenset(TENSORRT.float_reasons) | {"InstanceNormalization", "GroupNormalization"}
_MOVERS = frozenset(TENSORRT.pass_through) | {"Flatten", "Unsqueeze", "Expand", "Tile", "DepthToSpace", "Identity"}
_MOVES_PAIRS = MOVERS | {"MaxPool", "Slice"}
"""What TensorRT moves a pair through; seen in what its builder plans, as for Relu and AveragePool that it does not."""
Found = tuple[Precision, Reason]


def account(graph: Graph, violations: Sequence[Violation]) -> tuple[NodeExecution, ...]:
    """What the pairs around each node ask TensorRT to do with it.

    Args:
        graph: The quantized graph.
        violations: The rules that its pairs break.

    Returns:
        One entry for each node but Q and DQ; INT8 and FUSED follow from the rules and were not measured.
    """
    broken: dict[str, Violation] = {}
    for violation in violations:
        broken.setdefault(violation.node, violation)
    done: dict[str, NodeExecution] = {}
    for node in graph.nodes:
        if not is_qdq(node):
            precision, reason = _of(graph, node, done, broken)
            done[node.name] = NodeExecution(
                node=node.name, op=node.op_type, precision=precision, engine_op="", why=reason.text, rule=reason.rule
            )
    return tuple(done.values())


def _of(graph: Graph, node: NodeProto, done: Mapping[str, NodeExecution], broken: Mapping[str, Violation]) -> Found:
    if all(graph.is_constant(past_pairs(graph, t)) for t in node.input if t):
        return Precision.OTHER, Reason(text="a constant")
    if not any(is_float_tensor(graph, t) for t in node.output if t):
        return Precision.OTHER, Reason(text="shapes, indices or masks")
    if refused := _refused(graph, node, broken):
        return Precision.FLOAT, refused
    if node.op_type in MATRIX_OPS:
        return _matrix(graph, node)
    return _fused(graph, node, done) or _unweighted(graph, node)


def _refused(graph: Graph, node: NodeProto, broken: Mapping[str, Violation]) -> Reason | None:
    """The rule that a pair on an input breaks, because of which TensorRT refuses the model."""
    if violation := broken.get(node.name):
        return because(violation.rule, violation.message)
    for tensor in node.input:
        dq = dequantizer(graph, tensor) if tensor else None
        q = quantizer(graph, dq.input[0]) if dq is not None else None
        for pair in (dq, q):
            if pair is not None and (violation := broken.get(pair.name)):
                source = past_pairs(graph, tensor)
                return because(
                    violation.rule, f"TensorRT refuses the Q/DQ pair on its input {source!r}: {violation.message}"
                )
    return None


def _matrix(graph: Graph, node: NodeProto) -> Found:
    data, weight = node.input[:2]
    has_codes = _has_codes(graph, data)
    if has_codes and _has_codes(graph, weight):
        is_moved = not (has_pair(graph, data) and has_pair(graph, weight))
        return Precision.INT8, Reason(text="", rule="R24" if is_moved else "R20")
    moved = _is_moved_weight(graph, weight)
    if not is_weight(graph, weight) and not moved and not has_codes:
        return Precision.FLOAT, because("R28", "it multiplies two activations, and there is no Q/DQ pair on them")
    if not has_codes:
        text = f"its input {origin(graph, data)} has no Q/DQ pair"
        return Precision.FLOAT, because("R20", f"{text}, only its weight" if _has_codes(graph, weight) else text)
    return Precision.FLOAT, because(
        "R20", f"its {'weight' if moved or is_weight(graph, weight) else 'input'} {weight!r} is float"
    )


def _has_codes(graph: Graph, tensor: str) -> bool:
    """Whether `tensor` has a pair, or gets the one before what only moves its values (R12, R24)."""
    return moved_dequantizer(graph, tensor, _MOVES_PAIRS) is not None


def _is_moved_weight(graph: Graph, tensor: str) -> bool:
    """Whether `tensor` is a constant behind operators that move values: so TensorFlow's weights are exported."""
    producer = graph.producer(tensor)
    if producer is None or producer.op_type not in _MOVERS:
        return False
    while producer is not None and (producer.op_type in _MOVERS or is_qdq(producer)):
        tensor = producer.input[0]
        producer = graph.producer(tensor)
    return graph.is_constant(tensor)


def _fused(graph: Graph, node: NodeProto, done: Mapping[str, NodeExecution]) -> Found | None:
    """What follows an int8 Conv or MatMul and becomes part of its kernel: R21, R22."""
    if node.op_type == "Mul":
        return _gated(graph, node, done)
    if node.op_type not in _EPILOGUE and node.op_type != "Add":
        return None
    tensors = [t for t in node.input if t and not is_weight(graph, t)]
    for tensor in tensors:
        before = graph.producer(past_pairs(graph, tensor))
        others = [t for t in tensors if t != tensor]
        if before is None or before.op_type not in _behind(node, residual=bool(others)) or not _is_int8(before, done):
            continue
        if has_pair(graph, tensor):
            if others:
                continue
            text = f"a Q/DQ pair stands between it and {named(before)}, so that TensorRT cannot fuse them"
            return Precision.FLOAT, because("R21", text)
        if len(graph.consumers(tensor)) > 1 and not _gates_itself(graph, tensor):
            continue
        if all(has_pair(graph, t) for t in others):
            return _part_of(before, "R22" if others else "R21")
        text = f"its other input {origin(graph, others[0])} has no Q/DQ pair, so that it is not part of {named(before)}"
        return Precision.FLOAT, because("R22", text)
    return None


def _is_int8(node: NodeProto, done: Mapping[str, NodeExecution]) -> bool:
    return node.name in done and done[node.name].precision in (Precision.INT8, Precision.FUSED)


def _part_of(node: NodeProto, rule: str) -> Found:
    return Precision.FUSED, Reason(text=f"part of {named(node)}", rule=rule)


def _behind(node: NodeProto, *, residual: bool) -> frozenset[str]:
    """What stands right before an operator that becomes part of a Conv or MatMul: bias and BatchNormalization first."""
    if residual or node.op_type in TENSORRT.fused_activations:
        return MATRIX_OPS | {"BatchNormalization", "Add"}
    return MATRIX_OPS


def _gated(graph: Graph, node: NodeProto, done: Mapping[str, NodeExecution]) -> Found | None:
    for tensor in node.input:
        gate = graph.producer(tensor)
        if gate is None or gate.op_type not in TENSORRT.fused_activations or gate.input[0] not in node.input:
            continue
        if _is_int8(gate, done) and _gates_itself(graph, gate.input[0]):
            return _part_of(gate, "R21")
    return None


def _gates_itself(graph: Graph, tensor: str) -> bool:
    """Whether x goes to x * f(x) and nowhere else, as in SiLU and hard-swish."""
    gates = [n for n in graph.consumers(tensor) if n.op_type in TENSORRT.fused_activations]
    products = [n for n in graph.consumers(tensor) if n.op_type == "Mul"]
    if len(gates) != 1 or len(products) != 1 or len(graph.consumers(tensor)) != 2:
        return False
    return set(products[0].input) == {tensor, gates[0].output[0]}


def _unweighted(graph: Graph, node: NodeProto) -> Found:
    around = placement(graph, node)
    if node.op_type in _HIGHER_PRECISION:
        return Precision.FLOAT, because("R27", f"{node.op_type} stays in higher precision")
    if around.plain or not around.touched:
        plain = [node.input[s] for s in around.plain]
        floats = sorted(plain, key=lambda t: is_weight(graph, t))
        if not floats:
            return Precision.FLOAT, because("R33", "it has no weights, and there is no Q/DQ pair around it")
        rule = "R24" if node.op_type in _MOVERS else "R33"
        what = "it only moves values" if node.op_type in _MOVERS else "it has no weights"
        return Precision.FLOAT, because(rule, f"{what}, and its input {origin(graph, floats[0])} has no Q/DQ pair")
    if node.op_type in _MOVES_PAIRS:
        return Precision.INT8, Reason(text="", rule="R24")
    if problem := output_problem(graph, node.output[0]):
        rule = "R24" if node.op_type in _MOVERS else "R33"
        return Precision.FLOAT, because(rule, f"its inputs have Q/DQ pairs, but {problem}")
    return Precision.INT8, Reason(text="", rule="R33")
