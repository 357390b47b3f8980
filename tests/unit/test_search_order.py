"""The order that a search tries layers in: expected noise, the division of time, and rankings made before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

import onnxq
from onnxq.data.batches import Batch
from onnxq.errors import ArtifactError, ConfigError
from onnxq.numerics import fake_quantize
from onnxq.search import mixed
from onnxq.search.estimated import estimated_noise, spread_order
from onnxq.search.expected import expected_harm, expected_noise
from onnxq.search.layers import Layer
from onnxq.search.mixed import ranking_seconds, spread
from onnxq.search.ranking_file import load_ranking
from tests.unit.test_search_effects import EMBEDDING, FEEDS, RESIDUAL, TOKENS, prepared_with, with_a_bad_layer

VNNI = "ort-x64-vnni"
OPTIONS: dict[str, Any] = {"target": VNNI, "placement": "full"}
GOAL = 48.0
"""dB: above what int8 gives, so that layers have to go to float."""


def interrupted_after(count: int):
    def stop(now) -> None:
        if getattr(now, "stage", "") == "measuring layers" and now.samples == count:
            raise KeyboardInterrupt

    return stop


def test_expected_noise_is_what_rounding_makes_of_values() -> None:
    """A table's values and codes are known exactly, an input's by its histogram of 4096 bins."""
    prepared, bench, layers = prepared_with(EMBEDDING, TOKENS, VNNI)
    stats = onnxq.calibrate(EMBEDDING, TOKENS, **OPTIONS, full_histogram=True)
    found = expected_noise(prepared.graph, prepared.plan, bench.qparams, stats, layers)

    def share(values: np.ndarray, key: str) -> float:
        error = (fake_quantize(values, bench.qparams[key]) - values).astype(np.float64)
        return float((error**2).sum() / (values.astype(np.float64) ** 2).sum())

    table, weight = (numpy_helper.to_array(prepared.graph.initializers[name]) for name in ("table", "w"))
    x = np.concatenate([feed["x"] for feed in TOKENS])
    assert found["emb"] == pytest.approx(share(table, "table"), rel=1e-5)  # sums in float32
    # Within a bin of the histogram, values count as spread evenly.
    assert found["mm"] == pytest.approx(share(x, "x") + share(weight, "w"), rel=0.02)
    without = expected_noise(prepared.graph, prepared.plan, bench.qparams, None, layers)
    assert without["emb"] == found["emb"]
    assert without["mm"] == pytest.approx(share(weight, "w") + 255.0**-2)


def test_earlier_layers_are_expected_to_hurt_more() -> None:
    harm = expected_harm({"a": 1.0, "b": 1.0, "c": 30.0, "d": 1.0})
    assert sorted(harm, key=lambda name: -harm[name]) == ["c", "a", "b", "d"]
    found = onnxq.sensitivity(EMBEDDING, TOKENS, **OPTIONS, progress=interrupted_after(1))
    assert [row.node for row in found.layers] == ["emb"]
    assert [row.node for row in found.unmeasured] == ["mm"]


def blocks(count: int) -> list[Layer]:
    """So many blocks of a wide and a narrow product, behind a table."""
    rows = [("table", "Gather", 5000)]
    for block in range(count):
        rows += [(f"wide{block}", "MatMul", 400), (f"narrow{block}", "MatMul", 100)]
    return [
        Layer(node=name, op=op, macs=weights, weights=weights, nodes=(name,), rounded={}, constants={}, end=name,
              end_key=None)
        for name, op, weights in rows
    ]  # fmt: skip


def test_noise_is_estimated_between_layers_of_the_same_kind() -> None:
    """Wide products lose a factor of 2 from block to block, narrow ones gain 3: straight lines of the logarithm."""
    layers = blocks(7)
    own = {layer.node: 1.0 + number % 3 for number, layer in enumerate(layers)}
    gains = {"table": 7.0} | {f"wide{b}": 2.0**-b for b in range(7)} | {f"narrow{b}": 3.0**b for b in range(7)}
    true = {name: own[name] * gain for name, gain in gains.items()}
    measured = {name: true[name] for name in ("table", "wide0", "wide6", "narrow0", "narrow6")}
    assert estimated_noise(layers, measured, own) == pytest.approx(true, rel=1e-9)
    assert list(estimated_noise(layers, measured, own)) == [layer.node for layer in layers]


def test_kinds_that_were_not_measured_follow_the_others_around_them() -> None:
    layers = blocks(3)
    own = {layer.node: 2.0 for layer in layers}
    found = estimated_noise(layers, {"wide0": 20.0, "wide2": 20.0 * 16.0}, own)
    assert found["narrow0"] == pytest.approx(20.0 * 16.0 ** (1 / 4))  # one place of four behind wide0
    assert found["table"] == pytest.approx(20.0)  # before the first one that is known
    assert found["narrow2"] == pytest.approx(20.0 * 16.0)


def test_nothing_measured_leaves_what_is_expected_and_silence_is_no_error() -> None:
    layers = blocks(2)
    own = {layer.node: 1.0 for layer in layers}
    assert estimated_noise(layers, {}, own) == expected_harm(own)
    silent = estimated_noise(layers, {"wide0": 0.0, "wide1": 1.0}, {**own, "narrow0": 0.0})
    assert silent["wide0"] == 0.0
    assert all(np.isfinite(value) and value >= 0.0 for value in silent.values())


def test_the_first_layers_to_be_measured_tell_most_of_the_others() -> None:
    """Each kind's first layer, then its last, then the middle: whenever the time is over, estimates lie between."""
    order = [layer.node for layer in spread_order(blocks(9))]
    assert sorted(order) == sorted(layer.node for layer in blocks(9))
    assert order[:3] == ["table", "wide0", "narrow0"]
    assert set(order[3:5]) == {"wide8", "narrow8"}
    assert set(order[5:7]) == {"wide5", "narrow5"}


@pytest.mark.parametrize(
    ("left", "try_seconds", "share"), [(100.0, 0.1, 0.75), (100.0, 7.0, 0.44), (100.0, 60.0, 0.25), (-1.0, 1.0, 0.0)]
)
def test_time_is_divided_by_what_a_try_costs(left: float, try_seconds: float, share: float) -> None:
    """Eight tries of 7 s leave 44 of 100 s for the order."""
    assert ranking_seconds(left, try_seconds) == pytest.approx(share * max(left, 0.0))


def test_batches_are_spread_over_all() -> None:
    arrays = {"x": np.zeros((1, 1), np.float32)}
    batches = [Batch(arrays=arrays, samples=1, label=str(i), per_sample=frozenset({"x"})) for i in range(32)]
    assert [b.label for b in spread(batches, 8)] == [str(i) for i in range(0, 32, 4)]
    assert spread(batches, 0) == spread(batches, -3) == []
    assert spread(batches, 1000) == spread(batches, 32) == batches
    assert [len(spread(batches, most)) for most in (1, 2, 3, 7, 15, 16, 31)] == [1, 2, 2, 4, 8, 16, 16]
    assert spread(batches[:5], 5) == batches[:5]


def test_layers_are_measured_on_one_batch_first_and_then_on_all() -> None:
    """So that there is an order of all of them soon; the second time the most harmful first."""
    seen = list[tuple[int, int | None]]()

    def watch(now) -> None:
        if getattr(now, "stage", "") == "measuring layers":
            seen.append((now.samples, now.expected_samples))

    made = onnxq.quantize(RESIDUAL, FEEDS, **OPTIONS, min_sqnr=GOAL, progress=watch)
    assert seen == [(i, 4) for i in range(5)] * 2
    assert made.search is not None
    assert made.search.ranked_samples == 12
    assert made.search.ranked_by == "4 layers of 4 measured alone on 12 samples"
    found = onnxq.sensitivity(RESIDUAL, FEEDS, **OPTIONS)
    by_name = {row.node: row.effect for row in found.layers}
    for row in made.search.layers:
        # The search has the ranges of a calibration without held-out samples as well; here they are the same ones.
        assert row.effect.sqnr_db == pytest.approx(by_name[row.node].sqnr_db, abs=1.0)


def test_a_search_that_time_cut_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be through all the same: what it tried in which order hangs on how much there was time for."""
    monkeypatch.setattr(mixed, "spread", lambda batches, _: batches[:1])
    made = onnxq.quantize(RESIDUAL, FEEDS, **OPTIONS, min_sqnr=GOAL)
    assert made.search is not None and not made.search.stopped
    note = next(note for note in made.report.notes if "measured alone" in note)
    assert note == (
        "4 layers of 4 measured alone on 4 samples of 12, for which there was time: another run may have more or less "
        "of it and leave other layers in float, unless search_seconds= (--search-seconds) is longer"
    )


def test_a_search_without_time_says_what_it_did_not_measure() -> None:
    made = onnxq.quantize(with_a_bad_layer(), FEEDS, **OPTIONS, min_sqnr=60.0, search_seconds=1e-6)
    assert made.search is not None
    assert set(made.search.unranked) == {"c1", "c2", "c3", "mm"}
    assert any(
        note.startswith("4 layers not measured alone, tried in the order in which they are expected to hurt: ")
        for note in made.report.notes
    )


def test_a_ranking_takes_the_place_of_the_measurement(tmp_path: Path) -> None:
    measured = onnxq.quantize(RESIDUAL, FEEDS, **OPTIONS, min_sqnr=GOAL)
    ranking = onnxq.sensitivity(RESIDUAL, FEEDS, **OPTIONS)
    file = tmp_path / "layers.json"
    file.write_text(ranking.to_json())
    stages = set()

    def watch(now) -> None:
        stages.add(getattr(now, "stage", ""))

    for source in (ranking, file, str(file)):
        made = onnxq.quantize(RESIDUAL, FEEDS, **OPTIONS, min_sqnr=GOAL, ranking=source, progress=watch)
        assert made.search is not None and measured.search is not None
        assert made.search.met
        assert made.search.float_layers == measured.search.float_layers
        assert made.search.unranked == ()
        assert f"a ranking measured for {VNNI} on 12 samples" in made.search.ranked_by
        assert made.search.ranked_by in made.report.notes
    assert "searching" in stages
    assert "measuring layers" not in stages


def test_a_ranking_of_some_layers_leaves_the_others_behind() -> None:
    ranking = onnxq.sensitivity(RESIDUAL, FEEDS, **OPTIONS, progress=interrupted_after(2))
    made = onnxq.quantize(RESIDUAL, FEEDS, **OPTIONS, min_sqnr=GOAL, ranking=ranking)
    assert made.search is not None
    assert set(made.search.unranked) == {row.node for row in ranking.unmeasured}
    assert len(made.search.unranked) == 2
    assert any(n.startswith("2 layers not measured alone, their noise estimated from the others: ")
               for n in made.report.notes)  # fmt: skip


@pytest.mark.parametrize("by", ["sqnr", "cosine", "kl"])
@pytest.mark.parametrize("quantize", ["only", "all-but"])
def test_noise_has_the_order_of_the_ranking(quantize: Any, by: Any) -> None:
    ranking = onnxq.sensitivity(RESIDUAL, FEEDS, **OPTIONS, quantize=quantize, by=by)
    noise = ranking.noise()
    assert sorted(noise, key=lambda name: -noise[name]) == [row.node for row in ranking.ranked()]
    assert min(noise.values()) >= 0


def test_a_ranking_survives_its_file(tmp_path: Path) -> None:
    ranking = onnxq.sensitivity(RESIDUAL, FEEDS, **OPTIONS, progress=interrupted_after(3))
    file = tmp_path / "layers.json"
    file.write_text(ranking.to_json())
    read = load_ranking(file)
    assert {**read.to_dict(), "seconds": {}} == {**ranking.to_dict(), "seconds": {}}
    assert read.digest == ranking.digest != ""
    assert ranking.to_dict()["interrupted"] is True
    assert read.warnings == ranking.warnings
    assert "interrupted" in read.warnings[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digest": ""}, "the ranking does not say which model it is of"),
        ({"digest": "0" * 64}, r"the ranking was measured on another model \(digest 000000000000, this one has"),
        ({"layers": []}, "the ranking, measured for ort-x64-vnni, holds none of the 4 layers in question"),
        ({"schema": "onnxq.report/1"}, r"it holds onnxq\.report/1, expected onnxq\.sensitivity/1"),
        ({"mode": "only"}, r"the ranking is damaged \(ValueError: 'only' is none of static, dynamic, weight-only\)"),
        ({"quantize": "some"}, r"the ranking is damaged \(ValueError: 'some' is none of only, all-but\)"),
        ({"mode": "dynamic"}, "measured in mode 'dynamic', and this search is one of mode 'static'"),
        ({"layers": [{"node": "c1"}]}, r"the ranking is damaged \(KeyError: 'sqnr_db'\)"),
    ],
)
def test_rankings_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    document = {**onnxq.sensitivity(RESIDUAL, FEEDS, **OPTIONS).to_dict(), **change}
    file = tmp_path / "layers.json"
    file.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=message):
        onnxq.quantize(RESIDUAL, FEEDS, **OPTIONS, min_sqnr=GOAL, ranking=file)


def test_what_is_no_ranking_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="the ranking cannot be read: No such file"):
        load_ranking(tmp_path / "absent.json")
    (tmp_path / "text.json").write_text("layers")
    with pytest.raises(ArtifactError, match="it is no JSON document"):
        load_ranking(tmp_path / "text.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ArtifactError, match=r"it holds something else, expected onnxq\.sensitivity/1"):
        load_ranking(tmp_path / "list.json")
    with (tmp_path / "large.json").open("wb") as sparse:
        sparse.truncate(2**27)
    with pytest.raises(ArtifactError, match="it is too large to be a ranking"):
        load_ranking(tmp_path / "large.json")
    with pytest.raises(ConfigError, match="ranking is int, expected a Sensitivity"):
        load_ranking(3)  # type: ignore[arg-type]


def test_a_search_is_not_made_where_there_is_to_be_none() -> None:
    """The demand is judged on the model with everything in int8, which keeps its default recovery."""
    plain = onnxq.quantize(RESIDUAL, FEEDS, **OPTIONS)
    judged = onnxq.quantize(RESIDUAL, FEEDS, **OPTIONS, min_cosine=0.9999999, search=False)
    assert judged.search is not None
    assert (judged.search.met, judged.search.judged, judged.search.searched) == (False, 1, False)
    assert judged.report.failed_checks[0].name == "accuracy budget"
    assert judged.model.SerializeToString() == plain.model.SerializeToString()
    with pytest.raises(ConfigError, match=r"search_seconds= \(--search-seconds\) serves a search, and search=False"):
        onnxq.quantize(RESIDUAL, FEEDS, **OPTIONS, min_cosine=0.9, search=False, search_seconds=5)
