"""Models that carry a state: an output of one step is an input of the next.

    x_1, s_0 -> y_1, s_1      x_2, s_1 -> y_2, s_2      ...      state={"s_out": "s_in"}

The data holds x alone, step by step. Here the float model computes the states that belong to it, so that what reaches
calibration and comparison is complete feeds like all others: they can be split into shards, counted and merged, and the
float and the quantized model see the same ones. It costs a second run of the part of the model that leads to states.

A sequence starts with the state that the data brings under the input's name, or with zeros. Its sizes are those that
dimensions of the same name have in the step, then the number of samples for the first dimension that is open, and 0 for
further ones: caches of decoders are empty at first. A step counts as one sample.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.data.batches import Item
from onnxq.data.cutting import Column, Piece
from onnxq.data.inputs import InputSpec, InputSpecs
from onnxq.errors import ConfigError
from onnxq.graph.view import Dim, Graph
from onnxq.inference.outputs import with_outputs
from onnxq.inference.session import Session, make_session


class Recurrence:
    """Gives each step of a sequence the state that the float model left behind.

    Args:
        graph: The float model.
        state: The input that takes each output's value in the next step, by the output's name.

    Raises:
        ConfigError: there is no such output or input, or their types differ.
    """

    def __init__(self, graph: Graph, state: Mapping[str, str]) -> None:
        self._every = InputSpecs.from_graph(graph)
        for output, name in state.items():
            _check(graph, self._every, output, name)
        if len(set(state.values())) < len(state):
            raise ConfigError("two outputs lead to one input", hint="state= (--state) names each input once.")
        self._state = dict(state)
        self._graph = graph
        self._session: list[tuple[Session, frozenset[str]]] = []
        self._now: dict[str, NDArray[Any]] = {}
        self._brought: dict[str, NDArray[Any]] = {}

    @property
    def inputs(self) -> InputSpecs:
        """The inputs that the data has to bring."""
        return InputSpecs(spec for name, spec in self._every.items() if name not in self._state.values())

    def starting(self) -> Recurrence:
        """The same for another reading of the data."""
        twin = copy.copy(self)
        twin._now, twin._brought = {}, {}
        return twin

    def columns(self, item: Item) -> Mapping[str, Column]:
        """The item without states; where it brings some, or starts a sequence, the sequence so far ends."""
        names = set(self._state.values())
        brought = {name: column.take(None) for name, column in item.columns.items() if name in names}
        if brought or item.starts:
            self._now, self._brought = {}, brought
        return {name: column for name, column in item.columns.items() if name not in names}

    def complete(self, piece: Piece, where: str) -> Piece:
        """The piece with the states of the step before, and one run of the model for those of the next.

        Raises:
            DataError: a state that the data brings does not fit, or the model fails.
        """
        arrays = dict(piece.arrays)
        for name in self._state.values():
            spec = self._every[name]
            if name in self._now:
                arrays[name] = self._now[name]
            elif name in self._brought:
                given = self._brought[name]
                if not spec.fits(given.shape):
                    raise spec.shape_error(given.shape, where)
                arrays[name] = spec.convert(given, where)
            else:
                arrays[name] = np.zeros(self._first_shape(spec, piece), spec.dtype)
        session, needed = self._loaded()
        values = session.run({name: array for name, array in arrays.items() if name in needed}, where=where)
        following = dict(zip(session.output_names, values, strict=True))
        self._now = {name: np.array(following[output]) for output, name in self._state.items()}
        if piece.samples == 1:
            return replace(piece, arrays=arrays)
        return Piece(arrays=arrays, samples=1, per_sample=frozenset())

    def _loaded(self) -> tuple[Session, frozenset[str]]:
        """The part of the model that leads to the states, loaded once for all readings, and the inputs it reads."""
        if not self._session:
            cut = with_outputs(self._graph, list(self._state))
            made = make_session(cut.to_model(), base_dir=self._graph.base_dir, stop_spinning=True)
            self._session.append((made, frozenset(cut.inputs)))
        return self._session[0]

    def _first_shape(self, spec: InputSpec, piece: Piece) -> tuple[int, ...]:
        known: dict[Dim, int] = {}
        count = 1
        for name, array in piece.arrays.items():
            dims = self._every[name].shape or ()
            known.update({d: n for d, n in zip(dims, array.shape, strict=False) if isinstance(d, str)})
            count = max(count, len(array) if dims and not isinstance(dims[0], int) else 1)
        shape: list[int] = []
        for dim in spec.shape or ():
            if isinstance(dim, int):
                shape.append(dim)
            elif dim in known:
                shape.append(known[dim])
            else:
                shape.append(count)
                count = 0
        return tuple(shape)


def _check(graph: Graph, inputs: InputSpecs, output: str, name: str) -> None:
    if output in inputs and output not in graph.outputs and name in graph.outputs:
        raise ConfigError(
            f"{output!r} is an input and {name!r} an output; outputs come first",
            where="state",
            hint=f"pass state={{{name!r}: {output!r}}} (--state {name}={output}).",
        )
    for kind, given, names in (("output", output, list(graph.outputs)), ("input", name, list(inputs))):
        if given not in names:
            close = difflib.get_close_matches(given, names, n=1)
            raise ConfigError(
                f"the model has no {kind} {given!r}",
                where="state",
                hint=f"did you mean {close[0]!r}?"
                if close
                else f"its {kind}s are {', '.join(map(repr, names))}; state={{output: input}} (--state OUTPUT=INPUT).",
            )
    made = graph.dtype(output)
    if made is not None and made != graph.dtype(name):
        raise ConfigError(f"output {output!r} and input {name!r} are of different types", where="state")
