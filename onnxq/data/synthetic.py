"""Inputs made up from a model's own shapes and types, for `onnxq quantize` without data.

The same model and seed give the same arrays. They exercise the model; they do not resemble its data: ranges solved from
them are for trying out a pipeline, not for deployment, and the batches carry a note that says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from onnxq.data.batches import Batch, Batches
from onnxq.data.images import noted_size
from onnxq.data.inputs import InputSpec, InputSpecs
from onnxq.errors import DataError, OnnxqError
from onnxq.graph.model import get_metadata
from onnxq.graph.view import Dim, Graph, attribute
from onnxq.inference.outputs import FLOATS
from onnxq.inference.session import make_session
from onnxq.wording.plural import counted

# Open image sizes to try, (height, width): classification, text recognition, detection at multiples of 32, tiny.
_IMAGE_SIZES = ((224, 224), (48, 320), (48, 192), (320, 320), (640, 640), (32, 32), (28, 28))
# Open lengths to try: tokens, audio frames at 16 kHz (with and without Silero's context), and single steps.
_LENGTHS = (128, 512, 576, 256, 64, 32, 16, 1)
_SAMPLE_RATES = (16000, 8000)
_MOST_ELEMENTS = 2**28
"""Of an input: 1 GiB of float32."""

# Operators that hand token ids on unchanged.
_PASS_THROUGH = frozenset(
    ("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand", "Slice")
)


@dataclass(frozen=True)
class _Sizes:
    """One guess at the open sizes; `masked` is the length of masks, which count what is in a cache, too."""

    image: tuple[int, int]
    length: int
    sample_rate: int
    masked: int


def synthetic_batches(
    graph: Graph, *, count: int = 16, seed: int = 0, image_size: tuple[int, int] | None = None
) -> Batches:
    """Made-up batches that the model runs on.

    Open sizes are tried, most likely first, until onnxruntime accepts the inputs: batch 1, images of the size that the
    model notes, then 224x224 and on, sequences of 128 and on, behind a cache of as many tokens. Integers that index an
    embedding stay inside it; masks are ones.

    Args:
        graph: The model.
        count: Number of batches.
        seed: Of the random numbers.
        image_size: (height, width) to try before all others.

    Returns:
        Batches labelled "synthetic"; whoever uses them says so.

    Raises:
        ModelError: the model has no inputs, or onnxruntime cannot load it.
        DataError: the model accepts none of the guesses; real data is needed.
    """
    specs = InputSpecs.from_graph(graph)
    limits = {name: index_limit(graph, name) for name in specs}
    likely = [size for size in (image_size, noted_size(get_metadata(graph.frame))) if size is not None]
    sizes = _runnable(graph, specs, limits, seed, (*likely, *_IMAGE_SIZES))

    def read() -> Iterator[Batch]:
        for number in range(count):
            arrays = _arrays(specs, limits, sizes, np.random.default_rng((seed, number)))
            per_sample = frozenset(n for n, a in arrays.items() if a.ndim and len(a) == 1)
            yield Batch(arrays=arrays, samples=1, per_sample=per_sample, label=f"synthetic batch {number + 1}")

    return Batches(read, inputs=specs, expected_samples=count, label="synthetic")


def likely_shapes(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Shapes of made-up inputs that the model runs on; none where it takes none of the guesses."""
    try:
        batch = next(synthetic_batches(graph, count=1).stream())
    except OnnxqError:
        return {}
    return {name: array.shape for name, array in batch.arrays.items()}


def index_limit(graph: Graph, tensor: str) -> int | None:
    """Smallest number of entries that `tensor` indexes: rows of an embedding, classes of a one-hot; None if none.

    Casts, reshapes and the like between the tensor and the look-up are followed.
    """
    found: list[int] = []
    seen: set[str] = set()
    stack = [tensor]
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        for use in graph.uses(name):
            node = graph.node(use.node)
            limit = _entries(graph, node, use.slot)
            if limit is not None:
                found.append(limit)
            elif node.op_type in _PASS_THROUGH and use.slot == 0:
                stack.extend(node.output[:1])
    return min(found, default=None)


def _entries(graph: Graph, node: NodeProto, slot: int) -> int | None:
    if node.op_type == "Gather" and slot == 1:
        table = graph.initializers.get(node.input[0])
        axis = int(attribute(node, "axis", 0))
        return int(table.dims[axis]) if table is not None and len(table.dims) >= 2 else None
    if node.op_type == "OneHot" and slot == 0:
        depth = graph.constant(node.input[1])
        return None if depth is None else int(depth.reshape(-1)[0])
    if node.op_type == "Equal":
        # jax writes a one-hot as ids == range(classes).
        classes = _constant_behind(graph, node.input[1 - slot])
        return None if classes is None or classes.dtype.kind not in "iu" or classes.size < 2 else int(classes.max()) + 1
    return None


def _constant_behind(graph: Graph, tensor: str) -> NDArray[Any] | None:
    while (node := graph.producer(tensor)) is not None and node.op_type in _PASS_THROUGH:
        tensor = node.input[0]
    return graph.constant(tensor)


def _runnable(
    graph: Graph,
    specs: InputSpecs,
    limits: Mapping[str, int | None],
    seed: int,
    image_sizes: Sequence[tuple[int, int]],
) -> _Sizes:
    session = make_session(graph.to_model(), base_dir=graph.base_dir)
    steps = 2 if any(_is_cache(spec) for spec in specs.values()) else 1
    tried: set[tuple[Any, ...]] = set()
    failure: DataError | None = None
    for rate, image, length in itertools.product(_SAMPLE_RATES, image_sizes, _LENGTHS):
        guess = _Sizes(image, length, rate, masked=steps * length)
        arrays = _arrays(specs, limits, guess, np.random.default_rng(seed))
        key = tuple((a.shape, a.item() if a.ndim == 0 else None) for a in arrays.values())
        if key in tried:
            continue
        tried.add(key)
        try:
            outputs = session.run(arrays, where="synthetic input")
        except DataError as error:
            failure = failure or error
            continue
        if all(np.isfinite(o).all() for o in outputs if isinstance(o, np.ndarray) and o.dtype.kind == "f"):
            return guess
    why = (
        f"{failure.where}: {failure.message}" if failure else "its outputs are NaN or Inf"
    )  # its hint is of other data
    broken = None if failure else _nan_constant(graph)
    if broken is not None:
        raise DataError(
            f"the model gives NaN for every synthetic input, and its constant {broken!r} holds NaN",
            hint="the training or the export has broken it: export the model again from sound weights.",
        )
    raise DataError(
        f"no synthetic input fits the model ({counted(len(tried), 'shape')} tried): {why}",
        hint="pass real data= (--data).",
    )


def _nan_constant(graph: Graph) -> str | None:
    """The first constant that holds NaN; infinite ones are masks more often than faults."""
    for name, tensor in graph.initializers.items():
        if tensor.data_type in FLOATS:
            values = graph.constant(name)
            if values is not None and np.isnan(values).any():
                return name
    return None


def _arrays(
    specs: InputSpecs, limits: Mapping[str, int | None], sizes: _Sizes, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    arrays = {}
    named: dict[str, int] = {}
    for name, spec in specs.items():
        shape = _shape(spec, sizes, named)
        arrays[name] = np.asarray(_values(spec, shape, limits[name], sizes, rng)).astype(spec.dtype)
    return arrays


def _shape(spec: InputSpec, sizes: _Sizes, named: dict[str, int]) -> tuple[int, ...]:
    """A size for each open dimension; a name that was given a size keeps it."""
    if spec.shape is None:
        raise DataError(
            f"the shape of input {spec.name!r} is unknown, so no input can be made up",
            hint="pass real data= (--data).",
        )
    shape = tuple(_size(spec, axis, dim, sizes, named) for axis, dim in enumerate(spec.shape))
    if math.prod(shape) > _MOST_ELEMENTS:
        raise DataError(
            f"input {spec.name!r} has shape {shape}, too large to be made up", hint="pass real data= (--data)."
        )
    return shape


def _size(spec: InputSpec, axis: int, dim: Dim, sizes: _Sizes, named: dict[str, int]) -> int:
    if isinstance(dim, int):
        return dim
    if dim is not None and dim in named:
        return named[dim]
    rank = len(spec.shape or ())
    space = (1, 2) if spec.layout == "nhwc" else (2, 3)
    if axis == 0 or (dim is not None and "batch" in dim.lower()):
        size = 1
    elif _is_cache(spec):
        size = sizes.length
    elif _masks_cache(spec):
        size = sizes.masked
    elif rank == 4 and axis in space:
        size = sizes.image[space.index(axis)]
    elif rank == 4:
        size = 3
    elif rank == 3 and isinstance((spec.shape or (None,))[0], int):
        size = 1  # a recurrent state: (layers, batch, width)
    else:
        size = sizes.length
    if dim is not None:
        named[dim] = size
    return size


def _is_cache(spec: InputSpec) -> bool:
    """Whether an input is keys or values of earlier tokens, [batch, heads, tokens, width of a head]."""
    shape = spec.shape or ()
    named = "past" in spec.name.lower() or "cache" in spec.name.lower()
    return named and spec.dtype.kind == "f" and len(shape) == 4 and isinstance(shape[3], int)


def _masks_cache(spec: InputSpec) -> bool:
    """Whether an input is a mask of a decoder's own tokens; that of an encoder's counts none of a cache."""
    name = spec.name.lower().replace("decoder", "")
    return "mask" in name and "encoder" not in name and spec.dtype.kind in "iub" and len(spec.shape or ()) == 2


def _values(
    spec: InputSpec, shape: tuple[int, ...], limit: int | None, sizes: _Sizes, rng: np.random.Generator
) -> NDArray[Any]:
    name, kind = spec.name.lower(), spec.dtype.kind
    if kind == "b" or (kind in "iu" and "mask" in name):
        return np.ones(shape)
    if kind == "f":
        return _smooth(shape, rng) if len(shape) == 4 else rng.standard_normal(shape)
    if not shape:
        return np.asarray(sizes.sample_rate if name in ("sr", "sample_rate", "sampling_rate") else 1)
    if "position" in name:
        return np.broadcast_to(np.arange(shape[-1]) % (limit or shape[-1]), shape)
    if spec.dtype == np.uint8 and limit is None:
        return rng.integers(0, 256, shape)
    return rng.integers(0, limit or 2, shape)


def _smooth(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """Noise of unit variance at several scales, as in pictures: white noise alone averages out in the first layers."""
    total = np.zeros(shape)
    for step in (1, 4, 16):
        coarse = rng.standard_normal((*shape[:2], *(-(-n // step) for n in shape[2:])))
        total += coarse.repeat(step, axis=2).repeat(step, axis=3)[..., : shape[2], : shape[3]]
    total /= np.sqrt(3)
    return total
