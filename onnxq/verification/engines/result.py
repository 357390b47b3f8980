"""What an engine said about one model: how each node runs, and what it complained about."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray


class Precision(enum.Enum):
    """The arithmetic that a node was seen to run in."""

    INT8 = "int8"
    FUSED = "fused"
    """No kernel of its own: it became part of an int8 neighbour."""
    WEIGHTS = "weights"
    """A float kernel that reads its weights in few bits."""
    FLOAT = "float"
    OTHER = "other"
    """Neither: shape arithmetic, indices, or a constant computed while loading."""


@dataclass(frozen=True, kw_only=True)
class NodeExecution:
    """How one node of the quantized model runs.

    Attributes:
        node: Name of the node in the quantized model.
        op: Its operator type there.
        precision: What the engine does with it.
        engine_op: The engine's own operator or kernel, "" where the node has none of its own.
        why: For a float node, what kept it from int8; for a fused one, where it went; else "".
        rule: The rule behind that, as listed in docs/targets.md; "" where none speaks.
    """

    node: str
    op: str
    precision: Precision
    engine_op: str
    why: str = ""
    rule: str = ""


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """An engine's account of a quantized model.

    Attributes:
        engine: Name of the engine.
        version: Its version.
        accepted: Whether it could load (ORT, OpenVINO) or build (TensorRT) the model at all.
        nodes: Every node but QuantizeLinear and DequantizeLinear, in graph order; empty where the engine tells nothing
            about nodes.
        engine_ops: How often each operator occurs in what the engine executes.
        problems: What the engine refused or warned about, in its words made readable.
        size_bytes: Size of the built engine; 0 where there is no such thing.
        build_seconds: Time that loading or building took.
        outputs: Outputs of the engine by name, for each batch that it was run on; empty where it was not run.
        run_problem: Why it was not run, where it was to be.
    """

    engine: str
    version: str
    accepted: bool
    nodes: tuple[NodeExecution, ...] = ()
    engine_ops: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    size_bytes: int = 0
    build_seconds: float = 0.0
    outputs: tuple[Mapping[str, NDArray[Any]], ...] = ()
    run_problem: str = ""

    def count(self, precision: Precision, ops: Collection[str] | None = None) -> int:
        """How many nodes (of the operator types `ops`, if given) run in `precision`."""
        return sum(n.precision is precision and (ops is None or n.op in ops) for n in self.nodes)

    def of(self, precision: Precision, ops: Collection[str] | None = None) -> tuple[NodeExecution, ...]:
        """The nodes (of the operator types `ops`, if given) that run in `precision`."""
        return tuple(n for n in self.nodes if n.precision is precision and (ops is None or n.op in ops))

    def node(self, name: str) -> NodeExecution | None:
        """What became of the node called `name`."""
        return next((n for n in self.nodes if n.node == name), None)
