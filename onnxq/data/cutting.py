"""Cuts arrays whose first axis counts samples into the pieces that a model takes in one run.

How each input takes part, from the rank and first size that the model gives it:

    dynamic   same rank, first size open         taken `size` samples at a time, or whole
    fixed     same rank, first size k            taken k at a time; a remainder is left out, and noted
    stacked   one rank more than the model's     one element of the first axis for each run
    constant  a scalar, or a fixed input that    the same value in every run
              comes once while others come in many pieces
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxq.data.inputs import InputSpec, InputSpecs, Layout, transposed, transposed_shape
from onnxq.errors import DataError
from onnxq.graph.view import Dim
from onnxq.wording.plural import counted

_MOST_PLANS = 256


class Column(Protocol):
    """One input's data, read front to back."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def take(self, count: int | None) -> NDArray[Any]:
        """The next `count` elements of the first axis; None takes all that is left."""


class ArrayColumn:
    """A column over an array in memory."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self._next = 0
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype

    def take(self, count: int | None) -> NDArray[Any]:
        if count is None:
            return self._array
        start, self._next = self._next, self._next + count
        return self._array[start : self._next]


@dataclass(frozen=True)
class Piece:
    """What one run of the model takes.

    Attributes:
        arrays: One array for each input, of the model's shape and type.
        samples: Samples in it.
        per_sample: Inputs whose first axis counts those samples.
    """

    arrays: Mapping[str, NDArray[Any]]
    samples: int
    per_sample: frozenset[str]


class _Part(enum.Enum):
    DYNAMIC = enum.auto()
    FIXED = enum.auto()
    STACKED = enum.auto()
    CONSTANT = enum.auto()


@dataclass(frozen=True)
class _Plan:
    """Which part each input plays, how many samples there are, and how many of them one run takes."""

    parts: Mapping[str, _Part]
    total: int
    step: int
    whole_steps: bool

    @functools.cached_property
    def per_sample(self) -> frozenset[str]:
        """Inputs whose first axis counts the samples of a run."""
        return frozenset(n for n, part in self.parts.items() if part in (_Part.DYNAMIC, _Part.FIXED))

    def counts(self) -> Iterator[int]:
        """Number of samples in each run."""
        for start in range(0, self.total, self.step):
            count = min(self.step, self.total - start)
            if count == self.step or not self.whole_steps:
                yield count


@dataclass(frozen=True, kw_only=True)
class Cutter:
    """Cuts columns into pieces that a model accepts, checked and converted.

    Attributes:
        inputs: What the model expects.
        layout: Where rank-4 data keeps its channels, if not where the model does.
        note: Takes facts that the user should read.
        plans: How data of a form was cut before: items of a source are mostly alike.
    """

    inputs: InputSpecs
    layout: Layout | None
    note: Callable[[str], None]
    plans: dict[Any, _Plan] = field(default_factory=dict, compare=False, repr=False)

    def pieces(
        self, columns: Mapping[str, Column], *, size: int | None, stacked: bool, where: Callable[[], str]
    ) -> Iterator[Piece]:
        """Yield the pieces of one item of the data.

        Args:
            columns: Data by input name.
            size: Samples in a run where the model leaves that open; None takes all at once.
            stacked: Whether the first axis may come on top of the model's own axes.
            where: Names the coming piece in errors.

        Raises:
            DataError: a name, shape, type or value does not fit the model.
        """
        form = (size, stacked, *((name, column.shape, column.dtype) for name, column in columns.items()))
        plan = self.plans.get(form)
        if plan is None:
            plan = self._checked_plan(columns, size, stacked, where())
            if len(self.plans) == _MOST_PLANS:
                self.plans.clear()
            self.plans[form] = plan
        once = {n: columns[n].take(None) for n, part in plan.parts.items() if part is _Part.CONSTANT}
        for count in plan.counts():
            arrays: dict[str, NDArray[Any]] = {}
            for name, spec in self.inputs.items():
                raw = once[name] if name in once else columns[name].take(count)
                raw = raw[0] if plan.parts[name] is _Part.STACKED else raw
                arrays[name] = spec.convert(
                    transposed(raw, to=spec.layout) if self._moves(spec, raw.ndim) else raw, where()
                )
            yield Piece(arrays, count, plan.per_sample)

    def _checked_plan(self, columns: Mapping[str, Column], size: int | None, stacked: bool, where: str) -> _Plan:
        self.inputs.check_names(columns, where)
        for name, spec in self.inputs.items():
            spec.check_dtype(columns[name].dtype, where)
        return self._plan({name: columns[name].shape for name in self.inputs}, size, stacked, where)

    def _moves(self, spec: InputSpec, rank: int) -> bool:
        return self.layout not in (None, spec.layout) and rank == 4 and (spec.shape is None or len(spec.shape) == 4)

    def _part(self, spec: InputSpec, shape: tuple[int, ...], stacked: bool, where: str) -> _Part:
        """The part of an input with data of this shape; a shape that cannot be fed is refused."""
        if stacked and spec.shape is not None and len(shape) == len(spec.shape) + 1:
            part, own = _Part.STACKED, shape[1:]
        elif not shape:
            part, own = _Part.CONSTANT, shape
        else:
            part, own = (_Part.DYNAMIC if spec.fixed_batch is None else _Part.FIXED), shape
        moved = transposed_shape(own, to=spec.layout) if self._moves(spec, len(own)) else own
        too_few = part is _Part.FIXED and shape[0] < (spec.fixed_batch or 0)
        if too_few or not spec.fits(moved, first_axis=part is _Part.STACKED):
            raise spec.shape_error(shape, where, None if moved == own else moved)
        return part

    def _plan(self, shapes: Mapping[str, tuple[int, ...]], size: int | None, stacked: bool, where: str) -> _Plan:
        inputs = self.inputs
        parts = {name: self._part(inputs[name], shape, stacked, where) for name, shape in shapes.items()}
        if size is None and any(math.prod(shape) for shape in shapes.values()):
            # Beside others, an operand without elements (no axes, no regions) counts no samples.
            parts |= {name: _Part.CONSTANT for name, shape in shapes.items() if shape and shape[0] == 0}
        fixed = {n: inputs[n].fixed_batch or 1 for n, p in parts.items() if p is _Part.FIXED}
        many = {n: k for n, k in fixed.items() if shapes[n][0] != k}
        many |= {n: 1 for n, p in parts.items() if p is _Part.STACKED}
        lengths = {n: shapes[n][0] for n, p in parts.items() if n in many or p is _Part.DYNAMIC}
        if not lengths:  # every input comes exactly once
            same = len(set(fixed.values())) == 1
            step = next(iter(fixed.values())) if same else 1
            once = parts if same else dict.fromkeys(parts, _Part.CONSTANT)
            return _Plan(once, step, step, whole_steps=True)
        total = next(iter(lengths.values()))
        if size is None and not many and len(set(lengths.values())) > 1 and self._are_named_apart(lengths):
            return _Plan(dict.fromkeys(parts, _Part.CONSTANT), 1, 1, whole_steps=True)
        if len(set(lengths.values())) > 1 or len(set(many.values())) > 1:
            listed = ", ".join(f"{n!r} has {length}" for n, length in lengths.items())
            raise DataError(f"the inputs disagree on the number of samples: {listed}", where=where)
        step = next(iter(many.values())) if many else (size or max(total, 1))
        self._note_cut(many, [n for n in fixed if n not in many], total, step)
        parts |= {n: _Part.CONSTANT for n in fixed if n not in many}
        return _Plan(parts, total, step, whole_steps=bool(many))

    def _are_named_apart(self, lengths: Mapping[str, int]) -> bool:
        """Whether first sizes differ where the model calls them by different names: then they do not count samples."""
        by_name: dict[Dim, set[int]] = {}
        for name, length in lengths.items():
            by_name.setdefault((self.inputs[name].shape or (None,))[0], set()).add(length)
        return None not in by_name and len(by_name) > 1 and all(len(found) == 1 for found in by_name.values())

    def _note_cut(self, many: Mapping[str, int], once: list[str], total: int, step: int) -> None:
        if many and total % step:
            self.note(f"{total % step} of {counted(total, 'sample')} left out: the model's batch is fixed at {step}")
        if once and total > step:
            self.note(f"input {', '.join(map(repr, once))} came once and was used with every sample")
