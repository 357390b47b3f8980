"""What iterables and hooks yield, brought to `{input name: array}`.

{name: array}               names that are no inputs are left out, and noted, where nothing is missing: columns of a
                            Hugging Face data set that are not for the model
(array, array, ...)         in the order of the model's inputs; what is left over (labels of a torch DataLoader) is left
                            out, and noted. ({name: array}, label) likewise
array                       the only input
[{name: array}, ...]        several feeds, the steps of one sequence

Anything with a shape that numpy reads is an array: torch tensors, jax arrays, lists of numbers in a dict. Where every
array lacks just the batch axis, as in the rows of a data set, it is put there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxq.data.batches import Item
from onnxq.data.cutting import ArrayColumn
from onnxq.data.description import Hook
from onnxq.data.inputs import InputSpecs
from onnxq.data.shuffling import shuffled_order
from onnxq.errors import ConfigError, DataError, OnnxqError
from onnxq.wording.plural import counted

Feed = dict[str, NDArray[Any]]
Note = Callable[[str], None]


class Feeder:
    """Makes feeds of whatever comes.

    Args:
        inputs: What the model expects.
        optional: Inputs that a feed need not bring: states.
        note: Takes facts that a person should read.
    """

    def __init__(self, inputs: InputSpecs, optional: Collection[str], note: Note, *, hooked: bool = False) -> None:
        self._inputs = inputs
        self._hooked = hooked
        self._needed = [name for name in inputs if name not in optional]
        self._note = note

    def steps(self, item: Any, what: str) -> Iterator[tuple[Feed, bool]]:
        """The feeds of one item, each with whether it starts a sequence, which only the first of several does.

        Args:
            item: See the module's table; a generator gives the steps of a sequence as a list does.
            what: What it is called in errors.

        Raises:
            DataError: it is of no known kind.
        """
        if isinstance(item, Iterator) or is_sequence(item):
            for number, part in enumerate(item):
                yield self._feed(part, what), number == 0
        else:
            yield self._feed(item, what), True

    def _feed(self, item: Any, what: str) -> Feed:
        if isinstance(item, (list, tuple)) and item and isinstance(item[0], Mapping):
            self._note("items of the data are tuples: their first part was fed, the rest (labels?) was left out")
            item = item[0]
        if isinstance(item, Mapping):
            return self._with_batch_axis(self._named(item))
        if isinstance(item, (list, tuple)) and item and _is_array(item[0]):
            return self._with_batch_axis(self._by_position(item, what))
        if len(self._needed) == 1 and (_is_array(item) or isinstance(item, list)):
            return self._with_batch_axis({self._needed[0]: as_array(item)})
        if self._hooked:
            raise DataError(
                f"preprocess returned {'nothing' if item is None else f'a value of type {type(item).__name__}'}",
                where=what,
                hint="the function in preprocess= (--preprocess) returns an array, {input name: array}, or a list of "
                "those: the steps of a sequence.",
            )
        raise DataError(
            f"{what} is of type {type(item).__name__}", hint="yield a dict {input name: array} for each batch."
        )

    def _named(self, item: Mapping[Any, Any]) -> Feed:
        names = [str(name) for name in item]
        extra = [name for name in names if name not in self._inputs]
        if extra and not [name for name in self._needed if name not in names]:
            for name in extra:
                self._note(f"{name!r} was left out: it is not an input of the model")
        else:
            extra = []
        return {str(name): as_array(value) for name, value in item.items() if str(name) not in extra}

    def _by_position(self, item: Sequence[Any], what: str) -> Feed:
        if len(item) < len(self._needed):
            raise DataError(
                f"{what} holds {counted(len(item), 'array')}, the model has {counted(len(self._needed), 'input')}",
                hint=f"yield a dict with {', '.join(map(repr, self._needed))}.",
            )
        if len(item) > len(self._needed):
            self._note(
                f"items of the data hold {counted(len(item), 'value')}: {', '.join(map(repr, self._needed))} took "
                "the first, the rest (labels?) was left out"
            )
        return {name: as_array(value) for name, value in zip(self._needed, item, strict=False)}

    def _with_batch_axis(self, feed: Feed) -> Feed:
        ranks = {name: len(s.shape) for name, s in self._inputs.items() if s.shape is not None and s.shape}
        if not any(name in ranks for name in feed):
            return feed
        if any(array.ndim != ranks[name] - 1 for name, array in feed.items() if name in ranks):
            return feed
        self._note("items of the data have no batch axis: each was taken for one sample")
        return {name: array[None] if name in ranks else array for name, array in feed.items()}


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def as_array(value: Any) -> NDArray[Any]:
    """`value` for numpy; a tensor of torch is taken off its device and its graph.

    Raises:
        DataError: it is no array of numbers.
    """
    if callable(detach := getattr(value, "detach", None)):
        value = detach().cpu().numpy()
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"a value is no array: {error}", hint="pad the rows of a batch to one length.") from error
    # An array of strings goes on, to be refused by the name of its input.
    if array.dtype.hasobject or (array.dtype.kind in "US" and not isinstance(value, np.ndarray)):
        raise DataError(
            f"a value of type {type(value).__name__} is no array of numbers", hint="yield {input name: array}."
        )
    return array


class FeedsSource:
    """An iterable, a function that returns one, or onnxruntime's CalibrationDataReader; see the module's table."""

    samples: int | None = None

    def __init__(
        self,
        feeds: Any,
        inputs: InputSpecs,
        *,
        origin: str | None = None,
        hook: Hook | None = None,
        optional: Collection[str] = (),
    ) -> None:
        self._feeds = feeds
        self._inputs = inputs
        self._origin = origin
        self._hook = hook
        self._optional = optional
        self._order: NDArray[np.int64] | None = None
        self._reads = 0
        reader = hasattr(feeds, "get_next")
        self._rewind: Callable[[], object] | None = getattr(feeds, "rewind", None) if reader else None
        one_shot_iterator = not callable(feeds) and iter(feeds) is feeds if not reader else self._rewind is None
        self.one_shot = one_shot_iterator

    def shuffled(self, seed: int) -> FeedsSource:
        """With its items in a random order.

        Raises:
            ConfigError: the items cannot be asked for by number.
        """
        if not hasattr(self._feeds, "__getitem__") or not hasattr(self._feeds, "__len__"):
            raise ConfigError(
                f"data of type {type(self._feeds).__name__} cannot be shuffled: it is read from its start",
                hint="leave out shuffle= (--shuffle) and shuffle where the data is made, with a fixed seed; a list or "
                "a data set with len() and [i] can be shuffled",
            )
        self._order = shuffled_order(seed, len(self._feeds))
        return self

    def items(self, note: Note) -> Iterator[Item]:
        feeder = Feeder(self._inputs, self._optional, note, hooked=self._hook is not None)
        for number, given in enumerate(self._iterate(), start=1):
            what = f"item {number} of the data"
            item = given if self._hook is None else hooked(self._hook, given, what)
            # Plain feeds follow each other as the steps of one sequence, lists are sequences of their own.
            alone = not (isinstance(item, Iterator) or is_sequence(item))
            for feed, first in feeder.steps(item, what):
                columns = {name: ArrayColumn(array) for name, array in feed.items()}
                starts = number == 1 if alone else first
                yield Item(columns, size=None, stacked=False, origin=self._origin, starts=starts)

    def _iterate(self) -> Iterator[Any]:
        self._reads += 1
        if self._order is not None:
            return (self._feeds[int(i)] for i in self._order)
        if hasattr(self._feeds, "get_next"):
            if self._reads > 1 and self._rewind is not None:
                self._rewind()
            return iter(self._feeds.get_next, None)
        return iter(self._feeds() if callable(self._feeds) else self._feeds)


class HookedSource:
    """Samples that a function of the user turns into model input: files or rows of files, one after the other.

    Args:
        samples: Reads what the function gets, with what each is called.
        hook: The function.
        inputs: What the model expects.
        size: Samples in a run, where the model leaves it open.
        optional: Inputs that the function need not bring: states.
    """

    one_shot = False

    def __init__(
        self,
        samples: Callable[[], Iterable[tuple[Any, str]]],
        hook: Hook,
        inputs: InputSpecs,
        *,
        size: int,
        optional: Collection[str] = (),
    ) -> None:
        self._samples = samples
        self._hook = hook
        self._inputs = inputs
        self._size = size
        self._optional = optional
        self.samples: int | None = None

    def items(self, note: Note) -> Iterator[Item]:
        feeder = Feeder(self._inputs, self._optional, note, hooked=True)
        group: list[Feed] = []
        for sample, origin in self._samples():
            for feed, first in feeder.steps(hooked(self._hook, sample, origin), origin):
                if self._optional or self._size == 1:
                    yield self._item(feed, origin, starts=first)
                elif len(group) == self._size or (group and not _joinable(group[0], feed)):
                    yield self._item(_joined(group), origin)
                    group = [feed]
                else:
                    group.append(feed)
        if group:
            yield self._item(_joined(group), origin)

    def _item(self, feed: Feed, origin: str, *, starts: bool = True) -> Item:
        columns = {name: ArrayColumn(array) for name, array in feed.items()}
        return Item(columns, size=self._size, stacked=True, origin=origin, starts=starts)


def _joinable(one: Feed, other: Feed) -> bool:
    return one.keys() == other.keys() and all(a.shape[1:] == other[n].shape[1:] and a.ndim for n, a in one.items())


def _joined(feeds: list[Feed]) -> Feed:
    if len(feeds) == 1 or not _joinable(feeds[0], feeds[-1]):
        return feeds[0]
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def hooked(hook: Hook, sample: Any, where: str) -> Any:
    """What a function of the user makes of a sample; a generator's errors are told apart from onnxq's, too.

    Raises:
        DataError: the function failed.
    """
    try:
        result = hook(sample)
    except OnnxqError:
        raise
    except Exception as error:
        raise _hook_error(error, where) from error
    return _guarded(result, where) if isinstance(result, Iterator) else result


def _guarded(steps: Iterator[Any], where: str) -> Iterator[Any]:
    while True:
        try:
            step = next(steps)
        except StopIteration:
            return
        except Exception as error:
            raise _hook_error(error, where) from error
        yield step


def _hook_error(error: Exception, where: str) -> DataError:
    return DataError(
        f"preprocess failed: {type(error).__name__}: {error}",
        where=where,
        hint="preprocess= (--preprocess) gets one sample at a time; see the traceback with --debug.",
    )


def is_sequence(item: Any) -> bool:
    """Whether an item is a list of feeds."""
    return isinstance(item, (list, tuple)) and bool(item) and all(isinstance(part, Mapping) for part in item)
