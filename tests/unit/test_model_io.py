"""Models in and out: what is accepted, what is refused with which words, and files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper

from onnxq.errors import ConfigError, ModelError, UnsupportedModelError
from onnxq.graph import saving
from onnxq.graph.model import (
    get_metadata,
    is_quantized,
    load_graph,
    model_digest,
    quantized_nodes,
    save_model,
    set_metadata,
    upgrade_opset,
)
from onnxq.graph.opset import lower_opset
from onnxq.graph.view import Graph
from onnxq.passes.simplify.infer_shapes import InferShapes
from tests.graphs import computed, graph_of, model_of, normal, ops, random_feeds

TEXT = "(float[N,300] x) => (float[N,4] y) { t = MatMul(x, w) y = Relu(t) }"


@pytest.fixture
def model() -> ModelProto:
    return model_of(TEXT, w=normal(300, 4))


def saved_external(model: ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestLoad:
    def test_path_bytes_and_message_are_the_same_model(self, model: ModelProto, tmp_path: Path) -> None:
        onnx.save(model, tmp_path / "m.onnx")
        sources: list[Any] = [tmp_path / "m.onnx", str(tmp_path / "m.onnx"), model.SerializeToString(), model]
        digests = {model_digest(load_graph(source)) for source in sources} | {model_digest(model)}
        assert len(digests) == 1

    def test_the_digest_tells_models_apart(self, model: ModelProto) -> None:
        other = ModelProto()
        other.CopyFrom(model)
        other.graph.initializer[0].raw_data = normal(300, 4, seed=1).tobytes()
        renamed = ModelProto()
        renamed.CopyFrom(model)
        renamed.graph.node[1].op_type = "Sigmoid"
        assert len({model_digest(m) for m in (model, other, renamed)}) == 3

    @pytest.mark.parametrize(
        ("content", "message", "hint"),
        [
            (b"", "the file is empty", "may have been cut off"),
            (b"hello, world", "not an ONNX model, or it is cut off", "complete ONNX file"),
            (b"PK\x03\x04rest", "this is a zip archive", "torch.onnx.export"),
            (b"\x80\x02}q", "this is a Python pickle", "torch.onnx.export"),
            (b"\x1c\x00\x00\x00TFL3", "this is a TensorFlow Lite model", "tf2onnx"),
            (b"\x89HDF\r\n\x1a\n", "this is an HDF5 file", "tf2onnx"),
            (b"version https://git-lfs.github.com/spec/v1", "this is a Git LFS pointer", "git lfs pull"),
            (b'\x10\x00\x00\x00\x00\x00\x00\x00{"a"', "this is a safetensors file", "weights without a graph"),
            (b"GGUF\x03", "this is a GGUF file", "ONNX export"),
            (b"ftrt\x00", "this is a TensorRT engine", "built from"),
            (b"<!DOCTYPE html>", "this is an HTML page", "download the file itself"),
            (ModelProto(ir_version=8).SerializeToString(), "the model has no nodes", "complete ONNX file"),
        ],
    )
    def test_other_files(self, content: bytes, message: str, hint: str, tmp_path: Path) -> None:
        path = tmp_path / "m.onnx"
        path.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            load_graph(path)
        assert message in caught.value.message
        assert hint in (caught.value.hint or "")
        assert str(path) in (caught.value.where or "")

    def test_truncated(self, model: ModelProto) -> None:
        data = model.SerializeToString()
        with pytest.raises(ModelError, match=r"the model: .*cut off"):
            load_graph(data[: len(data) // 2])

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="there is no such file\nHint: check the model argument"):
            load_graph(tmp_path / "none.onnx")

    @pytest.mark.parametrize(
        ("name", "message"), [("a" * 300, "File name too long"), ("a\0b", "embedded null|there is no such file")]
    )
    def test_what_is_no_path(self, name: str, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            load_graph(f"{name}.onnx")

    def test_folders(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="this is a folder, not a file"):
            load_graph(tmp_path)
        (tmp_path / "saved_model.pb").touch()
        with pytest.raises(ModelError, match="this is a TensorFlow SavedModel"):
            load_graph(tmp_path)

    def test_unreadable_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "m.onnx").touch()

        def deny(_: Path) -> bytes:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "read_bytes", deny)
        with pytest.raises(ModelError, match="the file cannot be read: Permission denied"):
            load_graph(tmp_path / "m.onnx")

    def test_not_a_model_at_all(self) -> None:
        with pytest.raises(ModelError, match=r"a model is a path, bytes or an onnx.ModelProto, not int"):
            load_graph(3)  # type: ignore[arg-type]

    def test_versions(self, model: ModelProto) -> None:
        model.ir_version = 99
        with pytest.raises(ModelError, match="IR version 99 is newer than the installed onnx"):
            load_graph(model)
        model.ir_version = 2
        with pytest.raises(ModelError, match="IR version 2 is older than any supported one"):
            load_graph(model)
        model.ir_version = 8
        model.opset_import[0].version = 99
        with pytest.raises(ModelError, match="opset 99 is newer than the installed onnx"):
            load_graph(model)

    def test_invalid_model(self, model: ModelProto) -> None:
        model.graph.node[0].op_type = "NoSuchOperator"
        with pytest.raises(ModelError, match=r"(?s)this is not a valid ONNX model: .*NoSuchOperator"):
            load_graph(model)

    def test_old_models_list_their_weights_as_inputs(self, model: ModelProto) -> None:
        model.ir_version = 3
        model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [300, 4]))
        graph = load_graph(model)
        assert list(graph.inputs) == ["x"]
        computed(graph, {"x": normal(2, 300)})

    def test_an_output_that_is_listed_twice(self, model: ModelProto) -> None:
        model.graph.output.append(model.graph.output[0])
        with pytest.raises(ModelError, match=r"output 'y' is listed 2 times, and outputs are known by their names"):
            load_graph(model)

    def test_nodes_in_any_order(self, model: ModelProto) -> None:
        nodes = list(reversed(model.graph.node))
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        assert [node.op_type for node in load_graph(model).nodes] == ["MatMul", "Relu"]

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (
                "a = Relu(x) x = Identity(a)",
                r"tensor 'x' is defined twice: it is an input of the model, and the output",
            ),
            ("w = Relu(x)", r"tensor 'w' is defined twice: it is a constant, and the output of"),
            ("a = Relu(x) a = Abs(x)", r"tensor 'a' is defined twice: it is the output of"),
        ],
    )
    def test_tensors_that_are_made_twice(self, body: str, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            load_graph(model_of(f"(float[2] x) => (float[2] x) {{ {body} }}", w=normal(2)))

    def test_a_cycle(self) -> None:
        with pytest.raises(ModelError, match="the graph has a cycle"):
            load_graph(model_of("(float x) => (float y) { a = Add(x, b) b = Neg(a) y = Neg(b) }"))

    def test_functions_are_inlined(self) -> None:
        model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
            g (float[N] x) => (float[N] y) { y = own.twice(x) }
            <domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add(a, a) }""")
        assert ops(load_graph(model)) == {"Add": 1}


class TestSave:
    def test_round_trip(self, model: ModelProto, tmp_path: Path) -> None:
        save_model(model, tmp_path / "out.onnx")
        assert onnx.load(tmp_path / "out.onnx") == model
        assert names_in(tmp_path) == ["out.onnx"]

    def test_existing_file(self, model: ModelProto, tmp_path: Path) -> None:
        path = tmp_path / "out.onnx"
        path.write_bytes(b"old")
        with pytest.raises(ConfigError, match=r"the file exists\nHint: pass force=True \(--force\)"):
            save_model(model, path)
        assert path.read_bytes() == b"old"
        save_model(model, path, force=True)
        assert onnx.load(path) == model

    def test_no_place_for_a_file(self, model: ModelProto, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"the folder '.*none' does not exist"):
            save_model(model, tmp_path / "none" / "out.onnx")
        with pytest.raises(ConfigError, match="this is no place for a file: File name too long"):
            save_model(model, tmp_path / f"{'a' * 300}.onnx")
        with pytest.raises(ConfigError, match="this is a folder, not a file"):
            save_model(model, tmp_path)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ConfigError, match="this is not a regular file"):
            save_model(model, tmp_path / "pipe", force=True)
        with pytest.raises(ConfigError, match=r"ends in \.onnx\nHint: pass output='q\.bin\.onnx' \(-o\)"):
            save_model(model, tmp_path / "q.bin")

    @pytest.mark.parametrize("external", [False, True])
    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_a_failure_leaves_everything_as_it_was(
        self, model: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, *, external: bool
    ) -> None:
        if external:
            monkeypatch.setattr(saving, "_INLINE_LIMIT_BYTES", 1000)
        save_model(model, tmp_path / "out.onnx")
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        model.graph.initializer[0].raw_data = normal(300, 4, seed=1).tobytes()

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        replace = Path.replace
        if step == "fsync":
            monkeypatch.setattr(os, "fsync", full)
        else:
            # The last rename is the one of the new model itself; putting the old one back works.
            monkeypatch.setattr(
                Path,
                "replace",
                lambda s, t: full() if t.name == "out.onnx" and s.suffix == ".tmp" else replace(s, t),
            )
        with pytest.raises(ConfigError, match="the model cannot be written: No space left on device"):
            save_model(model, tmp_path / "out.onnx", force=True)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
        with pytest.raises(ConfigError):
            save_model(model, tmp_path / ("new.onnx" if step == "fsync" else "sub/out.onnx"), force=True)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before

    def test_a_failed_first_save_with_data_leaves_no_data(
        self, model: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(saving, "_INLINE_LIMIT_BYTES", 1000)
        link = os.link

        def fail_on_model(source: str, target: str, **options: Any) -> None:
            if target == "out.onnx":
                raise OSError(5, "Input/output error")
            link(source, target, **options)

        monkeypatch.setattr(os, "link", fail_on_model)
        with pytest.raises(ConfigError, match="Input/output error"):
            save_model(model, tmp_path / "out.onnx")
        assert not list(tmp_path.iterdir())

    def test_large_models_get_a_data_file(
        self, model: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(saving, "_INLINE_LIMIT_BYTES", 1000)
        path = tmp_path / "out.onnx"
        save_model(model, path)
        assert names_in(tmp_path) == ["out.onnx", "out.onnx.data"]
        assert path.stat().st_size < 1000
        assert onnx.load(path).graph.initializer[0].raw_data == model.graph.initializer[0].raw_data
        onnx.checker.check_model(path)
        assert model.graph.initializer[0].data_location == TensorProto.DEFAULT

    def test_external_data_comes_along(self, model: ModelProto, tmp_path: Path) -> None:
        source = tmp_path / "in"
        source.mkdir()
        graph = load_graph(saved_external(model, source))
        path = tmp_path / "out.onnx"
        save_model(graph.to_model(), path, base_dir=graph.base_dir)
        shutil.rmtree(source)
        np.testing.assert_array_equal(load_graph(path).constant("w"), normal(300, 4))
        # It fits into one file, so that it is in one file.
        assert names_in(tmp_path) == ["out.onnx"]

    def test_large_external_data_stays_external(
        self, model: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(saving, "_INLINE_LIMIT_BYTES", 1000)
        graph = load_graph(saved_external(model, tmp_path))
        path = tmp_path / "out.onnx"
        save_model(graph.to_model(), path, base_dir=graph.base_dir)
        assert names_in(tmp_path) == ["m.onnx", "out.onnx", "out.onnx.data", "weights.bin"]
        np.testing.assert_array_equal(load_graph(path).constant("w"), normal(300, 4))

    def test_a_data_file_of_somebody_else(
        self, model: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(saving, "_INLINE_LIMIT_BYTES", 1000)
        path, other = tmp_path / "out.onnx", tmp_path / "out.onnx.data"
        other.write_bytes(b"precious")
        with pytest.raises(
            ConfigError,
            match=r"the file 'out.onnx.data' for large weights exists beside it\nHint: pass force=True \(--force\)",
        ):
            save_model(model, path)
        assert (names_in(tmp_path), other.read_bytes()) == (["out.onnx.data"], b"precious")
        save_model(model, path, force=True)
        np.testing.assert_array_equal(load_graph(path).constant("w"), normal(300, 4))

    def test_a_model_may_replace_itself(
        self, model: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(saving, "_INLINE_LIMIT_BYTES", 1000)
        path = tmp_path / "out.onnx"
        save_model(model, path)
        graph = load_graph(path)
        save_model(graph.to_model(), path, force=True, base_dir=tmp_path)
        np.testing.assert_array_equal(load_graph(path).constant("w"), normal(300, 4))
        assert names_in(tmp_path) == ["out.onnx", "out.onnx.data"]

    def test_large_constants_in_attributes_and_typed_fields(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(saving, "_INLINE_LIMIT_BYTES", 1000)
        model = model_of("(float[N,300] x) => (float[N,300] y) { t = Add(x, k) y = Add(t, w) }")
        values = normal(300)
        model.graph.initializer.append(helper.make_tensor("w", TensorProto.FLOAT, [300], values.tolist()))
        tensor = helper.make_tensor("", TensorProto.FLOAT, [300], values.tolist())
        model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=tensor))
        save_model(model, tmp_path / "out.onnx")
        assert (tmp_path / "out.onnx.data").stat().st_size == 4096 + 1200
        loaded = onnx.load(tmp_path / "out.onnx")
        x = {"x": normal(2, 300)}
        np.testing.assert_array_equal(computed(load_graph(loaded), x)[0], computed(load_graph(model), x)[0])

    def test_lost_external_data(self, model: ModelProto, tmp_path: Path) -> None:
        path = saved_external(model, tmp_path)
        graph = load_graph(path)
        (tmp_path / "weights.bin").write_bytes(b"short")
        with pytest.raises(ModelError, match=r"tensor 'w': .* has 5 bytes for it, expected 4800"):
            save_model(graph.to_model(), tmp_path / "out.onnx", base_dir=tmp_path)
        assert names_in(tmp_path) == ["m.onnx", "weights.bin"]

    @pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd"])
    def test_external_data_outside_of_the_folder(self, model: ModelProto, tmp_path: Path, location: str) -> None:
        graph = load_graph(saved_external(model, tmp_path))
        graph.initializers["w"].external_data[0].value = location
        with pytest.raises(ModelError, match="is not a path inside the model's folder"):
            graph.constant("w")
        with pytest.raises(ModelError, match="is not a path inside the model's folder"):
            save_model(graph.to_model(), tmp_path / "out.onnx", base_dir=tmp_path)

    def test_a_data_file_that_is_none(self, model: ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(saving, "_INLINE_LIMIT_BYTES", 1000)
        (tmp_path / "out.onnx.data").mkdir()
        with pytest.raises(ConfigError, match=r"out\.onnx\.data': this is not a regular file"):
            save_model(model, tmp_path / "out.onnx")


class TestQuestions:
    def test_metadata(self, model: ModelProto) -> None:
        set_metadata(model, {"b": "1", "a": "2"})
        set_metadata(model, {"b": "3"})
        assert [(e.key, e.value) for e in model.metadata_props] == [("a", "2"), ("b", "3")]
        assert get_metadata(model) == {"a": "2", "b": "3"}

    @pytest.mark.parametrize("node", ["QuantizeLinear(x, s)", "other.QLinearAdd(x, s)", "other.MatMulNBits(x, s)"])
    def test_quantized(self, node: str) -> None:
        graph = graph_of(f"(float[2] x) => (float[2] y) {{ q = {node} y = other.F(q) }}", s=np.float32(1))
        assert is_quantized(graph)
        assert quantized_nodes(graph) == [graph.producer("q").name]

    def test_quantized_inside_a_body(self) -> None:
        text = """(float[2] x, bool c) => (uint8[2] y) { y = If (c)
            <then_branch = a () => (uint8[2] p) { p = QuantizeLinear(x, s) }, else_branch = b () => (uint8[2] q)
            { q = Cast<to=2>(x) }> }"""
        assert is_quantized(graph_of(text, s=np.float32(1)))

    def test_not_quantized(self, model: ModelProto) -> None:
        assert not is_quantized(load_graph(model))


@pytest.mark.skipif(onnx.defs.onnx_opset_version() < 28, reason="this onnx does not know opset 28")
class TestLowerOpset:
    """Opset 28 defines pairs anew, and onnxruntime has no kernels for them."""

    def test_what_is_defined_alike_goes_back(self) -> None:
        graph = graph_of(
            "(float[2,300] x) => (float[2,4] y) { t = MatMul(x, w) y = Cast<to=1>(t) }", opset=28, w=normal(300, 4)
        )
        older = lower_opset(graph)
        assert (graph.opset, older.opset) == (28, 27)
        assert older.initializers["w"] is graph.initializers["w"]

    @pytest.mark.parametrize(("mode", "opset"), [("DCR", 27), ("CRD", 28)])
    def test_what_holds_anyway_need_not_be_said(self, mode: str, opset: int) -> None:
        """Opset 28 gives SpaceToDepth a mode; DCR is what it always was."""
        text = """(float[1,2,4,6] x) => (float[1,8,2,3] y) { y = SpaceToDepth<blocksize=2, mode="%s">(x) }"""
        older = lower_opset(graph_of(text % mode, opset=28))
        assert older.opset == opset
        assert [a.name for a in older.nodes[0].attribute] == ["blocksize"] + ["mode"] * (opset == 28)

    def test_old_enough(self, model: ModelProto) -> None:
        graph = load_graph(model)
        assert lower_opset(graph) is graph

    @pytest.mark.parametrize("inside", [False, True])
    def test_an_operator_that_is_new_stays(self, *, inside: bool) -> None:
        node = """If (c) < then_branch = a () => (float[2,4] p) { p = SwiGLU(x, x) },
                           else_branch = b () => (float[2,4] q) { q = Abs(x) }>"""
        node = node if inside else "SwiGLU(x, x)"
        graph = graph_of(f"(float[2,4] x, bool c) => (float[2,4] y) {{ y = {node} }}", opset=28)
        assert lower_opset(graph) is graph

    def test_an_attribute_that_is_new_stays(self) -> None:
        """Opset 18 gave ReduceMax its axes as an input; 13 knows them as an attribute."""
        graph = graph_of("(float[2,4] x) => (float[2,1] y) { y = ReduceMax(x, a) }", opset=18, a=np.array([1]))
        assert lower_opset(graph, 13) is graph


class TestUpgradeOpset:
    def test_new_enough(self, model: ModelProto) -> None:
        graph = load_graph(model)
        assert upgrade_opset(graph, 13) is graph

    def test_converted_with_the_same_weights_and_names(self) -> None:
        text = """(float[2,3,300] x) => (float[a,b] y) {
            t = MatMul(x, w)  s = Softmax<axis=1>(t)  u = Unsqueeze<axes=[0]>(s)  y = Squeeze<axes=[0,1]>(u) }"""
        graph = graph_of(text.replace("[2,3,300]", "[1,3,300]"), opset=11, w=normal(300, 4))
        InferShapes().run(graph)
        new = upgrade_opset(graph, 17)
        assert (graph.opset, new.opset) == (11, 17)
        assert new.initializers["w"] is not None
        assert new.initializers["w"] == graph.initializers["w"]
        feeds = random_feeds(graph)
        # Softmax over axes 1 and 2 at once (opset 11) would become one over axis 1 alone if it were relabelled.
        np.testing.assert_allclose(computed(new, feeds)[0], computed(graph, feeds)[0], rtol=1e-6)

    def test_other_domains_and_external_data_survive(self, tmp_path: Path) -> None:
        text = "(float[2,300] x) => (float[a] y) { t = MatMul(x, w) u = other.F(t) y = Squeeze<axes=[0]>(u) }"
        graph = load_graph(saved_external(model_of(text, opset=12, w=normal(300, 4)), tmp_path))
        new = upgrade_opset(graph, 13)
        assert ops(new)["F"] == 1
        np.testing.assert_array_equal(new.constant("w"), normal(300, 4))

    def test_no_conversion(self) -> None:
        graph = graph_of(
            '(float[2,3] x) => (float[2,3] y) { y = Upsample<mode="nearest">(x, s) }', opset=9, s=normal(2)
        )
        graph.producer("y").op_type = "NoSuchOperator"
        with pytest.raises(UnsupportedModelError, match="cannot be converted from opset 9 to 13") as caught:
            upgrade_opset(graph, 13)
        assert "opset_version=13" in (caught.value.hint or "")

    def test_an_invalid_conversion_is_refused(self, model: ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = model_of("(float[N,300] x) => (float[N,4] y) { y = Softmax(x, x) }", opset=21)
        monkeypatch.setattr(onnx.version_converter, "convert_version", lambda *_: broken)
        with pytest.raises(UnsupportedModelError, match="conversion from opset 17 to 21 gave an invalid model"):
            upgrade_opset(load_graph(model), 21)

    @pytest.mark.parametrize("node", ["Identity(x)", "Neg(x)", "Softmax<axis=1>(x)", "Softmax<axis=1>(m)"])
    @pytest.mark.parametrize("taken", [True, False])
    def test_bodies(self, node: str, *, taken: bool) -> None:
        """Also of what is read from around, whose type and rank no body tells."""
        text = f"""(float[1,2,3] x, bool c) => (float[a,b] y) {{ m = Add(x, x) y = If (c) <
            then_branch = a () => (float[2,3] p) {{ n = {node} p = Squeeze<axes=[0]>(n) }},
            else_branch = b () => (float[2,3] q) {{ q = Squeeze(m) }}> }}"""
        graph = graph_of(text, opset=11)
        new = upgrade_opset(graph, 13)
        assert (graph.opset, new.opset) == (11, 13)
        feeds = {"x": random_feeds(graph)["x"], "c": np.array(taken)}
        np.testing.assert_allclose(computed(new, feeds)[0], computed(graph, feeds)[0], rtol=1e-6)

    def test_bodies_inside_bodies(self) -> None:
        text = """(float[1,2,3] x, bool c) => (float[a,b] y) { y = If (c) <
            then_branch = a () => (float[2,3] p) { p = If (c) <
                then_branch = d () => (float[2,3] r) { r = Squeeze<axes=[0]>(x) },
                else_branch = e () => (float[2,3] s) { s = Squeeze(x) }> },
            else_branch = b () => (float[2,3] q) { n = Neg(x) q = Squeeze<axes=[0]>(n) }> }"""
        graph = graph_of(text, opset=11)
        new = upgrade_opset(graph, 13)
        for taken in (True, False):
            feeds = {"x": random_feeds(graph)["x"], "c": np.array(taken)}
            np.testing.assert_array_equal(computed(new, feeds)[0], computed(graph, feeds)[0])

    def test_a_body_that_cannot_be_converted(self) -> None:
        """Before opset 9 a Scan had a batch axis of its own: its body is no model to convert."""
        text = """(float[1,2,3] x) => (float[1,2,3] y) { y = Scan<num_scan_inputs=1,
            body = b (float[3] i) => (float[3] o) { o = Softmax<axis=0>(i) }>("", x) }"""
        with pytest.raises(UnsupportedModelError, match=r"node 'Scan_y' \(Scan\): Softmax in its body changed"):
            upgrade_opset(graph_of(text, opset=8), 13)


@pytest.mark.parametrize(
    "name",
    [
        "m_name", "m_out", "m_size", "m_weight", "m_inner", "m_key", "m_value", "m_attribute", "m_producer", "m_remark",
        "m_graph", "m_domain",
    ],
)  # fmt: skip
def test_names_that_are_not_in_utf_8(name: str) -> None:
    """protobuf hands them out as bytes, and onnx's checker looks at few of them."""
    model = model_of(
        """(float[m_size,16] x, bool c) => (float[n,8] y) { [m_name] m_out = MatMul(x, m_weight) y = If (c) <
        then_branch = a () => (float[n,8] p) { [m_inner] p = Relu(m_out) },
        else_branch = b () => (float[n,8] q) { q = LeakyRelu<alpha=0.1>(m_out) } > }""",
        m_weight=normal(16, 8),
    )
    model.metadata_props.add(key="m_key", value="m_value")
    model.graph.node[0].attribute.add(name="m_attribute", type=AttributeProto.INT, i=1)
    model.producer_name, model.doc_string, model.graph.name = "m_producer", "m_remark", "m_graph"
    model.opset_import.add(domain="m_domain", version=1)
    content = model.SerializeToString().replace(name.encode(), b"\x9d" + name[1:].encode())
    with pytest.raises(ModelError, match=f"the name b'.x9d{name[1:]}' is not in UTF-8"):
        load_graph(content)


def test_attributes_of_functions_outside_of_them() -> None:
    model = model_of("(float[n,16] x) => (float[n,16] y) { [leaky] y = LeakyRelu<alpha=0.1>(x) }")
    model.graph.node[0].attribute[0].ref_attr_name = "slope"
    with pytest.raises(ModelError, match="attribute 'alpha' of LeakyRelu node 'leaky' is that of a function"):
        load_graph(model)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_limits_of_a_clip_have_the_type_of_what_it_clips(dtype: type) -> None:
    """onnx's converter writes them in float32 where they were attributes."""
    name = helper.tensor_dtype_to_string(helper.np_dtype_to_tensor_dtype(np.dtype(dtype))).split(".")[-1].lower()
    kind = {"float": "float", "float16": "float16", "double": "double"}[name]
    text = f"({kind}[4] x) => ({kind}[4] y, {kind}[4] z) {{ y = Clip<min=0.0, max=6.0>(x) z = Clip<min=1.0>(x) }}"
    newer = upgrade_opset(Graph(model_of(text, opset=7)), 13)
    limits = {t.data_type for t in newer.to_model().graph.initializer}
    assert limits <= {helper.np_dtype_to_tensor_dtype(np.dtype(dtype))}
    y, z = computed(newer, {"x": np.array([-1, 2, 7, 0.5], dtype)})
    np.testing.assert_array_equal(y, np.array([0, 2, 6, 0.5], dtype))
    np.testing.assert_array_equal(z, np.array([1, 2, 7, 1], dtype))


@pytest.mark.parametrize(("kind", "dtype"), [("float16", np.float16), ("float", np.float32), ("double", np.float64)])
def test_the_value_of_a_pad_has_the_type_of_what_it_pads(kind: str, dtype: type) -> None:
    """Likewise."""
    text = f'({kind}[4] x) => ({kind}[6] y) {{ y = Pad<mode="constant", pads=[1,1], value=0.5>(x) }}'
    newer = upgrade_opset(Graph(model_of(text, opset=7)), 13)
    (y,) = computed(newer, {"x": np.array([-1, 2, 7, 3], dtype)})
    np.testing.assert_array_equal(y, np.array([0.5, -1, 2, 7, 3, 0.5], dtype))
