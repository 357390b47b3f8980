"""Models with labelled evaluation sets, kept outside the repository because the images carry research licences.

The folder (`ONNXQ_EVAL_DATA`, or `shared/data` beside the repository) holds `meta.json` and a loader `evalset.py` whose
`batches(name, split, batch, limit)` gives `(feed, labels)`.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from tests.zoo.entry import Batch, Split, ZooModel, top1

VARIABLE = "ONNXQ_EVAL_DATA"
BATCH = 16
CLASSIFIED = ("top1", "top-1")


def eval_set_models() -> list[ZooModel]:
    """One entry for each classifier of the folder; none without the folder."""
    folder = eval_folder()
    if folder is None:
        return []
    models: dict[str, dict[str, str]] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["models"]
    return [_entry(name, folder / meta["file"]) for name, meta in models.items() if meta["metric"] in CLASSIFIED]


def eval_folder() -> Path | None:
    """The folder of evaluation sets, if there is one."""
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    return folder if (folder / "evalset.py").is_file() and (folder / "meta.json").is_file() else None


def _entry(name: str, file: Path) -> ZooModel:
    def load(split: Split, limit: int | None) -> Iterator[Batch]:
        for feed, labels in _loader().batches(name, split=split, batch=BATCH, limit=limit):
            yield Batch(feed, labels)

    return ZooModel(
        name=name,
        source=f"evaluation sets ({VARIABLE})",
        path=lambda: file if file.is_file() else None,
        load=load,
        decode=top1,
        metric="top-1",
    )


@functools.cache
def _loader() -> ModuleType:
    folder = eval_folder()
    if folder is None:
        raise FileNotFoundError(f"no evaluation sets: set {VARIABLE} to their folder")
    spec = importlib.util.spec_from_file_location("onnxq_evalset", folder / "evalset.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {folder / 'evalset.py'}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
