"""What the documentation says is true: commands run, options exist, links resolve."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import onnxq
from onnxq.cli.main import cli
from onnxq.targets import TARGET_NAMES
from scripts.readme_command import readme_command
from tests.docs.pages import run_page

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "models" / "README.md", *(ROOT / "docs").glob("*.md")]
)
OPTIONS = {name for c in cli.commands.values() for p in c.params for name in (*p.opts, *p.secondary_opts)}
# Options of other programs that the pages and messages name.
FOREIGN = {
    "--no-deps", "--help", "--version", "--out", "--saved-model", "--keras", "--graphdef", "--tflite",
    "--load-inputs", "--save-inputs",
}  # fmt: skip


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def onnxq_lines(page: Path) -> list[str]:
    lines = "\n".join(blocks(page, "sh")).splitlines()
    return [found[1] for line in lines if (found := re.search(r"(?:^|&& |/)(onnxq [^&]*)", line))]


COMMANDS = [(page, line) for page in PAGES for line in onnxq_lines(page)]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line for _, line in COMMANDS])
def test_commands_parse(page: Path, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command = cli.commands[words[0]]
    # resilient_parsing would accept anything: parse for real, without running. A configuration file would be read.
    words = [w for w in words[1:] if w not in ("--config", "int8.toml")]
    with click.Context(cli, info_name="onnxq") as parent:
        command.make_context(words[0] if words else "", words, parent=parent)


def test_pages_with_commands_were_found() -> None:
    assert {page.name for page, _ in COMMANDS} >= {"README.md", "cli.md"}


def test_try_command_shows_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(readme_command("try").partition(".venv/bin/onnxq ")[2])
    model = words.index("models/digits_resnet.onnx")
    words[model] = str(ROOT / words[model])
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert "PASSED" in result.output
    assert (tmp_path / "digits_resnet.int8.onnx").exists()


def test_set_up_commands_name_what_exists() -> None:
    for name in ("try", "test"):
        assert readme_command(name).startswith("python3 -m venv .venv && .venv/bin/pip install ")
    requirements = re.search(r"-r (\S+)", readme_command("test"))
    assert requirements is not None
    assert (ROOT / requirements[1]).is_file()
    with pytest.raises(LookupError, match=r"README\.md has no one-line block behind '<!-- command: nothing -->'"):
        readme_command("nothing")


@pytest.mark.slow
def test_what_the_readme_shows_runs_as_it_is_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One block after the other in one folder, and nothing is written over."""
    monkeypatch.chdir(tmp_path)
    sources = {"model.onnx": "digits_resnet.onnx", "test.npz": "digits_resnet.test.npz"}
    for name in ("samples.npz", "shard-1.npz", "shard-2.npz"):
        sources[name] = "digits_resnet.calib.npz"
    for name, source in sources.items():
        (tmp_path / name).write_bytes((ROOT / "models" / source).read_bytes())
    assert run_page(ROOT / "README.md", after="## Use", before="## Targets", alternatives=False) == 4
    assert {"model.int8.onnx", "for-trt.onnx", "from-python.onnx"} <= {path.name for path in tmp_path.glob("*.onnx")}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_options_that_pages_name_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if page.name.startswith("from-"):  # the first column is another program's
        text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.MULTILINE)
    text = "\n".join(re.findall(r"`[^`\n]+`", text))
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) <= OPTIONS | FOREIGN


def test_options_that_messages_name_exist() -> None:
    named = {
        (path.name, option)
        for path in (ROOT / "onnxq").rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if '"' in line
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", line)
    }
    assert {(file, option) for file, option in named if option not in OPTIONS | FOREIGN} == set()


def test_targets_are_all_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in TARGET_NAMES)


def test_rules_that_the_code_names_are_explained() -> None:
    page = (ROOT / "docs" / "targets.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| ([RCVQX]\d+b?) \|", page, re.MULTILINE))
    sources = [*(ROOT / "onnxq").rglob("*.py")]
    named = {r for p in sources for r in re.findall(r"\b[RCVQX]\d{1,2}b?\b", p.read_text(encoding="utf-8"))}
    assert len(named) > 30
    assert named <= explained


def test_version_is_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", onnxq.__version__)


def test_numbers_are_those_that_were_measured() -> None:
    numbers = (ROOT / "README.md").read_text(encoding="utf-8").partition("## In numbers")[2].partition("\n## ")[0]
    accuracy = (ROOT / "benches" / "ACCURACY.md").read_text(encoding="utf-8")
    latency = (ROOT / "benches" / "RESULTS.md").read_text(encoding="utf-8").partition("\n## Latency")[2]
    ort, tensorrt = accuracy.partition("\n## tensorrt")[::2]
    without_vnni = (ROOT / "benches" / "ACCURACY_AVX2.md").read_text(encoding="utf-8")
    for page, measured, quoted in (
        (ort, "onnxq", "onnxq, `ort-cpu`"),
        (without_vnni, "onnxq", "the same on a CPU without VNNI ([page](benches/ACCURACY_AVX2.md))"),
        (ort, "quantize_static U8S8 per-channel", "quantize_static, U8S8 per-channel"),
        (tensorrt, "onnxq", "onnxq, `tensorrt`"),
        (
            tensorrt,
            "quantize_static S8S8 symmetric per-channel, MinMax",
            "quantize_static, S8S8 symmetric per-channel, MinMax",
        ),
    ):
        summary = page.partition("| over all models |")[2]
        assert cells(summary, measured)[:3] == cells(numbers, quoted)
    avx2 = latency.partition("\n## Latency of ort-x64-avx2")[2]
    for section, engine, quoted in (
        (latency, "under onnxruntime", "ONNX Runtime"),
        (avx2, "under onnxruntime", "the same on a CPU without VNNI (AMD EPYC)"),
        (latency, "under openvino", "OpenVINO"),
    ):
        table = section.partition(f"### {engine.capitalize()}")[2]
        mean = re.search(r"\| (geometric mean of (\d+)) \|", table)
        assert mean is not None
        assert [c for c in cells(table, mean[1]) if c][:3] == cells(numbers, f"{quoted}, {mean[2]} models")


def cells(page: str, name: str) -> list[str]:
    """The cells behind `name`, which is the first of its row."""
    row = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in row.strip("|").split("|")[1:]]
