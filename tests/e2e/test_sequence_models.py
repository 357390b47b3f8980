"""Decoders with a key-value cache, merged ones, and loops, in every mode: the same tokens come out."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

import onnxq
from onnxq.planning.plan import Action
from tests.decoders import decoder, feed, merged_decoder
from tests.e2e.conftest import present

MODES: tuple[dict[str, Any], ...] = (
    {"mode": "static"},
    {"mode": "static", "target": "tensorrt"},
    {"mode": "dynamic"},
    {"mode": "weight-only"},
    {"mode": "weight-only", "weights": "int8"},
    {"mode": "weight-only", "rounding": "gptq"},
)
MIN_SQNR_DB = 12.0
"""Random weights amplify errors over two layers: int4 leaves 15 dB here, a cache that is mixed up under 3."""


def name_of(options: dict[str, Any]) -> str:
    return "-".join(str(value) for value in options.values())


def steps(**more: NDArray[Any]) -> list[dict[str, NDArray[Any]]]:
    """A prompt with an empty past, then single tokens behind longer and longer ones."""
    return [feed(12, 0, seed=1, **more), *(feed(1, past, seed=past, **more) for past in (12, 13, 20))]


def run(model: ModelProto, given: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, given))


@pytest.mark.parametrize("options", MODES, ids=name_of)
def test_a_decoder_with_a_cache(options: dict[str, Any]) -> None:
    given = decoder()
    result = onnxq.quantize(given, steps(), **options)
    assert result.report, result.report.to_text()
    quantized = sum(d.action in (Action.INT8, Action.WEIGHTS) for d in result.plan.nodes)
    assert quantized >= (8 if options["mode"] == "static" else 13)
    assert [i.name for i in result.model.graph.input] == [i.name for i in given.graph.input]
    assert all(o.sqnr_db is None or o.sqnr_db > MIN_SQNR_DB for o in result.report.outputs), result.report.to_text()


@pytest.mark.parametrize("options", MODES[:1] + MODES[2:5], ids=name_of)
def test_a_merged_decoder(options: dict[str, Any]) -> None:
    given = merged_decoder()
    feeds = [*steps(use_cache_branch=np.array([True])), *steps(use_cache_branch=np.array([False]))]
    result = onnxq.quantize(given, feeds, **options)
    assert result.report, result.report.to_text()
    quantized = [d for d in result.plan.nodes if d.action in (Action.INT8, Action.WEIGHTS)]
    assert {d.node.split("/")[1] for d in quantized} == {"then_branch", "else_branch"}
    # The branches share the codes as they shared the weights.
    limit = 0.45 if options["mode"] == "weight-only" and "weights" not in options else 0.6
    assert result.model.ByteSize() < limit * given.ByteSize()


@pytest.mark.parametrize("options", MODES[2:4], ids=name_of)
def test_writing_token_after_token_goes_the_same_way(options: dict[str, Any]) -> None:
    """Greedy decoding with the cache of each model's own steps; the first logits of the prompt agree."""
    given = decoder()
    result = onnxq.quantize(given, steps(), **options)
    tokens = [[int(t) for t in _written(model, 6)] for model in (given, result.model)]
    assert tokens[0][0] == tokens[1][0]
    assert len(tokens[1]) == 6


def _written(model: ModelProto, count: int) -> list[int]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given, written = feed(12, 0, seed=4), []
    for _ in range(count):
        outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, given), strict=True))
        written.append(int(outputs["logits"][0, -1].argmax()))
        past = {name.replace("present", "past_key_values"): v for name, v in outputs.items() if name != "logits"}
        given = {"input_ids": np.array([[written[-1]]]), **past}
    return written


@pytest.mark.slow
@pytest.mark.parametrize(("options", "cosine"), [
    ({"mode": "dynamic"}, 0.99), ({"mode": "weight-only", "weights": "int8"}, 0.99),
], ids=["dynamic", "int8"])  # fmt: skip
def test_a_sentence_encoder(options: dict[str, Any], cosine: float) -> None:
    """MiniLM: embeddings keep their direction, and the file is a quarter of the float one."""
    zoo = present("minilm_l6")
    result = onnxq.quantize(zoo.path(), list(zoo.held_out(32)), **options)
    assert result.report, result.report.to_text()
    assert result.report.outputs[0].cosine is not None
    assert result.report.outputs[0].cosine > cosine
    assert result.report.size_after_bytes < 0.3 * result.report.size_before_bytes


def test_a_merged_decoder_whose_branches_cannot_be_rounded_by_data_says_so() -> None:
    steps = [merged_feed(index) for index in range(4)]
    made = onnxq.quantize(merged_decoder(), steps, mode="weight-only", rounding="gptq", target="ort-x64-vnni")
    assert made.report, made.report.to_text()
    assert any("rounded by 'mse' instead of 'gptq'" in note for note in made.report.notes)


def test_a_merged_decoder_with_dequantized_weights_runs_on_onnxruntime() -> None:
    """Its DequantizeLinear in a body, with codes outside, is what onnxruntime 1.32 cannot load."""
    steps = [merged_feed(index) for index in range(4)]
    made = onnxq.quantize(
        merged_decoder(), steps, mode="weight-only", weights="int8", weight_format="qdq", target="ort-x64-vnni"
    )
    assert made.report, made.report.to_text()


def merged_feed(index: int) -> dict[str, Any]:
    """The prompt, then single tokens behind it, in turns."""
    cached = index % 2 == 1
    flag = np.array([cached])
    return feed(1 if cached else 5, 4 + index if cached else 0, seed=index, use_cache_branch=flag)
