"""The plan: where Q/DQ pairs go and where their parameters come from. A value, made before any data runs."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from onnxq.calibration.methods import Method
from onnxq.graph.view import Use
from onnxq.numerics.specs import QuantSpec
from onnxq.wording.brief import brief
from onnxq.wording.plural import counted


class Role(enum.Enum):
    """What a quantized tensor is to the nodes that read it."""

    ACTIVATION = "activation"
    WEIGHT = "weight"
    BIAS = "bias"
    CONSTANT = "constant"
    """A constant operand of an elementwise operator."""
    TABLE = "table"
    """What a Gather takes rows from."""


@dataclass(frozen=True)
class Observed:
    """Range solved from calibration statistics, cut to [lower, upper] where the graph bounds the values.

    Attributes:
        lower: Nothing below it matters; None for no bound.
        upper: Nothing above it matters.
        reach: The range holds at least this, whatever the data shows.
    """

    lower: float | None = None
    upper: float | None = None
    reach: tuple[float, float] | None = None


@dataclass(frozen=True)
class Fixed:
    """Range known without data, cut to [lower, upper] where the graph bounds the values.

    A constant's own values are not Fixed but solved from the constant.
    """

    rmin: float
    rmax: float
    lower: float | None = None
    upper: float | None = None


@dataclass(frozen=True)
class SharedWith:
    """The same parameters as another tensor of the plan."""

    tensor: str


@dataclass(frozen=True)
class Derived:
    """scale = scale(data) * scale(weight), zero-point 0: the bias of an int8 Conv, Gemm or MatMul."""

    data: str
    weight: str


@dataclass(frozen=True)
class FromValues:
    """Range taken from the constant's own values, or [-amax, amax] where that is given."""

    amax: float | None = None


Source = Observed | Fixed | SharedWith | Derived | FromValues


@dataclass(frozen=True, kw_only=True)
class TensorPlan:
    """One tensor to quantize.

    Attributes:
        name: Tensor name in the normalised float graph.
        role: What the tensor is.
        spec: Form of its quantization.
        source: Where its parameters come from.
        group: Tensors with the same group id are solved from their merged statistics; None stands alone.
        uses: The reads that get the dequantized tensor; all other reads keep the float one.
        covers_output: The tensor is a graph output, and the output too is the dequantized one.
        method: How its range is chosen, where not as that of the rest.
        rounding: How the codes of a weight are chosen in mode "weight-only"; None in all others.
    """

    name: str
    role: Role
    spec: QuantSpec
    source: Source
    uses: tuple[Use, ...]
    group: str | None = None
    covers_output: bool = False
    method: Method | None = None
    rounding: str | None = None

    def at_path(self, path: str) -> TensorPlan:
        """The same under the names that it has in the model where its graph lies at `path`, which ends in a slash."""
        source = self.source
        if isinstance(source, SharedWith):
            source = SharedWith(f"{path}{source.tensor}")
        elif isinstance(source, Derived):
            source = Derived(f"{path}{source.data}", f"{path}{source.weight}")
        uses = tuple(replace(use, node=f"{path}{use.node}") for use in self.uses)
        return replace(self, name=f"{path}{self.name}", source=source, uses=uses)


class Action(enum.Enum):
    """How a node will run on the target."""

    INT8 = "int8"
    FUSED = "fused"
    """Disappears into an int8 neighbour (a Relu inside a quantized Conv)."""
    WEIGHTS = "weights"
    """Computes in float with weights that are stored in few bits."""
    FLOAT = "float"
    OTHER = "other"
    """Neither: it computes shapes, indices, masks or other values that are not float."""


@dataclass(frozen=True, kw_only=True)
class NodeDecision:
    """What becomes of one node, and why.

    Attributes:
        node: Node name in the normalised float graph.
        op: Operator type.
        action: How it will run.
        reason: The reason in the user's words.
        rule: The rule of the target that decided, for looking up in the target's documentation.
        macs: Multiply-accumulates for one sample; None where open dimensions leave it open.
    """

    node: str
    op: str
    action: Action
    reason: str
    rule: str
    macs: int | None = 0


@dataclass(frozen=True, kw_only=True)
class QuantPlan:
    """Where Q/DQ pairs go in one model for one target.

    Attributes:
        target: Name of the target (resolved: never "ort-cpu").
        opset: Opset the quantized model needs at least.
        tensors: By tensor name in graph order, then weights and biases. A bias shared by several nodes has an entry for
            each, the later ones under "<tensor>@<node>".
        nodes: One decision for each node of the graph, in graph order.
        digest: Digest of the float model the plan belongs to.
        holds: Tensors behind float nodes that the engine would else take into int8 (`passes/quantize/hold_float.py`).
        one_width: Whether all activations of a node must have codes of one width (`passes/quantize/convert_widths.py`).
        slow_prelu: Whether PRelu is computed by other operators (`passes/adapt/part_prelu.py`).
        own_dequantizers: Whether the engine gives each reader of a DequantizeLinear one of its own
            (`passes/quantize/hold_float.py`).
        slow_sums: Whether Adds that would be fused into slow kernels are Sums (`passes/adapt/part_fused_sums.py`).
        nonzero_biases: Whether Convs with several readers need a bias that is not zero (`nonzero_biases.py`).
        float16: Whether what is not quantized computes in float16 (`passes/adapt/compute_in_float16.py`).
        notes: Facts about the plan that a user should read (which target was picked and why, ...).
    """

    target: str
    opset: int
    tensors: Mapping[str, TensorPlan]
    nodes: tuple[NodeDecision, ...]
    digest: str
    holds: tuple[str, ...] = ()
    one_width: bool = False
    slow_prelu: bool = False
    own_dequantizers: bool = False
    slow_sums: bool = False
    nonzero_biases: bool = False
    float16: bool = False
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        counts = Counter(decision.action.value for decision in self.nodes)
        nodes = f"{counted(len(self.nodes), 'node')} ({', '.join(f'{n} {name}' for name, n in counts.items())})"
        return brief(self, self.target, nodes, (len(self.tensors), "quantized tensor"))

    def observed(self) -> tuple[str, ...]:
        """Names of the tensors whose statistics have to be collected."""
        return tuple(name for name, t in self.tensors.items() if isinstance(t.source, Observed))

    def families(self) -> dict[str, str]:
        """For each tensor that shares its parameters with others, what they have in common; the rest is left out."""
        found = {key: family_of(self.tensors, key) for key in self.tensors}
        sizes = Counter(found.values())
        return {key: family for key, family in found.items() if sizes[family] > 1}


def family_of(tensors: Mapping[str, TensorPlan], key: str) -> str:
    """The group of a tensor, or the tensor whose codes it only moves, or itself."""
    key = root_of(tensors, key)
    return tensors[key].group or key


def root_of(tensors: Mapping[str, TensorPlan], key: str) -> str:
    """The tensor whose parameters another one has, behind a MaxPool or Reshape that in front of it; else itself."""
    while (planned := tensors.get(key)) is not None and isinstance(planned.source, SharedWith):
        key = planned.source.tensor
    return key
