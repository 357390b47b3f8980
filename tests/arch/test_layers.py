"""Imports go one way, and each library is imported where it belongs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "onnxq"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A module may import from its own layer and from those below it.
LAYERS: dict[str, int] = {
    "onnxq.errors": 0,
    "onnxq.keywords": 0,
    "onnxq.version": 0,
    "onnxq.runtime": 0,
    "onnxq.wording": 0,
    "onnxq.files": 1,
    "onnxq.config": 1,
    "onnxq.numerics": 1,
    "onnxq.targets": 2,
    "onnxq.graph": 3,
    "onnxq.data.sharding": 3,
    "onnxq.calibration.statistics": 4,
    "onnxq.inference": 5,
    "onnxq.calibration.methods": 5,
    "onnxq.data": 6,
    "onnxq.planning": 7,
    "onnxq.calibration.taps": 8,
    "onnxq.calibration.concat_ranges": 8,
    "onnxq.calibration.mask_ranges": 8,
    "onnxq.calibration.pool_ranges": 8,
    "onnxq.calibration.solve": 8,
    "onnxq.passes": 9,
    "onnxq.passes.simplify": 10,
    "onnxq.passes.adapt": 11,
    "onnxq.passes.quantize": 11,
    "onnxq.passes.strip": 11,
    "onnxq.calibration": 12,
    "onnxq.recovery": 13,
    "onnxq.dynamic": 14,
    "onnxq.weight_only": 15,
    "onnxq.verification": 16,
    "onnxq.tuning": 17,
    "onnxq.report": 18,
    "onnxq.pipeline": 19,
    "onnxq.evaluation": 20,
    "onnxq.previews": 20,
    "onnxq.search": 21,
    "onnxq.modes": 22,
    "onnxq.api": 23,
    "onnxq.compat": 24,
    "onnxq": 25,
    "onnxq.cli": 26,
    "onnxq.__main__": 27,
}

# What may import a library, by prefix of the module's name.
HOMES = {
    "onnxruntime": ("onnxq.runtime",),
    "onnx_graphsurgeon": ("onnxq.graph.evaluate",),
    "openvino": ("onnxq.verification.engines",),
    "tensorrt": ("onnxq.verification.engines",),
    "tensorrt_rtx": ("onnxq.verification.engines",),
    "PIL": ("onnxq.data.images",),
    "tokenizers": ("onnxq.data.texts",),
    "rich": ("onnxq.report.text", "onnxq.cli"),
    "click": ("onnxq.cli",),
    "jsonschema": ("onnxq.report.checked_document",),
    "torch": (),
    "tensorflow": (),
    "scipy": (),
}

ENTRY_POINTS = {"onnxq.verification.engines.tensorrt_worker"}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(path: Path) -> tuple[str, ...]:
    """Full names that a module imports anywhere but under `if TYPE_CHECKING`."""
    return tuple(_imports(ast.parse(path.read_text(encoding="utf-8"))))


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


def layer_of(name: str) -> int:
    """Layer of the longest prefix of `name` in the table."""
    parts = name.split(".")
    return next(LAYERS[prefix] for n in range(len(parts), 0, -1) if (prefix := ".".join(parts[:n])) in LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_down(path: Path) -> None:
    name = name_of(path)
    if name == "onnxq":
        return  # its names are loaded when they are used
    upward = [i for i in imports_of(path) if i.split(".")[0] == "onnxq" and layer_of(i) > layer_of(name)]
    assert upward == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_libraries_are_imported_where_they_belong(path: Path) -> None:
    name = name_of(path)
    for imported in imports_of(path):
        homes = HOMES.get(imported.split(".")[0])
        if homes is not None:
            assert name.startswith(homes or ("nowhere",)), f"{name} imports {imported}"


def test_every_module_is_in_the_table() -> None:
    assert all(name_of(path).split(".")[0] == "onnxq" for path in MODULES)
    packages = {name_of(p.parent / "__init__.py") for p in MODULES}
    assert {name for name in LAYERS if "." in name} <= packages | {name_of(p) for p in MODULES}
    top = {name_of(p) for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert {name for name in top if not name.endswith("__main__")} - {"onnxq"} <= set(LAYERS)


def test_the_root_holds_only_what_all_share() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert modules == {"__init__", "__main__", "config", "errors", "keywords", "runtime", "version"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_files_are_taken_in_at_one_sitting(path: Path) -> None:
    limit = 450 if name_of(path) == "onnxq.graph.view" else 400
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_say_what_they_are_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_names_are_nouns_of_the_domain(path: Path) -> None:
    assert path.stem not in {"utils", "util", "common", "helpers", "misc", "tools"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_library_code_has_no_assert_and_no_exit(path: Path) -> None:
    name = name_of(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not isinstance(node, ast.Assert), f"{name}:{node.lineno} validates with assert"
        if isinstance(node, ast.Attribute) and node.attr == "exit" and not name.startswith("onnxq.cli"):
            assert name in ENTRY_POINTS, f"{name}:{node.lineno} ends the process"
