"""Files that are no arrays: images and sounds behind a hook, rows of texts, whatever else a hook reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from onnxq.data.batches import Item, Source
from onnxq.data.cutting import ArrayColumn
from onnxq.data.description import Data, Hook
from onnxq.data.feeds import HookedSource
from onnxq.data.images import IMAGE_SUFFIXES, open_image
from onnxq.data.inputs import InputSpecs
from onnxq.data.shuffling import shuffled_order
from onnxq.data.sounds import WAV_SUFFIXES, read_wav
from onnxq.data.texts import TEXT_SUFFIXES, Row, Tokenizing, read_rows
from onnxq.errors import ConfigError, DataError
from onnxq.wording.plural import counted

FOLDER_SUFFIXES = (*TEXT_SUFFIXES, *WAV_SUFFIXES)
"""What is looked for in a folder besides arrays and images; with a hook, every file is taken."""


def check_there(path: Path) -> None:
    """See that there is a file or folder.

    Raises:
        DataError: there is none, or something else, or the text is no path.
    """
    problem = ""
    try:
        if not path.exists():
            problem = "no such file or folder"
        elif not path.is_file() and not path.is_dir():
            problem = "this is neither a file nor a folder"
    except (OSError, ValueError) as error:  # a name that is too long, a null character
        problem = f"this is no path: {getattr(error, 'strerror', None) or error}"
    if problem:
        raise DataError(problem, where=str(path), hint="check the path in data= (--data).")


def files_source(  # noqa: PLR0913 - the parts of one decision
    paths: Sequence[Path],
    *,
    said: Data,
    hook: Hook | None,
    inputs: InputSpecs,
    batch_size: int | None,
    optional: Collection[str],
    where: str,
) -> Source:
    """The source for files of one kind.

    Args:
        paths: The files, at least one.
        said: What was said of the data.
        hook: Makes model input of each.
        inputs: What the model expects.
        batch_size: Samples in a run, where the model leaves it open.
        optional: Inputs that need not be brought: states.
        where: What the data is called in errors.

    Raises:
        ConfigError: the options contradict each other.
        DataError: the files are of several kinds, or need a hook or tokenizer that is not given.
    """
    kinds = {_kind(path) for path in paths}
    if len(kinds) > 1:
        raise DataError(
            f"the files are of several kinds: {', '.join(sorted(kinds))}",
            where=where,
            hint="pass a folder that holds one kind of data.",
        )
    (kind,) = kinds
    texts = kind == "texts"
    if hook is not None and said.tokenizer is not None:
        raise ConfigError(
            "both a tokenizer and a hook are given",
            hint="call the tokenizer in preprocess= (--preprocess), or leave tokenizer= (--tokenizer) out.",
        )
    size = max((spec.fixed_batch or 0 for spec in inputs.values()), default=0) or batch_size or 1
    if texts and said.tokenizer is not None:
        tokenizing = Tokenizing(said.tokenizer, said.text_column, said.max_length, inputs)
        return TextSource(Rows(paths, said.shuffle), tokenizing, size)
    if hook is None:
        needed = "tokenizer='tokenizer.json' (--tokenizer), or preprocess= (--preprocess)"
        raise DataError(
            f"{kind} do not say how they become model input",
            where=where,
            hint=f"pass {needed if texts else 'preprocess= (--preprocess FILE.py:FUNCTION), a function of a file'}.",
        )
    if texts:
        rows = Rows(paths, said.shuffle)
        return _Hooked(rows.numbered, hook, inputs, size=size, optional=optional)
    order = paths if said.shuffle is None else [paths[i] for i in shuffled_order(said.shuffle, len(paths))]
    return _Hooked(lambda: ((_opened(p, kind), p.name) for p in order), hook, inputs, size=size, optional=optional)


class _Hooked(HookedSource):
    def shuffled(self, seed: int) -> HookedSource:
        """Itself: its files came in the order that was asked for."""
        return self


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in TEXT_SUFFIXES:
        return "texts"
    if suffix in WAV_SUFFIXES:
        return "sounds"
    return "images" if suffix in IMAGE_SUFFIXES else "files"


def _opened(path: Path, kind: str) -> Any:
    if kind == "sounds":
        return read_wav(path)
    return open_image(path) if kind == "images" else path


class Rows:
    """The rows of files of texts, in their order or in a random one, for which they are held in memory."""

    def __init__(self, paths: Sequence[Path], shuffle: int | None) -> None:
        self._paths = paths
        self._shuffle = shuffle

    def __iter__(self) -> Iterator[Row]:
        rows = chain.from_iterable(read_rows(path) for path in self._paths)
        if self._shuffle is None:
            return rows
        listed = list(rows)
        return (listed[i] for i in shuffled_order(self._shuffle, len(listed)))

    def numbered(self) -> Iterator[tuple[Row, str]]:
        """Each row with what it is called in errors."""
        return ((row, f"{self._paths[0].name}, row {number}") for number, row in enumerate(self, start=1))


class TextSource:
    """Rows of text through a tokenizer."""

    one_shot = False
    is_text = True

    def __init__(self, rows: Rows, tokenizing: Tokenizing, size: int) -> None:
        self._rows = rows
        self._tokenizing = tokenizing
        self._size = size
        self.samples: int | None = None

    def shuffled(self, seed: int) -> TextSource:
        """Itself: its rows came in the order that was asked for."""
        return self

    def items(self, note: Callable[[str], None]) -> Iterator[Item]:
        rows, done = iter(self._rows), 0
        while group := list(islice(rows, self._size)):
            feed = self._tokenizing.feed(group, f"row {done + 1}")
            done += len(group)
            columns = {name: ArrayColumn(array) for name, array in feed.items()}
            yield Item(columns, size=None, stacked=False, origin=f"row {done}")
        if self._tokenizing.cut:
            most, cut = self._tokenizing.most, self._tokenizing.cut
            texts = f"{cut} of {counted(done, 'text')} {'was' if cut == 1 else 'were'}"
            note(f"{texts} cut to {most} tokens: max_length= (--max-length)")
