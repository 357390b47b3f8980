"""Labels, metrics and the evaluation of whole models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxq
from onnxq.errors import ConfigError, DataError
from onnxq.evaluation.labels import as_classes, check_count, label_key, load_labels
from onnxq.evaluation.metrics import TopK, metric_from
from onnxq.numerics import metrics as whole
from tests.graphs import model_of, normal

CLASSES = 6
FLOAT = model_of("(float[n, 8] x) => (float[n, 6] y) { [fc] y = MatMul(x, w) }", w=normal(8, CLASSES, seed=1))
WORSE = model_of(
    "(float[n, 8] x) => (float[n, 6] y) { [fc] y = MatMul(x, w) }",
    w=normal(8, CLASSES, seed=1) + 0.4 * normal(8, CLASSES, seed=2),
)
X = normal(200, 8, seed=3)
LOGITS = X @ normal(8, CLASSES, seed=1)
LABELS = LOGITS.argmax(1)


def top(k: int, logits: np.ndarray, labels: list[int]) -> list[float]:
    return TopK(k).measure({"y": logits}, {}, np.array(labels), len(logits), "batch 1")[:, 0].tolist()


# ---- metrics -----------------------------------------------------------------------------------------------------


def test_top_k_is_what_a_sort_says() -> None:
    labels = np.random.default_rng(0).integers(0, CLASSES, len(X))
    ranked = np.argsort(-LOGITS, axis=1, kind="stable")
    for k in (1, 5):
        assert top(k, LOGITS, labels.tolist()) == (ranked[:, :k] == labels[:, None]).any(1).astype(float).tolist()


def test_ties_rank_by_class_as_argmax_has_it() -> None:
    tied = np.zeros((3, 4), np.float32)
    assert top(1, tied, [0, 1, 3]) == [1.0, 0.0, 0.0]


def test_nan_is_never_right() -> None:
    assert top(1, np.array([[np.nan, 1.0], [1.0, np.nan]]), [0, 0]) == [0.0, 0.0]


def test_classes_and_trailing_axes_are_taken() -> None:
    assert top(1, np.array([1, 0]), [1, 1]) == [1.0, 0.0]
    assert top(1, np.array([[[[0.0]], [[2.0]]]]), [1]) == [1.0]


@pytest.mark.parametrize(
    ("output", "labels", "message"),
    [
        (np.zeros((2, 3)), [0, 3], "label 3 is out of range: output 'y' has 3 classes, 0 to 2"),
        (np.zeros((2, 3)), [-1, 0], "label -1 is out of range"),
        (
            np.zeros((2, 3, 4)),
            [0, 0],
            r"output 'y' is float64 \(2, 3, 4\) for 2 samples; top5 needs one score for each",
        ),
        (np.zeros(2), [0, 0], "top5 needs one score for each class"),
        (np.zeros((2, 3), np.int64), [0, 0], "top5 needs one score for each class"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(output: np.ndarray, labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        top(5, output, labels)


def test_cosine_and_sqnr_are_those_of_the_numerics() -> None:
    want, got = LOGITS[:7], LOGITS[:7] + 0.1 * normal(7, CLASSES, seed=9)
    cosine = metric_from("cosine").measure({"y": got}, {"y": want}, None, 7, "b")[:, 0]
    assert cosine == pytest.approx([whole.cosine(r, c) for r, c in zip(want, got, strict=True)], abs=1e-12)
    sqnr = metric_from("sqnr")
    assert sqnr.score(sqnr.measure({"y": got}, {"y": want}, None, 7, "b")) == pytest.approx(whole.sqnr_db(want, got))


def test_what_is_not_finite_counts_against_the_candidate() -> None:
    want, got = np.ones((2, 3)), np.array([[1.0, 1.0, np.nan], [1.0, 1.0, 1.0]])
    cosine, sqnr = metric_from("cosine"), metric_from("sqnr")
    assert cosine.measure({"y": got}, {"y": want}, None, 2, "b")[:, 0].tolist() == [0.0, 1.0]
    assert sqnr.score(sqnr.measure({"y": got}, {"y": want}, None, 2, "b")) == -np.inf


def test_masked_logits_that_are_infinite_in_both_count_as_equal() -> None:
    both = np.array([[1.0, -np.inf]])
    assert metric_from("cosine").measure({"y": both}, {"y": both}, None, 1, "b")[0, 0] == 1.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("top2", "unknown metric 'top2'"),
        ("python:f.py", r"no file or no function is named\nHint: write FILE\.py:FUNCTION in metric="),
        ("f.py", r"no file or no function is named\nHint: write FILE\.py:FUNCTION in metric="),
        ("python:absent.py:f", "there is no file 'absent.py'"),
    ],
)
def test_unknown_metrics_are_refused(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        metric_from(given)


def test_a_function_of_the_user_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import numpy as np\ndef f(outputs, labels):\n    return outputs['y'].max(1)\nbroken = 3\n")
    found = onnxq.evaluate(FLOAT, data=X, metric=f"python:{file}:f")
    assert found.models[0].score == pytest.approx(LOGITS.max(1).mean(), rel=1e-5)
    assert metric_from(f"{file}:f").name == f"{file}:f"
    with pytest.raises(ConfigError, match="the file defines no function 'broken'"):
        metric_from(f"python:{file}:broken")
    file.write_text("1/0")
    with pytest.raises(ConfigError, match="the file cannot be run: ZeroDivisionError"):
        metric_from(f"python:{file}:f")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda o, _: o["y"].mean(), r"the metric gave shape \(\), expected 10 finite numbers, one for each sample"),
        (lambda o, _: o["y"][:, 0] * np.nan, "the metric gave NaN or Inf"),
        (
            lambda o, _: o["z"],
            r"the metric failed: KeyError: 'z'\nHint: there are no labels: pass labels= \(--labels\)",
        ),
    ],
)
def test_functions_that_give_no_scores_are_refused(function, message: str) -> None:
    with pytest.raises(DataError, match=message):
        onnxq.evaluate(FLOAT, data=X, metric=function, batch_size=10)


def test_a_function_that_fails_with_labels_is_to_be_mended() -> None:
    with pytest.raises(DataError, match=r"KeyError: 'z'\nHint: mend the function in metric= \(--metric\)"):
        onnxq.evaluate(FLOAT, data=X, labels=LABELS, metric=lambda o, _: o["z"])


def test_the_cosine_of_single_numbers_is_refused() -> None:
    # cos(r, c) of two numbers is their sign: 1.00000 for a model that is off by half.
    model = model_of("(float[n, 8] x) => (float[n, 1] y) { [fc] y = MatMul(x, w) }", w=normal(8, 1, seed=1))
    with pytest.raises(ConfigError, match="'y' is one number for each sample, whose cosine is 1"):
        onnxq.evaluate(model, model, X, metric="cosine")
    assert onnxq.evaluate(model, model, X, metric="sqnr").models[1].score == np.inf


# ---- labels ------------------------------------------------------------------------------------------------------


def test_labels_from_every_kind_of_file(tmp_path: Path) -> None:
    wanted = [2, 0, 1]
    np.save(tmp_path / "l.npy", np.array(wanted)[:, None])
    np.savez(tmp_path / "one.npz", anything=wanted)
    np.savez(tmp_path / "two.npz", labels=wanted, other=[1])
    np.savez(tmp_path / "keyed.npz", a=wanted, b=[1])
    (tmp_path / "l.txt").write_text("2\n0\n\n1\n")
    (tmp_path / "l.csv").write_text("class\n2\n0\n1\n")
    for name in ("l.npy", "one.npz", "two.npz", "keyed.npz:a", "l.txt", "l.csv"):
        found = load_labels(str(tmp_path / name), None, limit=None)
        assert found is not None
        assert as_classes(found, "top1").tolist() == wanted
    assert as_classes(np.eye(3)[wanted], "top1").tolist() == wanted
    assert load_labels(wanted, None, limit=None).tolist() == wanted  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", [(1,), (4,), (2, 3)])
def test_a_function_of_the_user_gets_labels_as_they_are(shape: tuple[int, ...], tmp_path: Path) -> None:
    # Points, masks, tags of tokens; and (n, 1) beside outputs of that shape, which (n,) would make (n, n) of.
    truth = normal(200, *shape, seed=5)
    seen = []

    def keep(_outputs, labels):
        seen.append(labels)
        return np.zeros(len(labels))

    np.savez(tmp_path / "d.npz", x=X, labels=truth)
    np.save(tmp_path / "truth.npy", truth)
    for data, labels in ((tmp_path / "d.npz", None), ({"x": X}, truth), ({"x": X}, tmp_path / "truth.npy")):
        seen.clear()
        onnxq.evaluate(FLOAT, data=data, labels=labels, metric=keep, batch_size=64)
        assert [len(part) for part in seen] == [64, 64, 64, 8]
        assert np.array_equal(np.concatenate(seen), truth)
    made = onnxq.quantize(
        FLOAT,
        {"x": X},
        target="ort-x64-vnni",
        eval_data={"x": X},
        labels=truth,
        metric=keep,
        max_drop=1,
        placement="full",
    )
    assert made.search is not None
    assert made.search.met


def test_labels_of_several_files_have_one_shape(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X[:2], labels=np.zeros((2, 3)))
    np.savez(tmp_path / "b.npz", x=X[:2], labels=np.zeros((2, 4)))
    with pytest.raises(DataError, match=r"'labels' has samples of different shapes in the files, such as \(3,\) and"):
        onnxq.evaluate(FLOAT, data=tmp_path, metric=lambda _, labels: np.zeros(len(labels)))


def test_labels_beside_the_samples_are_found_and_not_fed(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X, truth=LABELS)
    path = tmp_path / "d.npz"
    assert label_key("truth", path) == "truth"
    assert label_key(None, path) is None
    found = onnxq.evaluate(FLOAT, data=path, labels="truth")
    assert (found.metric, found.models[0].score, found.samples, found.notes) == ("top1", 1.0, 200, ())
    assert onnxq.evaluate(FLOAT, data={"x": X, "labels": LABELS}).models[0].score == 1.0


def test_labels_of_a_folder_of_files_follow_their_order(tmp_path: Path) -> None:
    for i, part in enumerate(np.split(np.arange(200), 4)):
        np.savez(tmp_path / f"{i}.npz", x=X[part], labels=LABELS[part])
    assert onnxq.evaluate(FLOAT, data=tmp_path, batch_size=32).models[0].score == 1.0


def pictures(folder: Path, names: list[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (4, 4)).save(folder / name)


def test_class_folders_are_classes(tmp_path: Path) -> None:
    pictures(tmp_path, ["cat/a.png", "cat/b.png", "ant/c.png", "dog/d.png"])
    assert load_labels("folders", tmp_path, limit=None).tolist() == [0, 1, 1, 2]  # type: ignore[union-attr]
    assert load_labels(None, tmp_path, limit=2).tolist() == [0, 1]  # type: ignore[union-attr]


def test_folders_with_numbers_are_those_classes(tmp_path: Path) -> None:
    pictures(tmp_path, ["7/a.png", "12/b.png"])
    assert load_labels("folders", tmp_path, limit=None).tolist() == [12, 7]  # type: ignore[union-attr]


def test_csv_finds_images_by_name(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", ["a.png", "sub/b.png", "c.png"])
    table = tmp_path / "labels.csv"
    table.write_text("file,class\nc.png,3\nsub/b.png,2\na,1\nunused.png,9\n")
    assert load_labels(table, tmp_path / "photos", limit=None).tolist() == [1, 3, 2]  # type: ignore[union-attr]
    table.write_text("a.png,1\n")
    with pytest.raises(DataError, match=r"2 of 3 images are not in the file, first '.*c\.png'"):
        load_labels(table, tmp_path / "photos", limit=None)
    with pytest.raises(DataError, match="labels from folders need images that lie in one folder for each class"):
        load_labels("folders", tmp_path / "photos", limit=None)


def test_labels_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "keyed.npz", a=[1], b=[1])
    (tmp_path / "bad.npy").write_bytes(b"nonsense")
    (tmp_path / "wide.csv").write_text("a,b,c\n")
    (tmp_path / "empty.csv").write_text("\n")
    (tmp_path / "labels.xml").write_text("<a/>")
    cases = {
        "absent.npy": "no such file",
        "keyed.npz": "the file has no array 'labels'; it has 'a', 'b'",
        "keyed.npz:c": "the file has no array 'c'",
        "bad.npy": r"not a readable \.npy file",
        "wide.csv": "expected one column",
        "empty.csv": "the file is empty",
        "labels.xml": r"\.xml is no known kind of labels",
    }
    for name, message in cases.items():
        with pytest.raises((DataError, ConfigError), match=message):
            load_labels(str(tmp_path / name), None, limit=None)
    with pytest.raises(ConfigError, match="'truth' is neither a file of labels nor an array of the data"):
        load_labels("truth", X, limit=None)
    with pytest.raises(ConfigError, match=r"'truht' is neither .* the data, which holds 'truth', 'x'"):
        load_labels("truht", {"x": X, "truth": np.zeros(len(X))}, limit=None)
    with pytest.raises(DataError, match=r"labels have shape \(\), expected one for each sample"):
        load_labels(np.float32(5), None, limit=None)
    with pytest.raises(DataError, match=r"labels have shape \(2, 2\); top1 needs a class number for each sample"):
        as_classes(np.full((2, 2), 5), "top1")
    with pytest.raises(DataError, match="label cat is no class number, which top1 needs"):
        as_classes(np.array(["cat"]), "top1")
    with pytest.raises(DataError, match=r"label 0\.5 is no class number"):
        as_classes(np.array([1.0, 0.5]), "top1")


@pytest.mark.parametrize(
    ("count", "limited", "fits"), [(5, False, True), (6, False, False), (6, True, True), (4, True, False)]
)
def test_labels_are_counted(count: int, limited: bool, fits: bool) -> None:
    if fits:
        check_count(np.zeros(count), 5, limited=limited)
    else:
        with pytest.raises(DataError, match=f"{count} labels for 5 samples"):
            check_count(np.zeros(count), 5, limited=limited)


def test_lengths_that_differ_are_found_before_or_behind_the_run() -> None:
    for data in (X, lambda: iter([{"x": X}])):
        for labels, message in (
            (LABELS[:-1], "199 labels for 200 samples"),
            ([*LABELS, 0], "201 labels for 200 samples"),
        ):
            with pytest.raises(DataError, match=message):
                onnxq.evaluate(FLOAT, data=data, labels=labels)


# ---- whole evaluations -------------------------------------------------------------------------------------------


def test_models_are_compared_on_the_same_samples() -> None:
    found = onnxq.evaluate(FLOAT, WORSE, X, labels=LABELS, batch_size=32)
    wrong = int(((X @ onnx.numpy_helper.to_array(WORSE.graph.initializer[0])).argmax(1) != LABELS).sum())
    (only,) = found.comparisons
    assert [m.score for m in found.models] == pytest.approx([1.0, 1 - wrong / 200])
    assert (only.only_baseline, only.only_candidate, only.verdict) == (wrong, 0, "worse")
    assert only.difference == pytest.approx(-wrong / 200)
    assert "worse" in found.to_text()
    document = json.loads(found.to_json())
    assert document["schema"] == "onnxq.evaluation/1"
    assert document["comparisons"][0]["shown"] is True


def test_no_difference_is_called_that() -> None:
    nearly = onnx.ModelProto()
    nearly.CopyFrom(FLOAT)
    weight = onnx.numpy_helper.to_array(FLOAT.graph.initializer[0]) + 0.002
    nearly.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight.astype(np.float32), "w"))
    found = onnxq.evaluate(FLOAT, [nearly, WORSE], X, labels=LABELS)
    assert [(c.baseline, c.candidate) for c in found.comparisons] == [
        ("float", "quantized 1"), ("float", "quantized 2"), ("quantized 1", "quantized 2"),
    ]  # fmt: skip
    assert found.comparisons[0].verdict == "no difference shown"
    assert "no difference shown" in found.to_text()


def right(outputs: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    return (outputs["y"].argmax(1) == labels).astype(float)


def half(outputs: dict[str, np.ndarray], labels: np.ndarray) -> np.ndarray:
    return np.full(len(labels), 0.5)


@pytest.mark.parametrize("candidate", [FLOAT.SerializeToString(), WORSE])
def test_a_metric_of_right_and_wrong_is_judged_like_top1(candidate) -> None:
    own = onnxq.evaluate(FLOAT, candidate, X[:16], labels=LABELS[:16], metric=right)
    top1 = onnxq.evaluate(FLOAT, candidate, X[:16], labels=LABELS[:16])
    assert own.comparisons == top1.comparisons
    assert own.models == top1.models
    assert own.comparisons[0].low < -0.1


def test_scores_that_never_vary_tell_no_interval() -> None:
    found = onnxq.evaluate(FLOAT, WORSE, X[:16], labels=LABELS[:16], metric=half)
    assert "+0.00000 (the same on every sample, which tells no interval): no difference shown" in found.to_text()
    assert "right only by" not in found.to_text()
    (only,) = json.loads(found.to_json())["comparisons"]
    assert (only["low"], only["high"], only["p_value"], only["test"]) == (None, None, 1.0, "sign test, exact")
    assert (found.models[0].low, found.models[0].high) == (-np.inf, np.inf)


def test_distances_from_float_compare_quantized_models_with_each_other() -> None:
    found = onnxq.evaluate(FLOAT, [WORSE, FLOAT.SerializeToString()], X, metric="sqnr")
    assert found.models[0].score == np.inf
    (only,) = found.comparisons
    assert (only.baseline, only.candidate, only.verdict) == ("quantized 1", "quantized 2", "better")
    json.loads(found.to_json())


def test_models_for_tensorrt_run_q_and_dq_as_written(tmp_path: Path) -> None:
    for target, run_as in (("tensorrt", "Q and DQ as written"), ("ort-x64-avx2", "onnxruntime, int8 kernels")):
        made = onnxq.quantize(wide(), normal(64, 32, seed=4), target=target).model
        found = onnxq.evaluate(wide(), made, normal(16, 32, seed=5))
        assert (found.metric, found.models[1].run_as) == ("sqnr", run_as)
        assert onnxq.evaluate(wide(), made, normal(4, 32), target="tensorrt").models[1].run_as == "Q and DQ as written"


def wide() -> onnx.ModelProto:
    return model_of("(float[n, 32] x) => (float[n, 32] y) { [fc] y = MatMul(x, w) }", w=normal(32, 32))


TWO = model_of(
    "(float[n, 8] x) => (float[n, 6] a, float[n, 6] b) { [fc] a = MatMul(x, w) [neg] b = Neg(a) }",
    w=normal(8, CLASSES, seed=1),
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": None}, "there are no samples to judge on"),
        ({"metric": "top1"}, "top1 needs labels"),
        ({"model": TWO}, "the model has 2 outputs: 'a', 'b'"),
        ({"model": TWO, "output": "c"}, "the model has no output 'c'; it has 'a', 'b'"),
        ({"quantized": TWO}, "quantized 1: the model has no output 'y'"),
        ({"quantized": WORSE, "labels": np.full(200, 7)}, "label 7 is out of range"),
    ],
)
def test_what_cannot_be_judged_is_refused(arguments: dict, message: str) -> None:
    given = {"model": FLOAT, "data": X} | arguments
    with pytest.raises((ConfigError, DataError), match=message):
        onnxq.evaluate(**given)


def test_an_output_can_be_chosen() -> None:
    assert onnxq.evaluate(TWO, data=X, labels=LABELS, output="a").models[0].score == 1.0
    assert onnxq.evaluate(TWO, data=X, labels=LABELS, output="b").models[0].score < 0.5


def test_labels_that_cannot_belong_are_suspected() -> None:
    found = onnxq.evaluate(FLOAT, data=X, labels=(LOGITS.argmin(1)))
    assert "check labels= (--labels), which may belong to other samples" in found.warnings[0]
    assert onnxq.evaluate(FLOAT, data=X, labels=LABELS).warnings == ()


def test_without_labels_scores_are_told_to_be_about_the_float_model() -> None:
    plain = onnxq.evaluate(FLOAT, WORSE, {"x": X})
    assert any(note.startswith("without labels, scores say how near each model is to float") for note in plain.notes)
    first = next(line for line in plain.to_text().splitlines() if line.startswith("float "))
    assert first.split() == ["float", "equal", "onnxruntime"]  # no interval of a model with itself
    asked = [
        onnxq.evaluate(FLOAT, WORSE, {"x": X}, metric="sqnr"),
        onnxq.evaluate(FLOAT, WORSE, {"x": X}, labels=LABELS),
    ]
    assert not any("without labels" in note for one in asked for note in one.notes)


def test_models_with_other_inputs_are_named() -> None:
    other = model_of("(float[n, 8] z) => (float[n, 6] y) { [fc] y = MatMul(z, w) }", w=normal(8, CLASSES, seed=1))
    with pytest.raises(DataError, match=r"'quantized 2' has an input 'z', the float model has 'x'\n"):
        onnxq.evaluate(FLOAT, [WORSE, other], {"x": X})


def test_progress_counts_samples() -> None:
    seen = []
    onnxq.evaluate(FLOAT, data=X, batch_size=100, progress=lambda now: seen.append((now.samples, now.expected_samples)))
    assert seen == [(0, 200), (100, 200)]
