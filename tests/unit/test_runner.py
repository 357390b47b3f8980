"""The runner: statistics of tapped tensors equal those of the arrays themselves, and every failure is named."""

from __future__ import annotations

import itertools
import threading
import weakref

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxq.calibration import counting, runner
from onnxq.calibration.runner import CollectOptions, collect
from onnxq.calibration.statistics.table import TensorStats
from onnxq.calibration.taps import run_queue
from onnxq.data.batches import Batch
from onnxq.data.inputs import InputSpecs
from onnxq.data.sources import open_data
from onnxq.errors import ConfigError, DataError, InternalError, ModelError
from onnxq.graph.view import Graph
from onnxq.inference import session
from onnxq.inference.outputs import with_outputs
from onnxq.inference.session import make_session

RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 4)).astype(np.float32)
W = RNG.standard_normal((4, 5)).astype(np.float32)


def model(nodes, initializers=None, *, shape=("N", 4), outputs=("y",)):
    """A model over the float input `x`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (initializers or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op.lower()}_{outputs}", **attributes)


MLP = model([node("MatMul", "x w", "m"), node("Relu", "m", "r"), node("Exp", "r", "y")], {"w": W})


def batches(graph, data=X, **options):
    return open_data(data, inputs=InputSpecs.from_graph(graph), **options)


# ---- what is collected -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, 12])
def test_statistics_are_those_of_the_tensors(batch_size):
    graph = Graph(MLP)
    table = collect(graph, ["r", "x", "m"], batches(graph, batch_size=batch_size), digest="d")
    assert list(table) == ["x", "m", "r"]  # the order of the model
    assert (table.digest, table.samples) == ("d", 12)
    assert table["x"] == TensorStats.of(X)
    # The model's own arithmetic is the reference: the same session options, all samples at once.
    tapped = make_session(with_outputs(graph, ["m", "r"]).to_model())
    rows = [tapped.run({"x": X[i : i + batch_size]}) for i in range(0, 12, batch_size)]
    for i, name in enumerate(["m", "r"]):
        assert table[name] == TensorStats.of(np.concatenate([row[i] for row in rows]))


def test_fingerprint_belongs_to_the_data():
    graph = Graph(MLP)
    one = collect(graph, ["m"], batches(graph), digest="d")
    assert (
        collect(graph, ["r"], batches(graph, X[::-1], batch_size=4), digest="d").data_fingerprint
        == one.data_fingerprint
    )
    assert collect(graph, ["m"], batches(graph, X[1:]), digest="d").data_fingerprint != one.data_fingerprint


def test_inputs_alone_need_no_session(monkeypatch):
    monkeypatch.setattr(runner, "make_session", lambda *_, **__: pytest.fail("a session was made"))
    graph = Graph(MLP)
    assert collect(graph, ["x"], batches(graph), digest="d")["x"] == TensorStats.of(X)


def test_integer_taps_are_counted():
    graph = Graph(model([node("Shape", "x", "s"), node("Relu", "x", "y")]))
    assert collect(graph, ["s"], batches(graph), digest="d")["s"].rmax == 4


def test_nodes_behind_the_last_tap_do_not_run_and_the_graph_is_left_alone():
    graph = Graph(MLP)
    before = graph.to_model().SerializeToString(deterministic=True)
    assert [n.op_type for n in with_outputs(graph, ["m"]).nodes] == ["MatMul"]
    collect(graph, ["m"], batches(graph), digest="d")
    assert graph.to_model().SerializeToString(deterministic=True) == before


def test_batches_of_many_shapes():
    graph = Graph(model([node("Relu", "x", "y")], shape=("N", "L")))
    feeds = [{"x": RNG.standard_normal((n, length)).astype(np.float32)} for n, length in [(1, 3), (2, 7), (3, 1)]]
    table = collect(graph, ["y"], batches(graph, feeds), digest="d")
    assert table["y"] == TensorStats.of(np.concatenate([np.maximum(f["x"], 0).ravel() for f in feeds]))
    assert table.samples == 6


def test_progress_is_told_in_the_calling_thread():
    graph = Graph(MLP)
    seen = []
    collect(
        graph,
        ["m"],
        batches(graph, batch_size=5),
        digest="d",
        progress=lambda p: seen.append((p, threading.get_ident())),
    )
    assert [(p.batches, p.samples, p.expected_samples) for p, _ in seen] == [(1, 5, 12), (2, 10, 12), (3, 12, 12)]
    assert {thread for _, thread in seen} == {threading.get_ident()}
    assert all(a.elapsed_s <= b.elapsed_s for (a, _), (b, _) in itertools.pairwise(seen))


def test_few_batches_exist_at_once(monkeypatch):
    """Where batches are large, one waits beside those that are run and the one that is made."""
    alive = weakref.WeakSet()
    most = 0
    original = Batch.fingerprint

    def fingerprint(self):
        nonlocal most
        alive.add(self)
        most = max(most, len(alive))
        return original(self)

    def feeds():
        for i in range(12):
            yield {"x": X[i : i + 1]}

    monkeypatch.setattr(run_queue, "WAITING_BYTES", 0)
    monkeypatch.setattr(run_queue, "MOST_RUNS", 1)
    monkeypatch.setattr(Batch, "fingerprint", fingerprint)
    monkeypatch.setattr(Batch, "__hash__", object.__hash__)
    graph = Graph(MLP)
    collect(graph, ["m"], batches(graph, feeds), digest="d", options=CollectOptions(threads=2))
    at_once, waiting, made = 2, 1, 1
    assert most <= at_once + waiting + made


# ---- what stops it ---------------------------------------------------------------------------------------------------


def test_nan_names_the_tensor_where_it_began_its_node_and_the_batch():
    # log of a negative number is NaN; the tap lies two nodes behind it.
    graph = Graph(model([node("Log", "x", "l"), node("Relu", "l", "r"), node("Neg", "r", "y")]))
    data = np.abs(X)
    data[7, 2] = -1
    with pytest.raises(DataError) as caught:
        collect(graph, ["x", "y"], batches(graph, data), digest="d")
    assert str(caught.value) == (
        "calibration batch 8: tensor 'l', computed by Log node 'log_l', holds NaN\n"
        "Hint: remove this sample or check the model on it; "
        "nonfinite='ignore' (--nonfinite ignore) leaves such values out."
    )


def test_inf_names_inf():
    graph = Graph(model([node("Exp", "x", "y")]))
    with pytest.raises(DataError, match=r"^calibration batch 1: tensor 'y', computed by Exp node 'exp_y', holds Inf\n"):
        collect(graph, ["y"], batches(graph, X + 1000), digest="d")


def test_a_mask_of_minus_inf_is_no_fault_of_the_nan_behind_it():
    nodes = [
        node("Where", "c x i", "masked"),
        node("Softmax", "masked", "s"),
        node("Log", "x", "l"),
        node("Add", "s l", "y"),
    ]
    graph = Graph(model(nodes, {"c": np.array([True, True, True, False]), "i": np.float32(-np.inf)}))
    with pytest.raises(DataError, match=r"tensor 'l', computed by Log node 'log_l', holds NaN"):
        collect(graph, ["y"], batches(graph), digest="d")


def test_minus_inf_that_hides_scores_is_left_out():
    nodes = [node("Where", "c x i", "masked"), node("Softmax", "masked", "y")]
    graph = Graph(model(nodes, {"c": np.array([True, True, True, False]), "i": np.float32(-np.inf)}))
    stats = collect(graph, ["masked"], batches(graph), digest="d")["masked"]
    assert (stats.nonfinite, stats.count) == (X.size // 4, X.size)
    assert (stats.rmin, stats.rmax) == (X[:, :3].min(), X[:, :3].max())
    with pytest.raises(DataError, match=r"input 'x' holds NaN"):
        collect(graph, ["x", "masked"], batches(graph, np.where(X.max() == X, np.nan, X)), digest="d")


def test_a_mask_of_minus_inf_that_would_be_quantized():
    nodes = [node("Where", "c x i", "masked"), node("Relu", "masked", "r"), node("Softmax", "masked", "s")]
    nodes.append(node("Add", "r s", "y"))
    graph = Graph(model(nodes, {"c": np.array([True, True, True, False]), "i": np.float32(-np.inf)}))
    with pytest.raises(DataError) as caught:
        collect(graph, ["masked"], batches(graph), digest="d")
    assert "tensor 'masked', computed by Where node 'where_masked', holds Inf\n" in str(caught.value)
    assert "keep what makes and reads it in float, exclude=['relu_r', 'softmax_s', 'where_masked'] (--exclude)" in str(
        caught.value
    )


def test_nonfinite_can_be_counted_instead():
    graph = Graph(model([node("Log", "x", "y")]))
    stats = collect(graph, ["y"], batches(graph), digest="d", options=CollectOptions(nonfinite="ignore"))["y"]
    assert stats.nonfinite == int((X < 0).sum())


def test_unknown_tap_is_a_bug():
    graph = Graph(MLP)
    with pytest.raises(InternalError, match=r"^cannot tap \['no', 'w'\]: neither an input nor the output of a node$"):
        collect(graph, ["w", "m", "no"], batches(graph), digest="d")


def test_an_error_in_the_statistics_comes_out(monkeypatch):
    def fail(*_):
        raise MemoryError("full")

    monkeypatch.setattr(counting.StatsBuilder, "add", fail)
    graph = Graph(MLP)
    with pytest.raises(MemoryError, match=r"^full$"):
        collect(graph, ["m"], batches(graph), digest="d")


def test_an_error_in_the_data_comes_out():
    def feeds():
        yield {"x": X[:1]}
        raise KeyboardInterrupt

    graph = Graph(MLP)
    with pytest.raises(KeyboardInterrupt):
        collect(graph, ["m"], batches(graph, feeds), digest="d")


def test_a_node_that_fails_is_named():
    graph = Graph(model([node("Reshape", "x s", "y")], {"s": np.array([7, -1])}))
    with pytest.raises(DataError) as caught:
        collect(graph, ["y"], batches(graph), digest="d")
    text = str(caught.value)
    assert text.startswith("calibration batch 1: onnxruntime cannot run the model: Reshape node 'reshape_y': ")
    assert "Input shape:{1,4}, requested shape:{7,-1} (fed 'x' float32 (1, 4))\nHint: check the shapes" in text
    assert "onnxruntime_src" not in text
    assert "ONNXRuntimeError" not in text


# ---- sessions --------------------------------------------------------------------------------------------------------


def test_a_model_that_does_not_load():
    broken = model([node("NoSuchOp", "x", "y")])
    with pytest.raises(ModelError, match=r"^onnxruntime cannot load the model: This is an invalid model\..*NoSuchOp"):
        make_session(broken)


def test_unknown_provider():
    with pytest.raises(ConfigError) as caught:
        make_session(MLP, providers=["FooExecutionProvider"])
    assert str(caught.value).startswith(
        "onnxruntime has no execution provider 'FooExecutionProvider' here\nHint: providers= (--ep) can name "
    )


def test_optimised_model_is_written_and_optimisers_can_be_left_out(tmp_path):
    twice = model([node("Identity", "x", "a"), node("Relu", "a", "y")])
    for optimise, kept in ((True, ["Relu"]), (False, ["Identity", "Relu"])):
        made = make_session(twice, optimise=optimise, optimised_model_path=tmp_path / "o.onnx", threads=1)
        assert [n.op_type for n in onnx.load(tmp_path / "o.onnx").graph.node] == kept
        assert made.providers == ("CPUExecutionProvider",)
    make_session(twice, optimised_model_path=tmp_path / "o.onnx", disabled_optimizers=["EliminateIdentity"])
    assert [n.op_type for n in onnx.load(tmp_path / "o.onnx").graph.node] == ["Identity", "Relu"]


@pytest.fixture
def external(tmp_path):
    path = tmp_path / "m.onnx"
    model = onnx.ModelProto()
    model.CopyFrom(MLP)  # saving with external data empties the message
    onnx.save(model, str(path), save_as_external_data=True, size_threshold=0, location="w.bin")
    return path


@pytest.mark.parametrize("version", [None, (1, 18)])
def test_external_data(external, monkeypatch, version):
    if version:
        monkeypatch.setattr(session, "_version", lambda: version)
    graph = Graph(onnx.load(str(external), load_external_data=False), external.parent)
    expected = collect(Graph(MLP), ["m"], batches(graph), digest="d")
    assert collect(graph, ["m"], batches(graph), digest="d")["m"] == expected["m"]
    (y,) = make_session(external).run({"x": X})
    assert y.shape == (12, 5)


def test_external_data_that_is_gone(external, monkeypatch):
    monkeypatch.setattr(session, "_version", lambda: (1, 18))
    (external.parent / "w.bin").unlink()
    with pytest.raises(ModelError, match=r"external data cannot be read: "):
        make_session(onnx.load(str(external), load_external_data=False), base_dir=external.parent)


def test_models_beyond_the_message_limit_go_through_a_folder(monkeypatch):
    monkeypatch.setattr(session, "_MESSAGE_LIMIT", 10)
    before = MLP.SerializeToString(deterministic=True)
    made = make_session(MLP)
    assert made.run({"x": X})[0].shape == (12, 5)
    assert MLP.SerializeToString(deterministic=True) == before
