"""The public functions: what they take, give back, write and refuse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

import onnxq
from onnxq.calibration.progress import Progress
from onnxq.graph import saving
from tests.graphs import model_of, normal
from tests.planned import ORT
from tests.versions import since

TEXT = """(float[N,16,8,8] x) => (float[N,16,8,8] y) {
    [c1] a = Conv<pads=[1,1,1,1]>(x, w, b)
    [r] ar = Relu(a)
    [c2] y = Conv<pads=[1,1,1,1]>(ar, v)
    }"""


def model(**extra: Any) -> ModelProto:
    return model_of(TEXT, w=normal(16, 16, 3, 3), v=normal(16, 16, 3, 3, seed=1), b=normal(16), **extra)


def data(count: int = 12) -> list[dict[str, Any]]:
    return [{"x": normal(1, 16, 8, 8, seed=i)} for i in range(count)]


@pytest.fixture(scope="module")
def result() -> onnxq.QuantizeResult:
    return onnxq.quantize(model(), data(), target=ORT)


def test_result_holds_every_stage(result: onnxq.QuantizeResult) -> None:
    onnx.checker.check_model(result.model, full_check=True)
    assert bool(result.report)
    assert set(result.plan.tensors) == set(result.qparams)
    assert set(result.stats) == set(result.plan.observed())
    assert result.output is None
    assert [d.macs for d in result.plan.nodes] == [147456, 0, 147456]
    # Uniform 8-bit codes of normal values: about 40 dB a layer.
    assert result.report.worst_sqnr_db is not None
    assert result.report.worst_sqnr_db > 30


def test_a_quarter_of_the_batches_is_held_out(result: onnxq.QuantizeResult) -> None:
    assert result.stats.samples == 9
    assert result.report.data is not None
    assert (result.report.data.samples, result.report.data.held_out_samples) == (9, 3)


def test_metadata_says_how_it_was_made(result: onnxq.QuantizeResult) -> None:
    assert {p.key: p.value for p in result.model.metadata_props} == {
        "onnxq.version": onnxq.__version__,
        "onnxq.target": ORT,
        "onnxq.method": "auto",
        "onnxq.recover": "level,reconstruct",
        "onnxq.data": result.stats.data_fingerprint,
        "onnxq.samples": "9",
        "onnxq.float_digest": result.plan.digest,
        "onnxq.options": "{}",
    }


def test_same_input_same_bytes(result: onnxq.QuantizeResult) -> None:
    again = onnxq.quantize(model(), data(), target=ORT)
    assert again.model.SerializeToString() == result.model.SerializeToString()


def test_order_of_the_samples_does_not_matter_for_the_ranges() -> None:
    one = onnxq.calibrate(model(), data(), target=ORT)
    other = onnxq.calibrate(model(), data()[::-1], target=ORT)
    assert dict(one) == dict(other)
    assert one.data_fingerprint == other.data_fingerprint


def test_the_model_given_is_not_changed() -> None:
    given = model()
    before = given.SerializeToString()
    onnxq.quantize(given, data(4), target="tensorrt")
    assert given.SerializeToString() == before


@pytest.mark.parametrize("form", ["path", "string", "bytes", "message"])
def test_forms_of_a_model(form: str, tmp_path: Path, result: onnxq.QuantizeResult) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(), path)
    given: Any = {"path": path, "string": str(path), "bytes": path.read_bytes(), "message": model()}[form]
    assert onnxq.plan(given, target=ORT).digest == result.plan.digest


def test_statistics_serve_every_method_without_inference(result: onnxq.QuantizeResult) -> None:
    counted = []

    def never() -> Iterator[dict[str, Any]]:
        counted.append(1)
        yield from data(2)

    again = onnxq.quantize(model(), never(), target=ORT, method="max", stats=result.stats)
    assert again.stats is result.stats
    assert {p.key: p.value for p in again.model.metadata_props}["onnxq.samples"] == "9"
    # The data were read once, for the report.
    assert counted == [1]


def test_calibrated_shards_merge_into_the_whole() -> None:
    whole = onnxq.calibrate(model(), data(), target=ORT)
    parts = [onnxq.calibrate(model(), data()[i::3], target=ORT) for i in range(3)]
    merged = parts[2].merge(parts[0]).merge(parts[1])
    one = onnxq.quantize(model(), data(4), target=ORT, stats=whole)
    other = onnxq.quantize(model(), data(4), target=ORT, stats=merged)
    assert one.model.SerializeToString() == other.model.SerializeToString()


def test_saved_statistics_give_the_same_model(tmp_path: Path) -> None:
    stats = onnxq.calibrate(model(), data(), target=ORT)
    stats.save(tmp_path / "m.stats")
    loaded = onnxq.load_stats(tmp_path / "m.stats")
    one = onnxq.quantize(model(), data(4), target=ORT, stats=stats)
    other = onnxq.quantize(model(), data(4), target=ORT, stats=loaded)
    assert one.model.SerializeToString() == other.model.SerializeToString()


def test_plan_is_the_one_that_quantize_carries_out(result: onnxq.QuantizeResult) -> None:
    assert onnxq.plan(model(), target=ORT).tensors == result.plan.tensors


def test_excluded_nodes_stay_float() -> None:
    plan = onnxq.plan(model(), target=ORT, exclude=["c1"])
    assert {d.node: d.action.value for d in plan.nodes} == {"c1": "float", "r": "float", "c2": "int8"}
    result = onnxq.quantize(model(), data(4), target=ORT, exclude=["c1"])
    assert bool(result.report)


def test_without_data_the_result_says_so() -> None:
    result = onnxq.quantize(model(), target=ORT)
    assert result.report.data is not None
    assert result.report.data.synthetic
    assert {p.key: p.value for p in result.model.metadata_props}["onnxq.data"] == "synthetic"
    assert any("SYNTHETIC" in warning for warning in result.report.warnings)


def test_note_of_the_chosen_target_is_in_the_plan() -> None:
    plan = onnxq.plan(model())
    assert plan.target.startswith("ort-")
    assert plan.notes[0].startswith(f"ort-cpu means {plan.target} on this machine")


def test_progress_is_reported() -> None:
    seen: list[Progress] = []
    onnxq.calibrate(model(), data(), target=ORT, progress=seen.append)
    assert seen[-1].samples == 12


def test_verify_any_quantized_model(result: onnxq.QuantizeResult) -> None:
    report = onnxq.verify(model(), result.model, data(3), target=ORT)
    assert bool(report)
    assert report.data is not None
    assert report.data.held_out_samples == 3
    assert report.method is None


def test_verify_finds_a_model_that_is_not_quantized() -> None:
    report = onnxq.verify(model(), model(), data(2), target=ORT)
    assert not report
    assert "nothing was checked" in " ".join(c.detail for c in report.failed_checks)


# ---- files ---------------------------------------------------------------------------------------------------------


def test_output_is_written(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    result = onnxq.quantize(model(), data(4), target=ORT, output=path)
    assert result.output == path
    assert onnx.load(path).SerializeToString() == result.model.SerializeToString()
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


def test_existing_output_is_refused_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(b"precious")

    def never() -> Iterator[dict[str, Any]]:
        raise AssertionError("data were read")
        yield {}

    with pytest.raises(onnxq.ConfigError, match="exists"):
        onnxq.quantize(model(), never(), target=ORT, output=path)
    assert path.read_bytes() == b"precious"
    onnxq.quantize(model(), data(4), target=ORT, output=path, force=True)
    assert len(path.read_bytes()) > 1000


def test_nothing_is_left_behind_by_a_failure(tmp_path: Path) -> None:
    bad = [*data(3), {"x": np.full((1, 16, 8, 8), np.nan, np.float32)}]
    with pytest.raises(onnxq.DataError):
        onnxq.quantize(model(), bad, target=ORT, output=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_quantized_model_is_refused(result: onnxq.QuantizeResult) -> None:
    with pytest.raises(onnxq.ModelError) as error:
        onnxq.quantize(result.model, data(2), target=ORT)
    assert str(error.value).startswith("the model is quantized already: it has ")
    assert str(error.value).endswith(
        "\nHint: give the float model, or the one that onnxq.strip(...) (onnxq strip) makes by taking the Q/DQ pairs "
        "out; to check a quantized model use onnxq.verify(...) (onnxq verify)"
    )


def test_an_empty_path_is_not_the_working_folder() -> None:
    with pytest.raises(onnxq.ModelError, match=r"^the path of the model is empty"):
        onnxq.plan("", target=ORT)
    with pytest.raises(onnxq.DataError, match=r"^the path of the data is empty"):
        onnxq.quantize(model(), "", target=ORT)


def test_a_float_model_in_place_of_a_quantized_one_is_told() -> None:
    report = onnxq.verify(model(), model(), data(2))
    assert not report
    assert any(w.startswith("nothing in the quantized model is quantized") for w in report.warnings)


def test_models_that_changed_places_are_told(result: onnxq.QuantizeResult) -> None:
    for compare in (onnxq.verify, onnxq.evaluate):
        with pytest.raises(onnxq.ConfigError, match=r"^the float model is quantized, and the quantized one is not"):
            compare(result.model, model(), data(2))
    assert onnxq.evaluate(result.model, result.model, data(2)).models, "one with pairs of a training may come first"


@since(1, 24, "has no ConvInteger for int8 weights")
def test_integer_operators_have_no_way_back() -> None:
    made = onnxq.quantize(model(), mode="dynamic", placement="full", target=ORT).model
    with pytest.raises(onnxq.ModelError, match="Hint: give the float model: ConvInteger, DynamicQuantizeLinear cannot"):
        onnxq.quantize(made, data(2), target=ORT)


def test_statistics_of_another_model_are_refused() -> None:
    other = model_of(TEXT, w=normal(16, 16, 3, 3, seed=9), v=normal(16, 16, 3, 3), b=normal(16))
    stats = onnxq.calibrate(other, data(2), target=ORT)
    with pytest.raises(onnxq.ArtifactError) as error:
        onnxq.quantize(model(), data(2), target=ORT, stats=stats)
    assert str(error.value) == (
        "the statistics were collected on another model\n"
        "Hint: calibrate this model: onnxq.calibrate(model, data) (onnxq calibrate)"
    )


def test_statistics_for_another_target_that_lack_tensors_are_refused() -> None:
    stats = onnxq.calibrate(model(), data(2), target="tensorrt")
    with pytest.raises(onnxq.ArtifactError, match="the statistics lack 1 of the tensors that ort-x64-vnni quantizes"):
        onnxq.quantize(model(), data(2), target=ORT, stats=stats)


def test_model_with_nothing_to_quantize_is_refused() -> None:
    with pytest.raises(onnxq.UnsupportedModelError) as error:
        onnxq.quantize(model_of("(float[4] x) => (float[4] y) { a = Tanh(x) y = Tanh(a) }"), target=ORT)
    assert str(error.value) == (
        "nothing in this model can be quantized for ort-x64-vnni: "
        "ONNX Runtime has no int8 kernel for Tanh on CPU (C10) (2 nodes)\n"
        "Hint: `onnxq plan MODEL` gives the reason for each node; onnxq.plan(model).nodes in Python"
    )


def test_unknown_names_are_refused() -> None:
    with pytest.raises(onnxq.ConfigError, match="unknown target 'trt'"):
        onnxq.quantize(model(), data(2), target="trt")
    with pytest.raises(onnxq.ConfigError, match="unknown calibration method 'minmax'"):
        onnxq.quantize(model(), data(2), method="minmax")
    with pytest.raises(onnxq.ConfigError, match="no node of the model matches 'c9'"):
        onnxq.quantize(model(), data(2), target=ORT, exclude=["c9"])


def test_float_type_that_cannot_be_told_is_refused_with_its_reason() -> None:
    unknown = model_of(
        "(float[N,16,8,8] x) => (float[N,16,6,6] y) { z = other.Op(x) y = Conv(z, w) }", w=normal(16, 16, 3, 3)
    )
    with pytest.raises(onnxq.UnsupportedModelError, match="its input 'z' is of unknown type"):
        onnxq.quantize(unknown, target=ORT)


@pytest.mark.parametrize("first", ["quantize", "verify", "plan", "Report", "QuantizeResult"])
def test_verify_is_the_function_whatever_was_used_first(first: str) -> None:
    """A submodule of that name would be bound in its parent, in the function's place, when something imports it."""
    code = f"import onnxq; onnxq.{first}; assert callable(onnxq.verify), onnxq.verify"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_statistics_with_the_same_data_give_the_same_file() -> None:
    data = [{"x": normal(1, 16, 8, 8, seed=i)} for i in range(12)]
    first = onnxq.quantize(model(), data, target=ORT)
    again = onnxq.quantize(model(), data, target=ORT, stats=first.stats)
    assert again.model.SerializeToString(deterministic=True) == first.model.SerializeToString(deterministic=True)


def test_statistics_without_data_leave_the_biases_and_say_so() -> None:
    data = [{"x": normal(1, 16, 8, 8, seed=i)} for i in range(12)]
    first = onnxq.quantize(model(), data, target=ORT, recover="none")
    again = onnxq.quantize(model(), target=ORT, stats=first.stats)
    given = onnxq.quantize(model(), data, target=ORT, stats=first.stats)
    assert again.model.graph != given.model.graph
    assert not any("no recovery" in note for note in given.report.notes)
    assert "no recovery of accuracy (reconstruct): that takes a few samples, data= (--data)" in again.report.notes
    recovered = [made.report.recovery for made in (first, again, given)]
    assert recovered == [(), ("level",), ("level", "reconstruct")]
    product = model_of("(float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }", w=normal(64, 64))
    assert onnxq.quantize(product, mode="dynamic", target=ORT).report.recovery is None, "the mode has no such steps"


# ---- where things are read from and written to ---------------------------------------------------------------------


def with_external_data(folder: Path, shift: float = 0.0, location: str = "weights.bin") -> Path:
    """The model of this file in `folder`, its weights beside it."""
    folder.mkdir()
    given = model()
    for tensor in given.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(shift), tensor.name)
        )
    path = folder / "m.onnx"
    onnx.save(given, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


@pytest.mark.parametrize("target", [ORT, "openvino"])
def test_verify_reads_the_weights_beside_each_model(tmp_path: Path, target: str) -> None:
    """Both models keep weights in a file of one name; those beside the float model would give other outputs."""
    made = onnxq.quantize(model(), data(4), target=target)
    folder = tmp_path / "int8"
    folder.mkdir()
    path = folder / "q.onnx"
    onnx.save(made.model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    right = onnxq.verify(model(), path, data(2), target=target)
    # As many bytes as anything asks for, all wrong.
    source = with_external_data(tmp_path / "float")
    report = onnxq.verify(source, path, data(2), target=target)
    assert report.worst_sqnr_db == pytest.approx(right.worst_sqnr_db)
    (folder / "weights.bin").unlink()
    with pytest.raises(onnxq.ModelError):
        onnxq.verify(source, path, data(2), target=target)


def test_verify_of_a_result_whose_weights_are_beside_the_float_model(tmp_path: Path) -> None:
    source = with_external_data(tmp_path / "float")
    assert onnxq.verify(source, onnxq.quantize(source, data(4), target=ORT).model, data(2), target=ORT)


def test_verify_finds_that_the_file_was_made_from_another_model(result: onnxq.QuantizeResult) -> None:
    name = "made from this float model"
    (check,) = [c for c in onnxq.verify(model(), result.model, data(2), target=ORT).checks if c.name == name]
    assert (check.passed, check.detail) == (True, f"the file names the same digest, {result.plan.digest[:12]}")
    other = model_of(TEXT, w=normal(16, 16, 3, 3), v=normal(16, 16, 3, 3, seed=2), b=normal(16))
    report = onnxq.verify(other, result.model, data(2), target=ORT)
    (check,) = [c for c in report.failed_checks if c.name == name]
    assert check.detail.startswith(
        f"the file says it was made from another float model: digest {result.plan.digest[:12]}, not "
    )
    stripped = ModelProto()
    stripped.CopyFrom(result.model)
    del stripped.metadata_props[:]
    assert name not in [c.name for c in onnxq.verify(model(), stripped, data(2), target=ORT).checks]


@pytest.mark.parametrize("force", [False, True])
def test_data_are_never_written_over(tmp_path: Path, force: bool) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, x=normal(4, 16, 8, 8))
    before = path.read_bytes()
    with pytest.raises(
        onnxq.ConfigError, match=r"this is the file given as data=, which is read\nHint: .*output= \(-o\)"
    ):
        onnxq.quantize(model(), path, target=ORT, output=str(path), force=force)
    assert path.read_bytes() == before


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight-only"])
def test_a_float_model_is_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(model(), "m.onnx")
    before = Path("m.onnx").read_bytes()
    Path("link.onnx").symlink_to("m.onnx")
    for source, output in (("m.onnx", "m.onnx"), ("m.onnx", tmp_path / "m.onnx"), ("m.onnx", "link.onnx")):
        with pytest.raises(onnxq.ConfigError, match="this is the file given as model=, which is read"):
            onnxq.quantize(source, data(4), target=ORT, mode=mode, output=output, force=True)
    assert Path("m.onnx").read_bytes() == before


def test_weights_of_a_float_model_are_never_written_over(tmp_path: Path) -> None:
    source = with_external_data(tmp_path / "float", location="q.onnx.data")
    with pytest.raises(onnxq.ConfigError, match=r"the file 'q.onnx.data' beside it holds weights of the model"):
        onnxq.quantize(source, data(4), target=ORT, output=source.with_name("q.onnx"), force=True)
    onnx.load(source)


def test_statistics_are_taken_from_their_file(tmp_path: Path) -> None:
    stats, path = onnxq.calibrate(model(), data(4), target=ORT), tmp_path / "m.stats"
    stats.save(path)
    made = [onnxq.quantize(model(), stats=given, target=ORT).model for given in (stats, path, str(path))]
    assert made[0] == made[1] == made[2]
    ranked = onnxq.sensitivity(model(), data(4), target=ORT, stats=path)
    assert ranked.layers == onnxq.sensitivity(model(), data(4), target=ORT, stats=stats).layers
    with pytest.raises(onnxq.ArtifactError):
        onnxq.quantize(model(), stats=tmp_path / "none.stats", target=ORT)


def test_a_small_result_is_one_file_wherever_the_float_weights_were(tmp_path: Path) -> None:
    output = tmp_path / "q.onnx"
    made = onnxq.quantize(with_external_data(tmp_path / "float"), data(4), target=ORT, output=output)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["float", "q.onnx"]
    assert made.report.output_data_path is None
    assert made.report.size_after_bytes == output.stat().st_size
    files = [*(tmp_path / "float").iterdir()]
    assert made.report.size_before_bytes == sum(file.stat().st_size for file in files)
    assert len(files) == 2
    inline = onnxq.quantize(model(), data(4), target=ORT)
    assert {t.name: t.raw_data for t in onnx.load(output).graph.initializer} == {
        t.name: t.raw_data for t in inline.model.graph.initializer
    }


def test_the_file_of_large_weights_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "_INLINE_LIMIT_BYTES", 1000)
    output = tmp_path / "q.onnx"
    report = onnxq.quantize(model(), data(4), target=ORT, output=output).report
    assert report.output_data_path == str(output) + ".data"
    assert f"{output} and {output}.data" in report.to_text(width=1000)
    assert f"{output} and {output}.data" in report.to_html()


def test_the_report_tells_samples_of_statistics_from_samples_of_the_data(result: onnxq.QuantizeResult) -> None:
    again = onnxq.quantize(model(), data(4), target=ORT, stats=result.stats)
    assert "9 samples in the given statistics, errors measured on 1 sample from list" in again.report.to_text(width=200)


def test_tensors_that_got_max_are_in_the_notes() -> None:
    sparse = [{"x": np.where(np.arange(1024) == 5, 5.0, 0.0).reshape(1, 16, 8, 8).astype(np.float32)} for _ in range(4)]
    made = onnxq.quantize(model(), sparse, target=ORT, method="percentile", percentile=99.0)
    assert (
        "method percentile 99 % would have cut off the signal of 1 tensor, first 'x'; it got max" in made.report.notes
    )


def test_one_string_excludes_like_a_list_of_one() -> None:
    one, several = onnxq.plan(model(), target=ORT, exclude="c1"), onnxq.plan(model(), target=ORT, exclude=["c1"])
    assert one == several
    ops = onnxq.plan(model(), target=ORT, exclude_ops="Relu"), onnxq.plan(model(), target=ORT, exclude_ops=["Relu"])
    assert ops[0] == ops[1]


def test_the_same_float_model_saved_again_is_not_another_one() -> None:
    result = onnxq.quantize(model(), data(), target=ORT)
    again = model()
    again.metadata_props.add(key="author", value="somebody else")
    checks = {check.name: check for check in onnxq.verify(again, result.model, data(), target=ORT).checks}
    assert checks["made from this float model"].passed
    assert "another float model" in checks["made from this float model"].detail


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight-only"])
def test_a_choice_of_nodes_that_leaves_none_is_an_error_of_the_choice(mode: str) -> None:
    with pytest.raises(onnxq.ConfigError, match="nothing is left to quantize: every node is excluded by the user") as e:
        onnxq.quantize(model(), target=ORT, mode=mode, exclude="*")
    assert e.value.exit_code == 2
    assert "(--exclude, --exclude-op, --exclude-between)" in str(e.value.hint)


def test_a_result_in_place_of_a_model_is_told_which_part_is_meant() -> None:
    made = onnxq.quantize(model(), data(2), target=ORT)
    for call in (onnxq.verify, onnxq.evaluate):
        with pytest.raises(onnxq.ModelError, match=r"not QuantizeResult\nHint: .*: result\.model"):
            call(model(), made, data(2))


def test_data_that_statistics_are_of_is_known_again() -> None:
    samples = data(8)
    stats = onnxq.calibrate(model(), samples, target=ORT)
    said = "The given statistics are of the same data: errors are measured on inputs that were calibrated on"
    for given, seen in ((samples, True), (list(reversed(samples)), True), (data(9), False)):
        report = onnxq.quantize(model(), given, target=ORT, stats=stats).report
        assert any(text.startswith(said) for text in report.warnings) is seen
    some = onnxq.quantize(model(), data(9), target=ORT, stats=stats).report
    assert any(text.startswith("The given statistics hold 1 of the 2 samples measured on: ") for text in some.warnings)
    none = onnxq.quantize(model(), data(20)[8:], target=ORT, stats=stats).report
    assert not any("iven statistics" in text for text in none.warnings)
    first = onnxq.quantize(model(), samples, target=ORT)
    held_out = onnxq.quantize(model(), samples, target=ORT, stats=first.stats).report
    assert not any(text.startswith(said) for text in held_out.warnings)
