"""Blocks of code of the pages, and how they are run: as a reader would, one after the other in one folder.

```sh              each line that begins with onnxq, in this process; polygraphy and python in one of their own;
                   pip and what needs a GPU (trtexec) is not run. "# exits with N" behind a command is its exit code
```python          run; blocks of a page see each other's names. With a first line "# name.py ..." it is written there
```toml            with a first line "# name.toml ..." written there; else read
```yaml            the commands of a workflow's steps, as in ```sh
<!-- not run: why -->   ahead of a block
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import onnxq
from onnxq.cli.main import cli
from onnxq.config import parse_toml
from tests.cli.conftest import RUNNER

DOCS = Path(__file__).parents[2] / "docs"
NOT_RUN = {"pip", "trtexec", "tensorrt_rtx", "mkdir", "make", "cd", "git", "jq", "eval"}
SUBPROCESSES = {"polygraphy", "python"}
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+) -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_FILE = re.compile(r"# ([\w.-]+\.(?:py|toml|txt|jsonl|yml|csv))\b")
_EXIT = re.compile(r"# exits with (\d+)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of code: its language, its text, and why it is not run."""

    language: str
    text: str
    why_not: str | None


def blocks_of(page: Path, *, after: str = "", before: str = "") -> list[Block]:
    """The blocks of a page in their order, as far as they stand between two lines of it."""
    text = page.read_text(encoding="utf-8")
    start = text.index(f"\n{after}\n") if after else 0
    part = text[start : text.index(f"\n{before}\n", start) if before else None]
    return [
        Block(language=found["language"], text=found["text"], why_not=found["why"]) for found in _BLOCK.finditer(part)
    ]


def run_page(page: Path, *, after: str = "", before: str = "", alternatives: bool = True) -> int:
    """Run the blocks in the working directory; returns how many were run.

    Args:
        page: The page.
        after: A line behind which the blocks stand; "" for all.
        before: A line in front of which they stand, likewise.
        alternatives: Whether commands are alternatives, which may all write to the same default place.
    """
    names: dict[str, Any] = {"onnxq": onnxq, "__name__": "page"}
    ran = 0
    for block in blocks_of(page, after=after, before=before):
        if block.why_not is not None:
            continue
        ran += 1
        where = f"{page.name}: {block.text[:200]}"
        if found := _FILE.match(block.text):
            Path(found[1]).write_text(block.text, encoding="utf-8")
        if block.language == "python" and not found:
            exec(compile(block.text, page.name, "exec"), names)
        elif block.language == "toml":
            parse_toml(block.text)
        elif block.language in ("sh", "yaml"):
            text = block.text if block.language == "sh" else workflow_commands(block.text)
            for command, code in commands(text):
                _run(command, code, where, alternatives=alternatives)
        elif block.language not in ("python", "json"):
            raise AssertionError(f"nothing is known of blocks in {block.language}: {where}")
    return ran


def commands(text: str) -> list[tuple[list[str], int]]:
    """The commands of a block as words, each with its exit code."""
    listed = []
    for line in text.replace("\\\n", " ").splitlines():
        code = int(found[1]) if (found := _EXIT.search(line)) else 0
        listed += [(shlex.split(part, comments=True), code) for part in line.split(" && ")]
    return [(words, code) for words, code in listed if words]


def workflow_commands(text: str) -> str:
    """The commands of a workflow of GitHub or GitLab, a line each."""
    jobs = yaml.safe_load(text)
    steps = [step for job in jobs.get("jobs", {}).values() for step in job["steps"]]
    found = [step["run"] for step in steps if "run" in step]
    found += [line for job in jobs.values() if isinstance(job, dict) for line in job.get("script", ())]
    assert found, "a workflow without commands"
    return "\n".join(found)


def _globbed(word: str) -> list[str]:
    """What a shell makes of an unquoted pattern: the files, or the word itself."""
    found = sorted(map(str, Path().glob(word))) if "*" in word and not word.startswith(("/", "re:")) else []
    return found or [word]


def _run(words: list[str], code: int, where: str, *, alternatives: bool) -> None:
    program, *arguments = words
    if program in NOT_RUN:
        return
    arguments = [path for word in arguments for path in _globbed(word)]
    if program == "onnxq":
        command = cli.commands[arguments[0]]
        forcible = any("--force" in option.opts for option in command.params)
        if alternatives and forcible and "--force" not in arguments:
            arguments.append("--force")
        place = None
        if ">" in arguments:
            at = arguments.index(">")
            place = Path(arguments[at + 1])
            arguments = arguments[:at] + arguments[at + 2 :]
        result = RUNNER.invoke(cli, arguments, prog_name="onnxq")
        assert result.exit_code == code, f"{where}\n{shlex.join(words)}\n{result.output}\n{result.stderr}"
        if place is not None:
            place.write_text(result.stdout, encoding="utf-8")
    elif program in SUBPROCESSES:
        script = sys.executable if program == "python" else str(Path(sys.executable).with_name(program))
        done = subprocess.run([script, *arguments], capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == code, f"{where}\n{done.stdout}\n{done.stderr}"
    else:
        raise AssertionError(f"{program} is no program that pages may name: {where}")
