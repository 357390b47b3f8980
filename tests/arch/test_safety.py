"""What a reader of other people's files must not use: deserialization that executes, shells, the network."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.arch.test_layers import MODULES, imports_of, name_of

# Modules, and the prefixes of names of onnxq that may import them, each with its reason.
GUARDED: dict[str, tuple[str, ...]] = {
    "pickle": (),
    "cloudpickle": (),
    "dill": (),
    "joblib": (),
    "marshal": (),
    "shelve": (),
    "urllib": (),
    "http": (),
    "requests": (),
    "ftplib": (),
    "ssl": (),
    # load_data(), hooks and metrics of Python files that the user names
    "runpy": ("onnxq.data.sources", "onnxq.data.user_code"),
    "subprocess": ("onnxq.verification.engines",),  # TensorRT, whose builder can take the process down with it
    "socket": ("onnxq.calibration.ray_cluster",),  # whether the Ray cluster that the user names answers
}

CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {
    ("os", "system"), ("os", "popen"), ("os", "execv"), ("os", "fork"), ("np", "load"), ("numpy", "load"),
    ("np", "fromfile"), ("np", "memmap"), ("np", "genfromtxt"), ("importlib", "import_module"),
}  # fmt: skip
KEYWORDS = {"shell", "allow_pickle", "dangerous", "trust_remote_code"}

ALLOWED_ATTRIBUTES = {
    "onnxq": {("importlib", "import_module")},  # names of the package itself, loaded when they are used
    # weights that are of numbers, at a place that `external_data.locate` has checked
    "onnxq.inference.mapped_weights": {("np", "memmap")},
    # one of the two names of TensorRT's package
    "onnxq.verification.engines.tensorrt_worker": {("importlib", "import_module")},
    # what the process that runs an engine was handed, and handed back
    "onnxq.verification.engines.tensorrt": {("np", "load")},
    "onnxq.verification.engines.tensorrt_run": {("np", "load")},
}


def offences(source: str, name: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in CALLS:
                yield f"{name}:{node.lineno} calls {node.func.id}"
            for keyword in node.keywords:
                if keyword.arg in KEYWORDS and not (
                    isinstance(keyword.value, ast.Constant) and not keyword.value.value
                ):
                    yield f"{name}:{node.lineno} passes {keyword.arg}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            pair = (node.value.id, node.attr)
            if pair in ATTRIBUTES - ALLOWED_ATTRIBUTES.get(name, set()):
                yield f"{name}:{node.lineno} uses {'.'.join(pair)}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_executed(path: Path) -> None:
    assert list(offences(path.read_text(encoding="utf-8"), name_of(path))) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_guarded_modules(path: Path) -> None:
    for imported in imports_of(path):
        allowed = GUARDED.get(imported.split(".")[0])
        if allowed is not None:
            assert name_of(path).startswith(allowed or ("nowhere",)), f"{name_of(path)} imports {imported}"


@pytest.mark.parametrize(
    "line", ["eval('1')", "np.load('f')", "os.system('ls')", "run('ls', shell=True)", "load('f', allow_pickle=True)"]
)
def test_the_look_finds_what_it_is_for(line: str) -> None:
    assert len(list(offences(line, "probe"))) == 1
