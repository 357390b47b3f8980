"""The layers of a plan: each node with int8 weights, and all quantization that comes with it.

    x -> Q/DQ -> Conv(W int8, b int32) -> Relu -> Q/DQ -> ...        one layer where kernels read and write codes
    x -> Q/DQ -> Conv(W int8, b) -> Add(skip Q/DQ) -> Relu -> ...    one layer where pairs stand on inputs
    ids -> Gather(table int8) -> DQ -> ...                           an embedding: its table and nothing else

The nodes that are fused into it belong to it, and so do the pairs that these nodes read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxq.calibration.solve import QParamsTable, constant_values
from onnxq.graph.view import Graph, Use
from onnxq.numerics.arrays import fake_quantize
from onnxq.planning.plan import Action, QuantPlan, Role
from onnxq.targets.schema import Placement, Target

_WEIGHTS = (Role.WEIGHT, Role.TABLE)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer.

    Attributes:
        node: Name of the node with weights.
        op: Its operator type.
        macs: Multiply-accumulates for one sample; None where open dimensions leave it open, 0 of an embedding.
        weights: Number of weights.
        nodes: That node and those fused into it, in graph order.
        rounded: Keys in the plan of the activations that it reads as codes, by read.
        constants: Keys in the plan of its weight and bias, by tensor.
        end: The tensor behind it.
        end_key: Key in the plan of that tensor, where the layer writes codes.
    """

    node: str
    op: str
    macs: int | None
    weights: int
    nodes: tuple[str, ...]
    rounded: Mapping[Use, str]
    constants: Mapping[str, str]
    end: str
    end_key: str | None

    @property
    def arithmetic(self) -> int:
        """Its multiply-accumulates; where open sizes leave them open, the number of weights stands in for them."""
        return self.weights if self.macs is None else self.macs

    @property
    def cost(self) -> int:
        """What leaving it in float costs: arithmetic; of an embedding, which has none, the weights in the file."""
        return self.arithmetic or self.weights

    def quantized_constants(self, graph: Graph, qparams: QParamsTable) -> dict[str, NDArray[np.float32]]:
        """What the layer's rounded weight and bias stand for, by tensor."""
        found = {}
        for tensor, key in self.constants.items():
            values, params = constant_values(graph, tensor), qparams[key]
            if params.spec.qtype.bits > 16:  # a bias: one code for each channel
                values = np.broadcast_to(values.reshape(-1), params.scale.shape or (values.size,))
            found[tensor] = np.asarray(fake_quantize(values, params), np.float32)
        return found


def layers_of(graph: Graph, plan: QuantPlan, target: Target) -> list[Layer]:
    """The layers of a plan, in graph order.

    Args:
        graph: The float graph of the plan.
        plan: The plan.
        target: The table it was made with.
    """
    fused = {d.node for d in plan.nodes if d.action is Action.FUSED}
    reads = {use: (key, t) for key, t in plan.tensors.items() for use in t.uses}
    weights = {use.node: tensor.name for use, (_, tensor) in reads.items() if tensor.role in _WEIGHTS}
    found = []
    for decision in plan.nodes:
        if decision.node not in weights:
            continue
        nodes, end = _followed(graph, plan, decision.node, fused)
        own = [
            (use, tensor, *reads[use])
            for name in nodes
            for slot, tensor in enumerate(graph.node(name).input)
            if (use := Use(name, slot)) in reads
        ]
        constants = {tensor: key for _, tensor, key, t in own if t.role in (*_WEIGHTS, Role.BIAS)}
        writes_codes = target.placement is Placement.REGIONS and end in plan.tensors
        weight = graph.initializers[weights[decision.node]]
        found.append(
            Layer(
                node=decision.node,
                op=decision.op,
                macs=decision.macs,
                weights=int(np.prod(weight.dims, dtype=np.int64)),
                nodes=tuple(nodes),
                rounded={use: key for use, _, key, t in own if t.role is Role.ACTIVATION},
                constants=constants,
                end=end,
                end_key=end if writes_codes else None,
            )
        )
    return found


def at_path(layer: Layer, path: str) -> Layer:
    """`layer` under the name that it has in the model where its graph lies at `path`, which ends in a slash."""
    return replace(layer, node=f"{path}{layer.node}")


def below(names: Collection[str], path: str) -> frozenset[str]:
    """Those of `names` that lie at `path`, which ends in a slash, as they are called there."""
    return frozenset(name[len(path) :] for name in names if name.startswith(path))


def _followed(graph: Graph, plan: QuantPlan, node: str, fused: set[str]) -> tuple[list[str], str]:
    """`node` and the nodes fused behind it, and the tensor where they end: at the latest one that is rounded."""
    nodes, end = [node], graph.node(node).output[0]
    while not graph.is_output(end) and end not in plan.tensors:
        uses = graph.uses(end)
        if len(uses) != 1 or uses[0].node not in fused:
            break
        nodes.append(uses[0].node)
        end = graph.node(uses[0].node).output[0]
    return nodes, end
