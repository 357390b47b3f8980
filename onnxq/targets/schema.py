"""What a target's table says. A target file holds literals of these types and no logic."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxq.numerics.specs import QuantSpec
from onnxq.targets.costs import CostTable

HARD_SWISH = "HardSwish"


class Placement(enum.Enum):
    """Which edges of an int8 node carry a Q/DQ pair."""

    REGIONS = "regions"
    """Inputs and outputs: int8 kernels read and write codes, so neighbouring int8 nodes form regions (ONNX Runtime)."""
    INPUTS = "inputs"
    """Inputs only: the engine fuses what follows in higher precision (TensorRT, OpenVINO)."""


class Engine(enum.Enum):
    """Who is asked what a quantized model really does."""

    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"
    NONE = "none"
    """Nobody: outputs are compared, and no node is proven to run in int8."""


class BiasForm(enum.Enum):
    """How the bias of an int8 node is stored."""

    INT32 = "int32"
    """int32 codes with scale = data scale * weight scale, behind a DequantizeLinear."""
    FLOAT = "float"
    """Left as it is."""


class WeightGuard(enum.Enum):
    """Protection of weights against a weakness of the target's kernels."""

    NONE = "none"
    PAIR_SUM = "pair-sum"
    """vpmaddubsw adds two u8*s8 products in saturating int16: the scale of a channel grows until no pair overflows."""
    TAP_PAIR_SUM = "tap-pair-sum"
    """The same where the kernel fills up the channels of each tap of a Conv with zeros: no pair spans two taps."""


class ChannelAxis(enum.Enum):
    """Which axis of a weight counts output channels."""

    FIRST = "first"
    SECOND = "second"
    LAST = "last"
    GEMM = "gemm"
    """Axis 0 with transB, else axis 1."""


@dataclass(frozen=True, kw_only=True)
class ComputeRule:
    """An operator with a constant weight that runs in int8.

    Attributes:
        op: Operator type.
        axis: The weight's channel axis.
        output_quantized: Whether the int8 kernel exists only with a Q behind it.
        bias: Form of the bias.
        ranks: Ranks of the data input that the kernel takes; empty for all.
        added_bias_ranks: Ranks of a product with which the Add of a constant behind it becomes part of the int8 node;
            with another one the Add is a float node of its own and the constant stays float. Empty for all.
        per_channel_rank: Weight rank from which on only per-tensor weights run; None for no limit.
        min_channels: Fewer input or output channels than this stay float.
        min_features: A reduced or produced dimension smaller than this stays float.
        weight: Form of its weights, if it is not the target's.
        keeps_weight: Whether they keep it whatever type of weights a user asks for.
        grouped: Whether it runs in int8 with several groups too.
        longest_row: Codes that a row of a Conv's filter (its last size times the channels of a group) may hold where a
            group has 2 to 31 channels: longer ones are computed wrongly, those of one group only where this divides
            them. They stay float; 0 for no limit.
        signed: Form of its data input where that has negative values, if it is not the target's (INPUTS only).
        rules: Identifiers of the rules behind it, as listed in the target's documentation.
    """

    op: str
    axis: ChannelAxis
    output_quantized: bool
    bias: BiasForm
    ranks: tuple[int, ...] = ()
    added_bias_ranks: tuple[int, ...] = ()
    per_channel_rank: int | None = None
    min_channels: int = 0
    min_features: int = 0
    weight: QuantSpec | None = None
    keeps_weight: bool = False
    grouped: bool = True
    longest_row: int = 0
    signed: QuantSpec | None = None
    rules: str


@dataclass(frozen=True, kw_only=True)
class ElementwiseRule:
    """An operator without weights whose int8 kernel reads and writes codes.

    Attributes:
        op: Operator type.
        shrinks: Whether its output is so much smaller than its input that int8 pays even when a float node follows.
        rules: Identifiers of the rules behind it.
    """

    op: str
    shrinks: bool = False
    rules: str


@dataclass(frozen=True, kw_only=True)
class PassThroughRule:
    """An operator that only moves values: its output keeps the parameters of its input 0.

    Attributes:
        op: Operator type.
        attributes: Attribute values that it must have to be one (a nearest Resize).
        rules: Identifiers of the rules behind it.
    """

    op: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    rules: str


@dataclass(frozen=True, kw_only=True)
class TypeRule:
    """What is different where activations have a certain type of codes. Without a rule nothing is.

    Attributes:
        weights: Type of the weights that come with such activations; empty where they stay as they are.
        weight_types: Types that weights may have beside such activations alone, where a user asks.
        products: Whether products of two activations (attention) are quantized too (INPUTS only).
        max_taps: A Conv whose filter has more taps than that stays float; 0 for no limit.
        grouped: Whether Convs with groups, depthwise ones among them, are quantized.
        simulated: Whether the engine takes the type but computes in float between the pairs: such a model tells the
            accuracy, and gains no speed.
        outputs: Ranges that the outputs of operators have to have, [lowest, highest] by operator type (REGIONS only).
        note: What a user should know of the type on this engine.
        rules: Identifiers of the rules behind it.
    """

    weights: str = ""
    weight_types: frozenset[str] = frozenset()
    products: bool = False
    max_taps: int = 0
    grouped: bool = True
    simulated: bool = False
    outputs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    note: str = ""
    rules: str


@dataclass(frozen=True, kw_only=True)
class Target:
    """Everything that placement, folding and verification must know of one engine.

    Attributes:
        name: Name used in flags and files.
        title: Name used in sentences.
        placement: Which edges carry Q/DQ pairs.
        activation: Form of quantized activations.
        weight: Form of quantized weights (its axis is filled in for each tensor).
        engine: Which engine's verification answers for it.
        activation_types: Types of codes that activations may have besides that of `activation`, where a user asks.
        weight_types: Likewise for weights.
        types: What is different for activations of a type, by its name.
        blocks: Whether weights may have a scale for each block beside quantized activations.
        like_types: Whether the data and the weight of a node must both be integers or both be floats.
        guard: Protection of weights.
        compute: Operators with weights, by type.
        elementwise: Operators on codes, by type (REGIONS only).
        pass_through: Operators that keep parameters, by type.
        taken: Operators that the engine turns to int8 on its own wherever one stands between a DQ and a Q, besides
            those with rules (REGIONS only).
        fused_activations: Operators that disappear into the node before them.
        fusion_rule: Identifier of the rule by which they do (INPUTS only).
        everywhere: Whether every operator with a rule is quantized, not only where codes are wanted behind it: an
            engine that computes on codes alone, an Add behind a MatMul included (REGIONS only).
        residual_add: Whether the skip branch of a residual Add gets a pair (INPUTS only).
        sum_pairs: Size of the sum, in elements, from which on both branches of a residual Add get pairs; 0 for never
            (INPUTS only).
        pool_pairs: Whether a MaxPool with a pair on its output gets the same pair on its input (INPUTS only).
        moved_pairs: Whether an operator that only moves values reads the pair that its input has, where all that reads
            what it moves has pairs (INPUTS only).
        concat_shares: Whether the quantized inputs and the output of a Concat share parameters (INPUTS only).
        whole_operators: Operators that the engine wants as one node, since it does not see through several that
            compute the same; known is HardSwish.
        full_products: Whether the placement "full" quantizes products of two activations (attention), which otherwise
            only types with such a rule do (INPUTS only).
        slow_prelu: Whether PRelu is slower than other operators that compute the same (`passes/adapt/part_prelu.py`).
        slow_sums: Whether what the engine fuses with an Add behind it or before it is slower than its parts
            (`passes/adapt/part_fused_sums.py`).
        nonzero_biases: Whether a Conv that several nodes read needs a bias that is not zero (see
            `passes/quantize/nonzero_biases.py`).
        tables: Rule by which the tables of Gather are int8 with a scale for each row; empty where they stay float.
        min_opset: Lowest opset of the quantized model.
        half_types: Whether int8 nodes may stand among float16 and bfloat16, their scales in that type too. Where not,
            and for float64 everywhere, the graph around them is made to compute in float32.
        costs: What kernels cost, so that no node runs in int8 that is faster in float; None where it was not measured.
        float_reasons: Why operators that are often asked about stay float, by type.
        sources: Where a rule comes from, by its identifier.
    """

    name: str
    title: str
    placement: Placement
    activation: QuantSpec
    weight: QuantSpec
    engine: Engine = Engine.NONE
    activation_types: frozenset[str] = frozenset()
    weight_types: frozenset[str] = frozenset()
    types: Mapping[str, TypeRule] = field(default_factory=dict)
    blocks: bool = False
    like_types: bool = False
    guard: WeightGuard = WeightGuard.NONE
    compute: Mapping[str, ComputeRule]
    elementwise: Mapping[str, ElementwiseRule] = field(default_factory=dict)
    pass_through: Mapping[str, PassThroughRule] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()
    fused_activations: frozenset[str] = frozenset()
    fusion_rule: str = ""
    everywhere: bool = False
    residual_add: bool = False
    sum_pairs: int = 0
    pool_pairs: bool = False
    moved_pairs: bool = False
    concat_shares: bool = False
    whole_operators: frozenset[str] = frozenset()
    full_products: bool = False
    slow_prelu: bool = False
    slow_sums: bool = False
    nonzero_biases: bool = False
    tables: str = ""
    min_opset: int = 13
    half_types: bool = False
    costs: CostTable | None = None
    float_reasons: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def codes(self) -> str:
        """What its nodes run in, in words: "int8", "fp8", "uint16"."""
        return self.activation.codes
