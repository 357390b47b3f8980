"""What is probably wrong with data, told from its ranges, the first operators of the model, and its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.data.batches import Batch
from onnxq.data.inputs import InputSpecs
from onnxq.graph.view import Graph, tensor_value
from onnxq.passes.adapt.settle_types import runnable
from onnxq.passes.simplify.lift_constants import constant_tensor
from onnxq.previews.figures import Figures

_PIXELS = 255
_PIXEL_MEAN = 20.0
"""A mean or divisor beyond this is one of pixels from 0 to 255; those of pixel / 255 are below 1."""

_SEEN_THROUGH = frozenset(
    {"Transpose", "Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Gather", "Split"}
)

_LARGE = 1000.0
_SAME_OUTPUT = 1e-3
"""Outputs whose spread over the samples is below this share of their size say nothing."""


def scales_pixels(graph: Graph, name: str) -> bool:
    """Whether the model brings pixels from 0 to 255 to small numbers itself: Sub, Div, Mul or BatchNormalization of an
    input by constants of that size."""
    tensors, seen = [name], set[str]()
    while tensors:
        tensor = tensors.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        for node in graph.consumers(tensor):
            if node.op_type in _SEEN_THROUGH:
                tensors.extend(output for output in node.output if output)
                continue
            values = [_constant(graph, operand) for operand in node.input if operand != tensor and operand]
            sizes = [float(np.abs(v).max()) for v in values if v is not None and v.size and v.dtype.kind in "fiu"]
            if node.op_type in ("Sub", "Add", "Div") and any(size > _PIXEL_MEAN for size in sizes):
                return True
            if node.op_type == "Mul" and any(0 < size <= 1 / _PIXEL_MEAN for size in sizes):
                return True
            if node.op_type == "BatchNormalization" and len(values) == 4 and values[2] is not None:
                return bool(np.abs(values[2]).max() > _PIXEL_MEAN)
    return False


def _constant(graph: Graph, tensor: str) -> NDArray[Any] | None:
    """The value of an initializer, or of a Constant node, which exporters write too; else None."""
    node = graph.producer(tensor)
    if node is None or node.op_type != "Constant":
        return graph.constant(tensor)
    found = constant_tensor(node)
    return None if found is None else tensor_value(found, graph.base_dir)


def doubts_of_input(graph: Graph, figures: Figures) -> Iterator[str]:
    """What is probably wrong with one input.

    Args:
        graph: The float model.
        figures: What was fed.
    """
    name, low, high = figures.name, figures.low, figures.high
    if figures.dtype.kind == "f" and low is not None and high is not None:
        if figures.is_image:
            raw = high > _PIXELS / 5 and low >= 0
            if scales_pixels(graph, name) and high < _PIXELS / 5:
                yield (
                    f"input {name!r} runs from {low:.3g} to {high:.3g}, but the model scales pixels from 0 to 255 "
                    "itself: feed raw pixels (--mean 0 --std 0.00392156862745098)"
                )
            elif raw and high <= _PIXELS + 1 and not scales_pixels(graph, name):
                yield (
                    f"input {name!r} runs from {low:.3g} to {high:.3g}, like raw pixels, and the model does not scale "
                    "them: was it trained so? Else scale as in training (--images, --mean, --std)"
                )
        if max(abs(low), abs(high)) > _LARGE:
            yield (
                f"input {name!r} reaches {max(abs(low), abs(high)):.4g}; is it meant to? Else scale it as in training: "
                "preprocess= (--preprocess), for images images= (--images, --mean, --std)"
            )
    if figures.channels is not None:
        flat = [i for i, channel in enumerate(figures.channels) if channel.high == channel.low]
        if flat and len(flat) < len(figures.channels):
            yield (
                f"channel {flat[0]} of input {name!r} is {figures.channels[flat[0]].low:g} everywhere: check the "
                "files, and layout= (--layout)"
            )


def doubts_of_samples(graph: Graph, samples: Iterable[Batch]) -> tuple[str, ...]:
    """What is probably wrong with the inputs of a model, told from some batches."""
    figures = {name: Figures(spec=spec) for name, spec in InputSpecs.from_graph(runnable(graph)).items()}
    for batch in samples:
        for name, array in batch.arrays.items():
            if name in figures:
                figures[name].add(array)
    return tuple(doubt for one in figures.values() for doubt in doubts_of_input(graph, one))
