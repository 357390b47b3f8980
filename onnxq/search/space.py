"""What a search chooses among: the layers of a model, and the models that differ in what becomes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnxq.calibration.runner import CollectOptions
from onnxq.data.batches import Batch
from onnxq.graph.view import Graph
from onnxq.search.effects import Bench
from onnxq.search.fewest import Excluded
from onnxq.search.layers import Layer


class NotMadeError(Exception):
    """A model that cannot be made with the parameters at hand."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a layer can become between the smallest type and float.

    Attributes:
        type: The wider type.
        role: What gets it: "activations" or "weights".
        layers: Names of the layers that can take it.
    """

    type: str
    role: str
    layers: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Space:
    """The models that a search may make of one float model.

    Attributes:
        mode: The mode of `onnxq.quantize` that they are made in.
        source: The float model as given.
        digest: Its digest.
        target: Name of the target.
        fused: Whether onnxruntime's kernels run the models, or Q and DQ as written.
        layers: What is decided on, in graph order.
        cost: By name of a layer, what is lost where it stays in float.
        counted: What `cost` counts: "arithmetic" or "weights".
        own_noise: By name in graph order, the noise of each layer's own rounding (`expected.py`). Costs no inference.
        step: The step between, if there is one.
        make: The model with layers in float (first) and others with the step's type (second); a layer in both is in
            float. Raises NotMadeError.
        bench: What single layers are measured with, on some samples; None where they cannot be.
        measurable: Names of the layers that can be measured alone.
    """

    mode: str
    source: Graph
    digest: str
    target: str
    fused: bool
    layers: Sequence[Layer]
    cost: Mapping[str, int]
    counted: str
    own_noise: Callable[[], Mapping[str, float]]
    step: Step | None
    make: Callable[[Excluded, Excluded], Graph]
    bench: Callable[[Sequence[Batch], CollectOptions], Bench]
    measurable: frozenset[str]
