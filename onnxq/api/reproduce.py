"""Makes a quantized model once more, from what its metadata says, and compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from onnxq.api.calibrate import CalibrateKeywords, calibrate
from onnxq.api.quantize import QuantizeKeywords, quantize
from onnxq.calibration.statistics.table import StatsTable
from onnxq.data.description import data_from
from onnxq.errors import ArtifactError, ModelError
from onnxq.graph.model import ModelSource, get_metadata, load_graph, model_digest
from onnxq.keywords import defaults_of
from onnxq.modes.recorded_options import recall_options
from onnxq.planning.modes import STATIC
from onnxq.search.budget import DemandKeywords
from onnxq.targets import TARGETS, TargetSource, resolve_target
from onnxq.verification.check import Check
from onnxq.version import VERSION


def reproduce(
    float_model: ModelSource, quantized_model: ModelSource, data: Any = None, *, target: TargetSource | None = None
) -> Check:
    """Whether quantizing `float_model` again gives `quantized_model`, to the last bit.

    Args:
        float_model: The float model.
        quantized_model: What `onnxq.quantize` made of it.
        data: The calibration data it was made with, in the form it was given in; None where it was made without.
        target: The table it was made for, where that is none of the built-in ones.

    Returns:
        A check; where it failed, its detail names what is different.

    Raises:
        ModelError: a model cannot be read, or the second was not made by onnxq.
        ArtifactError: the model does not say how it was made, or with what this version does not have, or it was made
            from a calibration cache, or for a table that is not given.
        ConfigError: there is no such target.
        DataError: the data does not fit the model.
    """
    made = load_graph(quantized_model)
    said = get_metadata(made.frame)
    if "onnxq.target" not in said:
        raise ModelError(
            "the model was not made by onnxq, so that it does not say how to make it again",
            hint="leave out --reproduce",
        )
    options = recall_options(said)
    read_as = options.pop("data", None)
    if unknown := sorted(options.keys() - {"mode", *defaults_of(QuantizeKeywords)}):
        raise ArtifactError(
            f"the model was made with {unknown[0]}=, which this version of onnxq ({VERSION}) does not have",
            hint=f"use the version that made it: {said.get('onnxq.version', 'it does not say which')}",
        )
    if read_as:
        data = replace(data_from(data), **read_as)
    table = _table(said["onnxq.target"], target)
    again = quantize(float_model, data, target=table, **options).model
    if said.get("onnxq.data") != get_metadata(again).get("onnxq.data"):
        stats = _statistics_of_all(float_model, data, table, options, fingerprint=said.get("onnxq.data"))
        again = again if stats is None else quantize(float_model, data, target=table, stats=stats, **options).model
    name = "made again from the float model"
    if (digest := model_digest(made)) == model_digest(again):
        return Check(name=name, passed=True, detail=f"every byte is the same, digest {digest[:12]}")
    searched = bool(options.keys() & defaults_of(DemandKeywords).keys())
    return Check(name=name, passed=False, detail=_difference(said, get_metadata(again), searched=searched))


def _statistics_of_all(
    float_model: ModelSource, data: Any, table: TargetSource, options: dict[str, Any], *, fingerprint: str | None
) -> StatsTable | None:
    """The statistics that `onnxq.calibrate` gives of all the data, of which `quantize` holds out a part, if they are
    those of `fingerprint`."""
    if options.get("mode", STATIC) != STATIC or data is None or isinstance(data, Iterator):
        return None
    given: Any = {name: value for name, value in options.items() if name in defaults_of(CalibrateKeywords)}
    stats = calibrate(float_model, data, target=table, **given)
    return stats if stats.data_fingerprint == fingerprint else None


def _table(named: str, given: TargetSource | None) -> TargetSource:
    """The target that the model names; one of the user's own has to be given."""
    if named in TARGETS:
        return named
    hint = f"pass the file of the table {named!r}: target='FILE.toml' (--target FILE.toml)"
    if given is None:
        raise ArtifactError(f"the model was made for {named!r}, which is no built-in target", hint=hint)
    table, _ = resolve_target(given)
    if table.name != named:
        raise ArtifactError(f"the model was made for {named!r}, and the target given is {table.name!r}", hint=hint)
    return table


def _difference(said: dict[str, str], again: dict[str, str], *, searched: bool) -> str:
    samples, other = said.get("onnxq.samples"), again.get("onnxq.samples")
    reasons = {
        "onnxq.version": f"it was made by onnxq {said.get('onnxq.version')}, this is {VERSION}",
        "onnxq.float_digest": "it was made from another float model",
        "onnxq.data": "it was made with other data",
        "onnxq.samples": f"it was made with {samples} sample{'' if samples == '1' else 's'}, not {other}",
    }
    found = [reason for key, reason in reasons.items() if said.get(key) != again.get(key)]
    table = "" if said.get("onnxq.target") in TARGETS else ", or another form of the target's table"
    asked = f"another onnxruntime or CPU{table}?"
    if searched:
        asked = (
            f"a search under a time limit, which may have had more or less time (a longer search_seconds=), or {asked}"
        )
    return "; ".join(found) or f"model, data and options are the same, the result is not: {asked}"
