"""Writing a model: the file appears whole or not at all.

Weights go into a file of their own, `<name>.data`, where protobuf's limit of 2 GB demands it
(https://onnx.ai/onnx/repo-docs/ExternalData.html). Two files cannot be replaced in one step; a process that is killed
in between leaves old weights or new ones, but no model beside them: never a model that reads the weights of another.
The old ones are then hidden files beside them, which the next writing of the same output puts back first. Of several
that write one output at the same time, each moves its pair into place when the one before has done so.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

from onnx import ModelProto, TensorProto, helper

from onnxq.errors import ConfigError
from onnxq.files.lock import turn_at
from onnxq.files.whole import Draft, draft, hidden_beside, hidden_files, try_folder, write_whole
from onnxq.graph.external_data import in_draft, is_external, take_inside, tensors_in, tensors_of, weights_are_large
from onnxq.graph.view import frame_of
from onnxq.graph.weights_file import WeightsFile, name_file, unwritable, weights_file

# protobuf refuses messages of 2 GiB and more; what is not weights (nodes, shapes) gets the difference.
_INLINE_LIMIT_BYTES = 2**31 - 2**26


def save_model(  # noqa: PLR0913 - one keyword for each choice of callers
    model: ModelProto,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    base_dir: Path | None = None,
    weights: WeightsFile | None = None,
    external: bool = False,
) -> int:
    """Write `model` to `path`; on any failure nothing is left behind and files already there stay as they were.

    Args:
        model: The model; it is not changed.
        path: Where to.
        force: Whether an existing file may be replaced.
        base_dir: Folder that the model's own external data locations are relative to.
        weights: The file at `data_file(path)`, where part of the weights is written already.
        external: Whether weights go into a file of their own although they need not.

    Returns:
        Bytes written.

    Raises:
        ConfigError: `path` exists and `force` is not given, is no place for a file, or cannot be written.
        ModelError: external data of the model cannot be read.
    """
    target = Path(path)
    check_output(target, force=force)
    try:
        if external or weights is not None or needs_data_file(model):
            return _write_with_data(model, target, base_dir, force=force, weights=weights)
        content = _inlined(model, base_dir).SerializeToString(deterministic=True)
        write_whole(target, content, replace=force)
        return len(content)
    except FileExistsError as error:
        raise _exists(target) from error
    except OSError as error:
        raise unwritable(target, error) from error


def check_output(target: Path, *, force: bool = False, model: bool = True) -> None:
    """See that a file may be written to `target`, before any work is done for it.

    Args:
        target: The file.
        force: Whether it may be there already.
        model: Whether it is an ONNX model, not something that is made of one.

    Raises:
        ConfigError: the folder does not exist or cannot be written to, `target` is no place for a file or has no name
            for a model, or it or the file that its weights would go to exists and `force` is not given.
    """
    where = f"output {str(target)!r}"
    elsewhere = "choose another place with output= (-o)"
    if not target.parent.is_dir():
        raise ConfigError(
            f"the folder {str(target.parent)!r} does not exist", where=where, hint=f"create it, or {elsewhere}"
        )
    try:
        is_folder = target.is_dir()
    except OSError as error:  # a name that is too long
        raise ConfigError(f"this is no place for a file: {error.strerror}", where=where, hint=elsewhere) from error
    if is_folder:
        raise ConfigError("this is a folder, not a file", where=where, hint="add a file name to output= (-o)")
    if target.exists() and not target.is_file():
        raise ConfigError("this is not a regular file", where=where, hint=elsewhere)
    if model and target.suffix.lower() != ".onnx":
        raise ConfigError(
            "the name of a model ends in .onnx", where=where, hint=f"pass output={target.name + '.onnx'!r} (-o)"
        )
    if model:
        _put_back(target)
    if not force and target.exists():
        raise _exists(target)
    if model and not force and (data := data_file(target)).is_file():
        raise _exists(target, f"the file {data.name!r} for large weights exists beside it")
    try:
        try_folder(target.parent)
    except OSError as error:
        raise unwritable(target, error, "the model" if model else "the file") from error


def _exists(target: Path, what: str = "the file exists") -> ConfigError:
    return ConfigError(
        what,
        where=f"output {str(target)!r}",
        hint="pass force=True (--force) to replace it, or choose another place with output= (-o)",
    )


@contextlib.contextmanager
def file_for_weights(target: Path | None, tensors: Iterable[TensorProto]) -> Iterator[WeightsFile | None]:
    """The file that weights go to as they are quantized: for a large model that is to be written, else None.

    Args:
        target: Where the model goes; None for one that is not written.
        tensors: The weights of the float model.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    if target is None or not weights_are_large(tensors):
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            weights = stack.enter_context(weights_file(data_file(target)))
        except OSError as error:
            raise unwritable(target, error) from error
        yield weights


def data_file(target: Path) -> Path:
    """Where the weights go that do not fit into the file `target`."""
    return target.with_name(target.name + ".data")


def needs_data_file(model: ModelProto) -> bool:
    """Whether a model is too large for one file."""
    size = sum(int(tensor.ByteSize()) + _external_bytes(tensor) for tensor in tensors_of(model.graph))
    return size > _INLINE_LIMIT_BYTES


def _external_bytes(tensor: TensorProto) -> int:
    if tensor.data_location != TensorProto.EXTERNAL:
        return 0
    return int(math.prod(tensor.dims) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def self_contained(model: ModelProto, base_dir: Path | None) -> ModelProto:
    """`model` for a user, who may save it anywhere: with all data inside, unless that is more than protobuf holds.

    What lies in temporary files comes inside in any case.

    Raises:
        ModelError: external data cannot be read.
    """
    return _inlined(model, base_dir, in_draft if base_dir is None or needs_data_file(model) else is_external)


def _inlined(
    model: ModelProto, base_dir: Path | None, which: Callable[[TensorProto], bool] = is_external
) -> ModelProto:
    """`model` with the data of the tensors `which` inside; itself where that is so already."""
    if not any(map(which, tensors_of(model.graph))):
        return model
    whole = ModelProto()
    whole.CopyFrom(model)
    for tensor in filter(which, tensors_of(whole.graph)):
        take_inside(tensor, base_dir)
    return whole


def _write_with_data(
    model: ModelProto, target: Path, base_dir: Path | None, *, force: bool, weights: WeightsFile | None
) -> int:
    data_target = data_file(target)
    if data_target.exists() and not data_target.is_file():
        raise ConfigError(
            "this is not a regular file",
            where=f"output {str(data_target)!r}",
            hint="choose another place with output= (-o)",
        )
    # The weights are copied one at a time, so that a model of many gigabytes is never in memory twice.
    slim = frame_of(model)
    for node in model.graph.node:
        slim.graph.node.add().CopyFrom(node)
    for field in ("input", "output", "value_info"):
        getattr(slim.graph, field).extend(getattr(model.graph, field))
    where = weights_file(data_target) if weights is None else contextlib.nullcontext(weights)
    with where as data, draft(target) as written:
        for tensor in chain.from_iterable(map(tensors_in, slim.graph.node)):
            data.move(tensor, tensor, base_dir)
        for tensor in model.graph.initializer:
            data.move(tensor, slim.graph.initializer.add(), base_dir)
        name_file(tensors_of(slim.graph), data_target.name)
        written.stream.write(slim.SerializeToString(deterministic=True))
        size = data.draft.stream.tell() + written.stream.tell()
        _publish_pair(data.draft, written, force=force)
    return size


def _put_back(target: Path) -> None:
    """Put things right where a process was killed in `_publish_pair`: all of the old pair, or nothing of it."""
    pair = (data_file(target), target)
    with contextlib.suppress(OSError):  # what is wrong with the folder shows when it is written to
        if not any(hidden_files(file, "old") for file in pair):
            return
        with _turn_to_publish(target):  # to begin with, they may be those of a process that is not killed
            done = target.exists()
            for file in pair:
                for hidden in hidden_files(file, "old"):
                    if done:
                        hidden.unlink()
                    else:
                        hidden.replace(file)


def _turn_to_publish(target: Path) -> contextlib.AbstractContextManager[None]:
    """The turn of one among several that move files of the pair at `target`, which takes them no time worth mentioning.

    Drafts have locks of their own, but a pair takes several steps, and a model must not come to lie beside the weights
    of another.
    """
    return turn_at(target.with_name(f".{target.name}.lock"))


def _publish_pair(data: Draft, model: Draft, *, force: bool) -> None:
    """Let both files appear; where one cannot, both old ones are put back.

    The old model goes aside first and the new one comes last: in between there is none, and no runtime can read weights
    that are not its own.
    """
    data.sync()
    model.sync()
    with _turn_to_publish(model.target):
        _move_into_place(data, model, force=force)


def _move_into_place(data: Draft, model: Draft, *, force: bool) -> None:
    aside = [(target, hidden_beside(target, "old")) for target in (model.target, data.target) if force]
    moved: list[tuple[Path, Path]] = []
    published: list[Path] = []
    try:
        for target, hidden in aside:
            if target.exists():
                moved.append((target, hidden))
                target.replace(hidden)
        for draft_of_one in (data, model):
            draft_of_one.publish(replace=force)
            published.append(draft_of_one.target)
    except BaseException:
        for target in published:
            target.unlink(missing_ok=True)
        for target, hidden in reversed(moved):
            if hidden.exists():
                hidden.replace(target)
        raise
    for _, hidden in moved:
        hidden.unlink(missing_ok=True)
