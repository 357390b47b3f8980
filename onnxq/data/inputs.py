"""What a model expects of each of its inputs, and how an array is made to fit or refused.

Conversions, all of them lossless or the model's own precision; anything else is refused:

    float64 -> float32            numpy's default type
    float64, float32 -> float16   the model computes in float16; values beyond its range are refused
    float16 -> float32, float64; float32 -> float64
    bfloat16 -> float32           the type in which a bfloat16 model is run
    int32 -> int64                and int64 -> int32 where every value fits
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxq.errors import DataError, ModelError
from onnxq.graph.messages import type_name
from onnxq.graph.view import Dim, Graph
from onnxq.wording.plural import counted

Layout = Literal["nchw", "nhwc"]
"""Where the channels of a rank-4 array lie."""

# The types that both numpy and onnxruntime's Python binding can hold.
_FEEDABLE: Mapping[int, type[Any]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
    TensorProto.INT8: np.int8,
    TensorProto.INT16: np.int16,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
    TensorProto.UINT8: np.uint8,
    TensorProto.UINT16: np.uint16,
    TensorProto.UINT32: np.uint32,
    TensorProto.UINT64: np.uint64,
    TensorProto.BOOL: np.bool_,
}

_CONVERSIONS = frozenset(
    (np.dtype(have), np.dtype(want))
    for have, want in (
        (np.float64, np.float32),
        (np.float64, np.float16),
        (np.float32, np.float16),
        (np.float16, np.float32),
        (np.float16, np.float64),
        (np.float32, np.float64),
        (np.int32, np.int64),
        (np.int64, np.int32),
    )
)

_BFLOAT16 = "bfloat16"
"""What numpy's extension ml_dtypes calls its type."""

# Names that exporters write where a size is unknown; two of them do not mean "the same size".
_UNKNOWN = frozenset(("?", "-1", "None", ""))
_CHANNELS = (1, 3, 4)
_PREPARE = "bring it to the model's shape when you prepare the data, as in training"


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: Tensor name.
        dtype: Element type that onnxruntime takes.
        shape: A size, the name of a symbolic size or None for each dimension; None where even the rank is unknown.
        keeps_nonfinite: Whether NaN and Inf are fed, as to a model that knows missing values by them, or refused.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Dim, ...] | None
    keeps_nonfinite: bool = False

    @property
    def fixed_batch(self) -> int | None:
        """Size of the first dimension where the model fixes it."""
        return self.shape[0] if self.shape and isinstance(self.shape[0], int) else None

    @property
    def layout(self) -> Layout:
        """Where the model keeps the channels of a rank-4 input; ONNX's own NCHW unless the sizes speak against it."""
        if self.shape is None or len(self.shape) != 4:
            return "nchw"
        return "nhwc" if self.shape[3] in _CHANNELS and self.shape[1] not in _CHANNELS else "nchw"

    def describe(self) -> str:
        """The shape as a person writes it: (N, 3, 224, 224)."""
        if self.shape is None:
            return "a shape of any rank"
        names = ("N" if i == 0 and d is None else "?" if d is None else str(d) for i, d in enumerate(self.shape))
        return f"({', '.join(names)}{',' if len(self.shape) == 1 else ''})"

    def fits(self, shape: tuple[int, ...], *, first_axis: bool = True) -> bool:
        """Whether an array of this shape can be fed; `first_axis=False` leaves the size of axis 0 open."""
        if self.shape is None:
            return True
        if len(shape) != len(self.shape):
            return False
        start = 0 if first_axis else 1
        return all(not isinstance(d, int) or d == n for d, n in list(zip(self.shape, shape, strict=True))[start:])

    def shape_error(self, shape: tuple[int, ...], where: str, moved: tuple[int, ...] | None = None) -> DataError:
        """The error for an array of a shape that does not fit, with the likeliest way out.

        Args:
            shape: Its shape.
            where: What the array is called.
            moved: What an option of the user's makes of its shape; None where there is none.
        """
        return DataError(
            f"input {self.name!r} has shape {shape}, the model expects {self.describe()}",
            where=where,
            hint=self._shape_hint(shape) if moved is None else self._moved_hint(shape, moved),
        )

    def _moved_hint(self, shape: tuple[int, ...], moved: tuple[int, ...]) -> str:
        if self.fits(shape[-len(moved) :], first_axis=False):
            return "its axes are in the model's order already; leave out layout= (--layout)."
        axes = [axis for axis, size in enumerate(self.shape or ()) if size != moved[axis]]
        return f"layout= (--layout) makes {moved} of it; {self._sizes_hint(axes, moved)}"

    def _shape_hint(self, shape: tuple[int, ...]) -> str | None:
        rank = len(self.shape or ())
        if rank == 4 and len(shape) == 4:
            other: Layout = "nhwc" if self.layout == "nchw" else "nchw"
            if self.fits(transposed_shape(shape, to=self.layout), first_axis=False):
                name = "channels-last" if other == "nhwc" else "channels-first"
                return f"the data looks {name}; pass layout={other!r} (--layout {other})."
        if len(shape) == rank - 1:
            return "add the batch axis: array[None]."
        if len(shape) != rank:
            return f"the model takes {counted(rank, 'axis', 'axes')}; {_PREPARE}."
        return self._sizes_hint([axis for axis, size in enumerate(self.shape or ()) if size != shape[axis]], shape)

    def _sizes_hint(self, axes: list[int], shape: tuple[int, ...]) -> str:
        """The way out where axes have other sizes; those that the model leaves open are not meant."""
        fixed = {axis: size for axis in axes if isinstance(size := (self.shape or ())[axis], int)}
        channels = (1 if self.layout == "nchw" else 3) if len(shape) == 4 else -1
        listed = ", ".join(f"{shape[axis]} in place of {size} on axis {axis}" for axis, size in fixed.items())
        if list(fixed) == [channels] and {shape[channels], fixed[channels]} <= set(_CHANNELS):
            found = f"the data has {counted(shape[channels], 'channel')}, the model takes {fixed[channels]}"
            return f"{found}; {_PREPARE}; a folder of pictures is converted by images= (--images, --mean, --std)."
        if list(fixed) == [0]:
            return "the model fixes its batch; give whole ones."
        return f"it has {listed}; {_PREPARE}; a folder of pictures is resized by images= (--images, --resize)."

    def convert(self, array: NDArray[Any], where: str) -> NDArray[Any]:
        """A fresh C-contiguous copy of `array` in the model's element type.

        Raises:
            DataError: the type cannot be converted, a value does not fit, or NaN or +Inf are refused and there.
        """
        self.check_dtype(array.dtype, where)
        is_float = array.dtype.kind == "f" or array.dtype.name == _BFLOAT16
        # -Inf alone passes: masks of attention hold it. Where it reaches a tensor that is quantized, calibration stops.
        if is_float and not self.keeps_nonfinite and not (array < np.inf).all():
            kind = "NaN" if np.isnan(array).any() else "Inf"
            raise DataError(
                f"input {self.name!r} holds {kind}",
                where=where,
                hint="remove this sample, or repair the preprocessing that made it. To calibrate a model that knows "
                "missing values by it: nonfinite='ignore' (--nonfinite ignore)",
            )
        with np.errstate(over="ignore"):
            fresh: NDArray[Any] = np.array(array, dtype=self.dtype, order="C", copy=True)
        if array.dtype != self.dtype and not self._kept(array, fresh):
            raise DataError(
                f"input {self.name!r} holds values that {self.dtype} cannot hold "
                f"(from {array.min()} to {array.max()} as {array.dtype})",
                where=where,
            )
        return fresh

    def _kept(self, before: NDArray[Any], after: NDArray[Any]) -> bool:
        if before.dtype.kind == "f":
            return bool((np.isfinite(after) | ~np.isfinite(before)).all())
        return bool((before == after).all())

    def check_dtype(self, dtype: np.dtype[Any], where: str) -> None:
        """Refuse an element type that is neither the model's own nor safely converted to it.

        Raises:
            DataError: the type does not fit; the hint names the likely cause.
        """
        if dtype == self.dtype or (dtype, self.dtype) in _CONVERSIONS:
            return
        if dtype.name == _BFLOAT16 and self.dtype == np.float32:
            return
        hint = None
        if dtype == np.uint8 and self.dtype.kind == "f":
            hint = (
                "these look like raw pixels; scale them as in training, x = (pixel / 255 - mean) / std, "
                "or give the folder of images and pass images='imagenet' (--images imagenet)."
            )
        elif dtype.kind == "V" and self.dtype.kind == "f":
            hint = "numpy's files do not say what bfloat16 is; save array.astype('float32')."
        elif dtype.kind in "US":
            hint = "give texts as .jsonl, .csv or .txt with tokenizer= (--tokenizer) or preprocess= (--preprocess)."
        elif dtype.kind in "iufb" and self.dtype.kind in "iufb":
            hint = f"convert it when you prepare the data: array.astype({self.dtype.name!r})."
        raise DataError(f"input {self.name!r} is {dtype}, the model expects {self.dtype}", where=where, hint=hint)


class InputSpecs(Mapping[str, InputSpec]):
    """All inputs of a model by name, in the model's order."""

    def __init__(self, specs: Iterable[InputSpec], loops: Mapping[str, str] | None = None) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._loops = dict(loops or {})

    @classmethod
    def from_graph(cls, graph: Graph, *, keeps_nonfinite: bool = False) -> InputSpecs:
        """Read the inputs of `graph`; initializers that are listed as inputs too are constants, not inputs.

        Args:
            graph: The model.
            keeps_nonfinite: Whether NaN and Inf in the data are fed.

        Raises:
            ModelError: the model has no inputs, or one that cannot be fed from numpy (string, bfloat16, sequence).
        """
        if not graph.inputs:
            raise ModelError("the model has no inputs, so there is nothing to calibrate with")
        specs = [replace(_spec(graph, name), keeps_nonfinite=keeps_nonfinite) for name in graph.inputs]
        return cls(specs, _loops(graph, specs))

    def __getitem__(self, name: str) -> InputSpec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def check_names(self, names: Iterable[str], where: str) -> None:
        """Refuse data that lacks an input or brings one that the model does not have.

        Raises:
            DataError: naming the inputs, with the closest name as a hint.
        """
        given = list(names)
        missing = [name for name in self if name not in given]
        extra = [name for name in given if name not in self]
        if not missing and not extra:
            return
        parts = []
        if missing:
            parts.append(f"no array for input {', '.join(map(repr, missing))}")
        if extra:
            are = "is not an input" if len(extra) == 1 else "are not inputs"
            parts.append(f"{', '.join(map(repr, extra))} {are} of the model")
        raise DataError("; ".join(parts), where=where, hint=self._name_hint(missing, extra))

    def _name_hint(self, missing: list[str], extra: list[str]) -> str:
        loops = {self._loops[name]: name for name in missing if name in self._loops}
        if loops and len(loops) == len(missing) < len(self):
            flags = " ".join(f"--state {output}={name}" for output, name in loops.items())
            return f"where outputs are inputs of the next step, pass onnxq.Data(..., state={loops}) ({flags})."
        wanted = missing or list(self)
        for name in extra:
            close = difflib.get_close_matches(name, wanted, n=1)
            if close:
                return f"did you mean {close[0]!r} instead of {name!r}?"
        return f"the model's inputs are {', '.join(map(repr, self))}."


def _loops(graph: Graph, specs: Iterable[InputSpec]) -> dict[str, str]:
    """Outputs that could be the next step's input, by that input: of the same type and shape, and no other's."""
    found: dict[str, str] = {}
    for spec in specs:
        for output in graph.outputs:
            ours, theirs = spec.shape or (), graph.shape(output) or ()
            sizes = [(a, b) for a, b in zip(ours, theirs, strict=False) if isinstance(a, int) and isinstance(b, int)]
            alike = len(ours) == len(theirs) > 1 and sizes and all(a == b for a, b in sizes)
            if alike and graph.dtype(output) == graph.dtype(spec.name) and output not in found.values():
                found[spec.name] = output
                break
    return found


def transposed_shape(shape: tuple[int, ...], *, to: Layout) -> tuple[int, ...]:
    """The shape of a rank-4 array after its channels moved to where `to` keeps them."""
    n, a, b, c = shape
    return (n, c, a, b) if to == "nchw" else (n, b, c, a)


def transposed(array: NDArray[Any], *, to: Layout) -> NDArray[Any]:
    """A view of a rank-4 array with its channels moved to where `to` keeps them."""
    moved: NDArray[Any] = array.transpose((0, 3, 1, 2) if to == "nchw" else (0, 2, 3, 1))
    return moved


def _spec(graph: Graph, name: str) -> InputSpec:
    elem_type = graph.dtype(name)
    if elem_type is None or elem_type not in _FEEDABLE:
        kind = "not a tensor" if elem_type is None else f"of type {type_name(elem_type)}"
        raise ModelError(f"it is {kind}, which cannot be fed from numpy arrays", where=f"input {name!r}")
    shape = graph.shape(name)
    dims = None if shape is None else tuple(_known(d) for d in shape)
    return InputSpec(name=name, dtype=np.dtype(_FEEDABLE[elem_type]), shape=dims)


def _known(dim: Dim) -> Dim:
    if isinstance(dim, int):
        return dim if dim > 0 else None
    return None if dim is None or dim in _UNKNOWN else dim
