"""A ranking of layers made before: read from what `onnxq sensitivity --json` wrote, and seen to fit the model."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from onnxq.errors import ArtifactError, ConfigError
from onnxq.planning.modes import MODES
from onnxq.search.distance import Effect
from onnxq.search.ranking import SCHEMA, By, ExpectedLayer, LayerEffect, Quantized, Sensitivity
from onnxq.wording.plural import counted

_LARGEST_BYTES = 64 * 2**20
"""Of a ranking: far above that of any model."""

_AGAIN = "measure this model: onnxq.sensitivity(model, data) (onnxq sensitivity MODEL --data SRC --json)"

RankingSource = Sensitivity | str | os.PathLike[str]


def load_ranking(source: RankingSource) -> Sensitivity:
    """A ranking, from the file that `onnxq sensitivity` wrote with --json or --report FILE.json.

    Raises:
        ArtifactError: there is no such file, or it holds no ranking.
    """
    if isinstance(source, Sensitivity):
        return source
    if not isinstance(source, (str, os.PathLike)):
        raise ConfigError(
            f"ranking is {type(source).__name__}, expected a Sensitivity or the path of a file",
            hint="pass what onnxq.sensitivity gave, or its JSON file: ranking= (--ranking FILE)",
        )
    path = Path(source)
    where = str(path)
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ArtifactError("it is too large to be a ranking of layers", where=where, hint=_AGAIN)
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(
            f"the ranking cannot be read: {error.strerror or error}",
            where=where,
            hint="pass another ranking= (--ranking)",
        ) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"it is no JSON document: {error}", where=where, hint=_AGAIN) from error
    return _ranking(document, where)


def _ranking(document: Any, where: str) -> Sensitivity:
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise ArtifactError(f"it holds {schema or 'something else'}, expected {SCHEMA}", where=where, hint=_AGAIN)
    try:
        return Sensitivity(
            target=str(document["target"]),
            method=str(document["method"]),
            mode=_known(document["mode"], MODES),
            quantize=cast("Quantized", _known(document["quantize"], get_args(Quantized))),
            by=cast("By", _known(document["by"], get_args(By))),
            samples=int(document["samples"]),
            layers=tuple(_measured(row) for row in document["layers"]),
            unmeasured=tuple(_expected(row) for row in document.get("unmeasured", ())),
            digest=str(document.get("digest", "")),
            interrupted=bool(document.get("interrupted", False)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"the ranking is damaged ({type(error).__name__}: {error})", where=where, hint=_AGAIN
        ) from error


def _known(name: object, names: tuple[str, ...]) -> str:
    if name not in names:
        raise ValueError(f"{name!r} is none of {', '.join(names)}")
    return str(name)


def _measured(row: Mapping[str, Any]) -> LayerEffect:
    sqnr_db = row["sqnr_db"]
    if sqnr_db is None:
        sqnr_db = math.inf if row["equal"] else -math.inf
    kl = row["kl"]
    effect = Effect(sqnr_db=float(sqnr_db), cosine=float(row["cosine"]), kl=None if kl is None else float(kl))
    return LayerEffect(
        node=str(row["node"]), op=str(row["op"]), macs=row["macs"], weights=int(row["weights"]), effect=effect
    )


def _expected(row: Mapping[str, Any]) -> ExpectedLayer:
    return ExpectedLayer(
        node=str(row["node"]),
        op=str(row["op"]),
        macs=row["macs"],
        weights=int(row["weights"]),
        expected=float(row["expected"]),
    )


def check_ranking(ranking: Sensitivity, mode: str, digest: str, layers: Collection[str]) -> None:
    """See that a ranking belongs to a model, and to what it is to be turned into.

    Args:
        ranking: The ranking.
        mode: What the search turns the model into.
        digest: Digest of the float model.
        layers: Names of the layers that a search decides on.

    Raises:
        ArtifactError: it does not, or it ranks none of them.
    """
    if not ranking.digest:
        raise ArtifactError("the ranking does not say which model it is of: an older onnxq made it", hint=_AGAIN)
    if ranking.digest != digest:
        raise ArtifactError(
            f"the ranking was measured on another model (digest {ranking.digest[:12]}, this one has {digest[:12]})",
            hint=_AGAIN,
        )
    if ranking.mode != mode:
        raise ArtifactError(
            f"the ranking was measured in mode {ranking.mode!r}, and this search is one of mode {mode!r}",
            hint=f"measure with mode={mode!r}: onnxq.sensitivity(model, data, mode={mode!r}) (onnxq sensitivity MODEL "
            f"--data SRC --mode {mode} --json), or leave out ranking= (--ranking)",
        )
    if not any(row.node in layers for row in ranking.layers):
        raise ArtifactError(
            f"the ranking, measured for {ranking.target}, holds none of the {counted(len(layers), 'layer')} in "
            "question",
            hint=f"measure with the same target and options, or leave out ranking= (--ranking); {_AGAIN}",
        )
