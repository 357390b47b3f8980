"""From a quantized model back to a float one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from onnxq.errors import ModelError
from onnxq.graph.model import ModelSource, load_graph, quantized_nodes, save_model
from onnxq.graph.saving import check_output, self_contained
from onnxq.passes.base import PassManager
from onnxq.passes.strip.strip_qdq import StripQDQ
from onnxq.pipeline.arguments import check_output_is_no_input, check_weights_stay
from onnxq.wording.brief import brief
from onnxq.wording.plural import counted

_METADATA = "onnxq."
"""Entries of the metadata that tell of the quantization start so."""


@dataclass(frozen=True, kw_only=True)
class StripResult:
    """What `strip` made.

    Attributes:
        model: The float model.
        pairs: How many Q/DQ pairs of activations and float weights were taken out.
        dequantized: Names of the initializers whose float values were computed from codes. Rounding took up to half a
            step of each value, and no tool can give that back. Recovery (`recover`, on unless it is "none") changes
            weights and biases before they are rounded, so that they may be some steps from the float model's, and
            may rescale channels from one layer to the next.
        holds: How many operators that compute nothing, and kept an engine from seeing through a float node, were too.
        restored: Names of Relu and Clip nodes that were put back: onnxruntime's tool leaves them out where codes from 0
            upwards do their work. A Clip's upper limit is known only where the codes reach it.
        output: Where the model was written, if it was.
    """

    model: ModelProto
    pairs: int
    dequantized: tuple[str, ...]
    holds: int
    restored: tuple[str, ...] = ()
    output: Path | None = None

    def __repr__(self) -> str:
        return brief(
            self,
            f"{counted(self.pairs, 'pair')} taken out",
            f"{counted(len(self.dequantized), 'weight')} computed from codes" if self.dequantized else None,
            None if self.output is None else f"written to {self.output}",
        )

    @property
    def exact(self) -> bool:
        """Whether nothing but pairs was touched: then this is the float model, to the last bit."""
        return not self.dequantized and not self.restored

    def __str__(self) -> str:
        done = f"{counted(self.pairs, 'Q/DQ pair')} removed"
        if self.holds:
            done += f", {counted(self.holds, 'hold')} too"
        if self.exact:
            return f"{done}; all weights were still float: this is the float model to the last bit"
        if self.restored:
            activations = counted(len(self.restored), "activation")
            done += f"; {activations} put back whose work the codes did (a Clip's upper limit may be missing)"
        if self.dequantized:
            codes = counted(len(self.dequantized), "tensor")
            done += (
                f"; {codes} dequantized: the float values are no longer in the file, each is off by its rounding "
                "and by what was fitted to make up for that"
            )
        return done


def strip(model: ModelSource, *, output: str | os.PathLike[str] | None = None, force: bool = False) -> StripResult:
    """Remove all Q/DQ from a model, whether onnxq, onnxruntime or a quantization-aware training made it.

    Float weights behind pairs are kept as they are; weights and biases of which the file holds codes alone are
    dequantized. What else was done to the model before it was quantized (folded BatchNormalizations, corrected biases,
    a newer opset) stays done.

    Args:
        model: Path, bytes or ModelProto of a model with QuantizeLinear and DequantizeLinear; it is not changed.
        output: Where to write the float model; None writes nothing.
        force: Overwrite an existing output.

    Raises:
        ModelError: the model cannot be read, is not valid, or has no Q/DQ.
        UnsupportedModelError: something computes on codes (QLinearConv and the like), or there are pairs inside the
            bodies of control flow.
        ConfigError: the output exists or is what is read.
    """
    check_output_is_no_input(output, model=model)
    if output is not None:
        check_output(Path(output), force=force)
        check_weights_stay(output, model)
    graph = load_graph(model)
    if not quantized_nodes(graph):
        raise ModelError("the model has no QuantizeLinear or DequantizeLinear", hint="it is a float model already")
    own = any(entry.key == "onnxq.version" for entry in graph.frame.metadata_props)
    stripping = StripQDQ(restores=not own)
    PassManager([stripping], name="strip").run(graph)
    kept = [entry for entry in graph.frame.metadata_props if not entry.key.startswith(_METADATA)]
    del graph.frame.metadata_props[:]
    graph.frame.metadata_props.extend(kept)
    result = self_contained(graph.to_model(), graph.base_dir)
    path = None if output is None else Path(output)
    if path is not None:
        save_model(result, path, force=force, base_dir=graph.base_dir)
    return StripResult(
        model=result,
        pairs=stripping.pairs,
        dequantized=stripping.dequantized,
        holds=stripping.holds,
        restored=stripping.restored,
        output=path,
    )
