"""docs/adding-a-target.md and docs/control.md: their blocks run, and their tables are complete."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from onnxq.cli.main import cli
from onnxq.config import parse_toml
from onnxq.planning.overrides import Override
from onnxq.targets import TARGETS, resolve_target
from onnxq.targets.schema import ComputeRule, ElementwiseRule, Engine, PassThroughRule, Target, TypeRule

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-a-target.md"
CONTROL = ROOT / "docs" / "control.md"


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model.onnx").write_bytes((ROOT / "models" / "digits_resnet.onnx").read_bytes())
    (tmp_path / "model.calib.npz").write_bytes((ROOT / "models" / "digits_resnet.calib.npz").read_bytes())
    (table,) = blocks(PAGE, "toml")
    (tmp_path / "npu.toml").write_text(table)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_run(folder: Path) -> None:
    lines = [line for block in blocks(PAGE, "sh") for line in block.splitlines()]
    assert len(lines) == 6
    for line in lines:
        result = CliRunner().invoke(cli, shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output)
    assert (folder / "model.int8.onnx").exists()


def test_python_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(PAGE, "python")
    exec(compile(code, "adding-a-target.md", "exec"), {})
    assert capsys.readouterr().out.startswith("npu ['/2/body/body.0/body.0.0/Conv'")


def test_the_table_says_what_the_page_says(folder: Path) -> None:
    target, _ = resolve_target(folder / "npu.toml")
    assert target.engine is Engine.NONE
    assert "ConvTranspose" not in target.compute
    assert target.compute["Conv"].min_channels == 8
    assert target.sources["N1"] == "NPU manual, section 4.2"


def test_every_key_is_explained() -> None:
    text = PAGE.read_text(encoding="utf-8")
    keys = {key for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for key in re.findall(r"`(\w+)", row)}
    assert {f.name for f in fields(Target)} | {"base"} == keys
    for rule in (ComputeRule, ElementwiseRule, PassThroughRule, TypeRule):
        assert all(f"`{f.name}`" in text for f in fields(rule) if f.name != "op")
    assert all(f"`{engine.value}`" in text for engine in Engine)


def test_every_key_of_an_override_is_explained() -> None:
    text = CONTROL.read_text(encoding="utf-8")
    assert all(re.search(rf"^\|.*`{f.name}`", text, re.MULTILINE) for f in fields(Override))
    (table,) = blocks(CONTROL, "toml")
    assert [Override(**one).title for one in parse_toml(table)["override"]] == [
        "override of nodes '/head/*'",
        "override of tensors 'images'",
    ]


def test_sources_of_the_tables_are_those_of_the_page() -> None:
    page = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(): cells[3].strip() for cells in (r.split("|") for r in page.splitlines()) if len(cells) > 4}
    for target in TARGETS.values():
        named = {
            rule
            for table in (target.compute, target.elementwise, target.pass_through)
            for one in table.values()
            for rule in one.rules.split()
        }
        assert named | set(filter(None, [target.fusion_rule])) <= set(target.sources), target.name
        for rule, source in target.sources.items():
            assert rows[rule] == source, rule
