"""Optimization profiles: the smallest, usual and largest shape that an engine is built for, for each dynamic input.

TensorRT builds an engine for a range of sizes and tunes it for one within
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-dynamic-shapes.html).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from onnxq.errors import ConfigError, DataError
from onnxq.graph.view import Graph

Shape = tuple[int, ...]
ShapeRange = tuple[Shape, Shape, Shape]
"""Smallest, usual and largest shape of an input."""

_BOUNDS = ("min", "opt", "max")


def dynamic_inputs(graph: Graph) -> dict[str, tuple[int | str | None, ...]]:
    """The inputs with a size that is not fixed, and their sizes."""
    shapes = {name: graph.shape(name) or () for name in graph.inputs}
    return {name: dims for name, dims in shapes.items() if not all(isinstance(d, int) for d in dims)}


def shape_ranges(graph: Graph, seen: Sequence[Mapping[str, Shape]]) -> dict[str, ShapeRange]:
    """The optimization profile that covers `seen`: smallest, most frequent and largest size of every dynamic input.

    Args:
        graph: The model.
        seen: The shapes of each batch, by input name.

    Returns:
        An entry for each input with a dimension that is not fixed.

    Raises:
        DataError: an input with dynamic dimensions is in none of the batches.
    """
    dynamic = dynamic_inputs(graph)
    for name, dims in dynamic.items():
        if not any(name in batch for batch in seen):
            raise DataError(
                f"it has dynamic dimensions {tuple(dims)}, and no batch tells which sizes to build for",
                where=f"input {name!r}",
                hint="pass data whose shapes are those the engine will see (data=, --data)",
            )
    # The usual sizes of all inputs come from one batch: sizes of the same name have to agree among them.
    together = Counter(tuple((name, batch[name]) for name in dynamic if name in batch) for batch in seen)
    usual = dict(together.most_common(1)[0][0]) if together else {}
    ranges: dict[str, ShapeRange] = {}
    for name in dynamic:
        shapes = [batch[name] for batch in seen if name in batch]
        low = tuple(min(sizes) for sizes in zip(*shapes, strict=True))
        high = tuple(max(sizes) for sizes in zip(*shapes, strict=True))
        ranges[name] = (low, usual.get(name, high), high)
    return ranges


def completed(graph: Graph, asked: Mapping[str, ShapeRange], found: Mapping[str, ShapeRange]) -> dict[str, ShapeRange]:
    """The profile of all dynamic inputs: as asked where something was, else as found.

    TensorRT takes sizes that share a name for equal, so a size with the name of one asked for follows that.
    """
    dynamic = dynamic_inputs(graph)
    named: dict[str, tuple[int, ...]] = {}
    for name, three in asked.items():
        for dim, sizes in zip(dynamic[name], zip(*three, strict=True), strict=True):
            if isinstance(dim, str):
                named.setdefault(dim, sizes)
    ranges: dict[str, ShapeRange] = {}
    for name, dims in dynamic.items():
        if name in asked:
            ranges[name] = asked[name]
            continue
        columns = [
            named.get(dim, sizes) if isinstance(dim, str) else sizes
            for dim, sizes in zip(dims, zip(*found[name], strict=True), strict=True)
        ]
        low, middle, high = (tuple(column[bound] for column in columns) for bound in range(3))
        ranges[name] = (low, middle, high)
    return ranges


def untold_inputs(graph: Graph, asked: Mapping[str, ShapeRange]) -> tuple[str, ...]:
    """The dynamic inputs with a size that neither is asked for nor shares its name with one that is."""
    dynamic = dynamic_inputs(graph)
    named = {dim for name in asked for dim in dynamic[name] if isinstance(dim, str)}
    return tuple(
        name
        for name, dims in dynamic.items()
        if name not in asked and not all(isinstance(dim, int) or dim in named for dim in dims)
    )


def one_sided(asked: Mapping[str, ShapeRange], *bounds: Mapping[str, Shape]) -> tuple[str, ...]:
    """The inputs that have one size because their smallest or largest shape alone was given.

    Args:
        asked: What `given_ranges` made of the shapes.
        bounds: The smallest, usual and largest shapes, as given.
    """
    smallest, usual, largest = bounds
    return tuple(name for name in asked if name not in usual and (name in smallest) != (name in largest))


def given_ranges(
    graph: Graph,
    smallest: Mapping[str, Shape],
    usual: Mapping[str, Shape],
    largest: Mapping[str, Shape],
) -> dict[str, ShapeRange]:
    """The profile of the inputs that the user gave shapes for; what is left out follows from what is given.

    The usual shape stands for all three where it is alone. Smallest or largest alone stand for the usual one too.

    Args:
        graph: The model.
        smallest: Smallest shape by input name.
        usual: The shape to tune for.
        largest: Largest shape.

    Returns:
        An entry for each dynamic input that was named; naming one of fixed sizes is allowed if the shape is right.

    Raises:
        ConfigError: no such input, a shape does not fit the model, or smallest <= usual <= largest does not hold.
    """
    dynamic, ranges = dynamic_inputs(graph), {}
    for name in dict.fromkeys((*smallest, *usual, *largest)):
        if name not in graph.inputs:
            raise ConfigError(
                f"the model has no input {name!r}; its inputs are {', '.join(map(repr, graph.inputs))}",
                hint="name an input in min_shapes=, opt_shapes= or max_shapes= (--min-shape, --opt-shape, --max-shape)",
            )
        low, high = smallest.get(name), largest.get(name)
        middle = usual.get(name) or high or low or ()
        three = (low or middle, middle, high or middle)
        for bound, given in zip(_BOUNDS, (smallest, usual, largest), strict=True):
            if name in given:
                _check_fit(name, bound, given[name], graph.shape(name) or ())
        if not all(a <= b <= c for a, b, c in zip(*three, strict=True)):
            raise ConfigError(
                f"its shapes are not in order: min {_text(three[0])}, opt {_text(three[1])}, max {_text(three[2])}",
                where=f"input {name!r}",
                hint="every size must rise from min_shapes= (--min-shape) over opt_shapes= to max_shapes=",
            )
        if name in dynamic:
            ranges[name] = three
    return ranges


def _check_fit(name: str, bound: str, shape: Shape, dims: Sequence[int | str | None]) -> None:
    fits = len(shape) == len(dims) and all(not isinstance(d, int) or d == s for d, s in zip(dims, shape, strict=True))
    if not fits:
        wanted = "x".join(str(d) if isinstance(d, int) else "?" for d in dims)
        raise ConfigError(
            f"the shape {_text(shape)} does not fit the model's {wanted}",
            where=f"input {name!r}",
            hint=f"give a shape of that form in {bound}_shapes= (--{bound}-shape {name}:...)",
        )


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
