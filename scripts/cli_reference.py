"""Writes docs/cli.md from the commands themselves: `python scripts/cli_reference.py`. A test checks for drift."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from onnxq.cli.main import PROGRAM, cli

REFERENCE = Path(__file__).parents[1] / "docs" / "cli.md"

_HEAD = """# Command line

Made from the commands' own `--help` by `python scripts/cli_reference.py`; do not edit.

Results go to stdout, remarks and errors to stderr. With `--json` stdout holds exactly one JSON document, also when the
command fails: then it is `{"schema": "onnxq.error/1", "error": {"kind", "message", "where", "hint", "exit_code"}}`.
Progress, colours and completion: [terminal.md](terminal.md); the documents: [json.md](json.md).
"""

_CONFIG = """### Configuration file

The keys of a `--config` file are the long option names above without their dashes; an unknown key is an error. Options
on the command line win. Paths are relative to the file's folder.

```toml
target = "tensorrt"
method = "entropy"
data = "calibration.npz"
exclude = ["/head/*"]

[[override]]
tensors = "images"
range = [0.0, 1.0]
```

One file serves all commands: each takes the keys that are its own, and a table with a command's name (`[quantize]`) is
for that command alone ([terminal.md](terminal.md)). `[[override]]` and the ways to name nodes and tensors are explained
in [control.md](control.md).
"""


def reference() -> str:
    """The whole page."""
    parts = [_HEAD, _text(cli)]
    for name in sorted(cli.commands):
        parts.append(f"## {PROGRAM} {name}\n")
        parts.append(_usage(name, cli.commands[name]))
        parts.append(_text(cli.commands[name]))
        parts.append(_options(cli.commands[name]))
        if name == "quantize":
            parts.append(_CONFIG)
    return "\n".join(parts)


def _usage(name: str, command: click.Command) -> str:
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    names = " ".join(
        (p.metavar or str(p.name).upper()) + ("..." if p.nargs == -1 and not p.metavar else "") for p in arguments
    )
    return f"`{PROGRAM} {name} [OPTIONS] {names}`\n"


def _text(command: click.Command) -> str:
    """The help text; paragraphs marked with \\b become blocks of code, their first line stays text."""
    blocks: list[str] = []
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        lines = paragraph.splitlines()
        if lines[0] != "\b":
            blocks.append(" ".join(lines))
        elif lines[2].startswith(" "):
            blocks.append("\n".join([lines[1], "", "```sh", *(line.strip() for line in lines[2:]), "```"]))
        else:
            blocks.append(" ".join(lines[1:]))
    return "\n\n".join(blocks) + "\n"


def _options(command: click.Command) -> str:
    rows = [row for p in command.params if isinstance(p, click.Option) and not p.hidden for row in _row(p)]
    return "\n".join(["| option | meaning |", "| --- | --- |", *rows]) + "\n"


def _row(option: click.Option) -> Iterator[str]:
    names = ", ".join(f"`{name}`" for name in sorted(option.opts, key=len, reverse=True))
    value = "" if option.is_flag else f" {_value(option)}"
    default = f" Default: {option.default}." if option.show_default and option.default is not None else ""
    default += " Required." if option.required else ""
    text = str(option.help).replace("  [default:", " [default:").replace("|", "\\|")
    yield f"| {names}{value} | {text}{default} |"


def _value(option: click.Option) -> str:
    if isinstance(option.type, click.Choice) and option.metavar is None:
        return " or ".join(map(str, option.type.choices))
    return option.metavar or {"path": "FILE", "integer range": "N", "float range": "X"}.get(
        option.type.name, option.type.name.upper()
    )


if __name__ == "__main__":
    REFERENCE.write_text(reference(), encoding="utf-8")
