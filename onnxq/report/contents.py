"""What a report is made of: counts of nodes, facts of the data, a row for each node and each tensor."""

from __future__ import annotations

from dataclasses import dataclass

from onnxq.report.ranges import TensorRanges


@dataclass(frozen=True, kw_only=True)
class NodeCounts:
    """Nodes by the way they run.

    Attributes:
        int8: Nodes that compute on codes.
        fused: Nodes that became part of such a neighbour.
        float: Nodes that run in float.
        weights: Nodes that run in float with weights in few bits.
        other: Nodes that compute nothing in float anyway, such as shapes; 0 where the engine tells.
    """

    int8: int
    fused: int
    float: int
    weights: int = 0
    other: int = 0

    @property
    def total(self) -> int:
        """All of them, `other` included."""
        return self.int8 + self.fused + self.float + self.weights + self.other

    @property
    def int8_share(self) -> float:  # type: ignore[valid-type]  # the field `float` hides the type
        """Share of the nodes but `other` that run in int8 or inside an int8 neighbour; 0 without nodes."""
        total = self.int8 + self.fused + self.float + self.weights
        return (self.int8 + self.fused) / total if total else 0.0


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What the ranges and errors were measured on.

    Attributes:
        source: Where the data came from, as the user named it; of statistics it is where the errors were measured.
        samples: Number of calibration samples; 0 where nothing was calibrated.
        held_out_samples: Number of samples that the errors were measured on.
        synthetic: Whether the ranges come from made-up inputs.
        synthetic_comparison: Whether the errors were measured on made-up inputs.
        from_statistics: Whether the calibration samples are those of statistics of an earlier run.
        counted_share: Share of the activations' elements that is in histograms; extremes are of all of them.
        providers: Execution providers that calibration asked for, in fall-back order.
        options: How the source was read, as options of a command.
        is_path: Whether `source` is a path, which a command can be given.
    """

    source: str
    samples: int
    held_out_samples: int
    synthetic: bool
    synthetic_comparison: bool = False
    from_statistics: bool = False
    counted_share: float = 1.0
    providers: tuple[str, ...] = ("cpu",)
    options: str = ""
    is_path: bool = False


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One node: what was decided, and what the engine did.

    Attributes:
        node: Name of the node.
        op: Its operator type.
        decision: "int8", "fused" or "float" by the plan; "" without a plan.
        reason: Why, in the user's words.
        rule: The target's rule that decided.
        macs: Multiply-accumulates for one sample; 0 where unknown.
        executed: "int8", "fused", "float" or "other" by the engine; "" where the engine tells nothing.
        engine_op: The engine's kernel.
        why: What kept the node from int8, by the engine.
        output: Its first output in the float model; "" where it is not told.
        sqnr_db: Signal to noise ratio of that output against the float model's, in dB; None where it was not measured,
            or is exact.
        exact: Whether that output was seen to be equal to the float model's.
    """

    node: str
    op: str
    decision: str
    reason: str
    rule: str
    macs: int = 0
    executed: str = ""
    engine_op: str = ""
    why: str = ""
    output: str = ""
    sqnr_db: float | None = None
    exact: bool = False


@dataclass(frozen=True, kw_only=True)
class TensorRow:
    """One quantized tensor and its parameters.

    Attributes:
        name: Tensor name.
        role: "activation", "weight", "bias" or "constant".
        dtype: Type of the codes.
        axis: Channel axis; None for per-tensor.
        scale: One value, or one for each channel.
        zero_point: As many.
        rmin: Smallest real value that a code stands for, over all channels.
        rmax: Largest real value that a code stands for, over all channels.
        source: Where the range came from ("observed", "shared with 'x'", ...).
        group: Tensors of one group share their parameters.
        block_size: Neighbours along `axis` that share a scale, in mode "weight-only"; None for none.
        sqnr_db: Signal to noise of a weight in few bits; None where it was not measured.
        rounding: How its codes were chosen; "" where that is not recorded.
        writer: Name of the node that computes it; "" for inputs and constants.
        readers: Names of the nodes that read it quantized.
        values: Histogram and ranges by method, where they were looked at.
    """

    name: str
    role: str
    dtype: str
    axis: int | None
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    rmin: float
    rmax: float
    source: str = ""
    group: str | None = None
    block_size: int | None = None
    sqnr_db: float | None = None
    rounding: str = ""
    writer: str = ""
    readers: tuple[str, ...] = ()
    values: TensorRanges | None = None
