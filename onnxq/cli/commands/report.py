"""`onnxq report`: HTML pages from what other commands wrote, or from a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxq.cli import options
from onnxq.cli.files import check_places, write_text
from onnxq.cli.parameters import TARGETS, TargetName
from onnxq.cli.render import say
from onnxq.errors import ArtifactError, ConfigError
from onnxq.report.checked_document import parse_document, problem_of

_SCHEMAS = ("onnxq.report/1", "onnxq.sensitivity/1", "onnxq.evaluation/1")
_LARGEST_BYTES = 512 * 2**20
"""Of a report: far above that of any model."""


@click.command(short_help="Show reports as HTML, or two side by side.")
@click.argument("sources", metavar="FILE...", type=options.FILE, nargs=-1, required=True)
@click.option("--output", "-o", type=options.FILE, help="HTML file.  [default: the first FILE with the ending .html]")
@click.option(
    "--target",
    "-t",
    type=TargetName(TARGETS),
    metavar="NAME",
    help="For a model: target whose rules are named.  [default: the one that the file says it was made for]",
)
@options.force_option()
@options.quiet_option()
@options.debug_option()
def report(sources: tuple[Path, ...], output: Path | None, target: str | None, force: bool, quiet: bool) -> None:
    """Make one self-contained HTML page of FILE...: what `--report FILE.json` of other commands wrote, or a model.

    One report gives its page. Two give a comparison, the first as baseline. A ranking of `onnxq sensitivity` and a
    score of `onnxq evaluate` are shown within the report that they are given with, or alone. Of a quantized model
    (.onnx) the page shows what its Q/DQ pairs ask for; `onnxq verify --report` asks its engine.

    \b
    Examples:
      onnxq report int8.json                                    # writes int8.html
      onnxq report max.json entropy.json -o comparison.html
      onnxq report int8.json layers.json accuracy.json -o all.html
      onnxq report model.int8.onnx
    """
    for source in sources:
        if source.suffix.lower() in (".html", ".htm"):
            raise ArtifactError(
                "this is a page already, and no report is read from one", where=f"report {str(source)!r}", hint=_HOW
            )
    path = output or options.beside(sources[0], ".html")
    check_places({"--output": path}, inputs={f"what is to be shown ({s})": s for s in sources}, force=force)
    documents = [(source, _read(source, target)) for source in sources]
    text = _page(documents)
    write_text(path, text, option="--output")
    say(f"written to {path}", quiet=quiet)


def _page(documents: list[tuple[Path, dict[str, Any]]]) -> str:
    from onnxq.report.html.comparison_page import render_comparison  # noqa: PLC0415 - numpy only now
    from onnxq.report.html.run_page import render_part, render_run  # noqa: PLC0415

    reports, ranking, score = (_of(documents, schema) for schema in _SCHEMAS)
    for found, what in ((ranking, "rankings"), (score, "scores")):
        if len(found) > 1:
            raise ConfigError(f"there are {len(found)} {what}", hint="give one of them, with its report")
    if len(reports) > 2:
        raise ConfigError(f"there are {len(reports)} reports", hint="give one for its page, or two to compare them")
    parts = [document for _, document in (*ranking, *score)]
    if len(reports) == 2:
        if parts:
            raise ConfigError("rankings and scores are not compared", hint="give two reports and nothing else")
        (a, first), (b, second) = reports
        return render_comparison(first, second, _names(a, b))
    if len(reports) == 1:
        return render_run(
            reports[0][1],
            sensitivity=ranking[0][1] if ranking else None,
            evaluation=score[0][1] if score else None,
        )
    if len(parts) > 1:
        raise ConfigError("a ranking and a score need the report that they belong to", hint="give it with them")
    return render_part(parts[0], title=documents[0][0].name)


def _of(documents: list[tuple[Path, dict[str, Any]]], schema: str) -> list[tuple[Path, dict[str, Any]]]:
    return [(path, document) for path, document in documents if document["schema"] == schema]


def _names(a: Path, b: Path) -> tuple[str, str]:
    """What two files are called: no more of their paths than tells them apart."""
    return (a.stem, b.stem) if a.stem != b.stem else (str(a), str(b))


def _read(source: Path, target: str | None) -> dict[str, Any]:
    """A document of one of the schemas.

    Raises:
        ArtifactError: there is no such file, or it holds something else.
    """
    if source.suffix.lower() != ".json":
        from onnxq.report.standalone import report_of_model  # noqa: PLC0415 - numpy and onnx only now

        return report_of_model(source, target).to_dict()
    where = f"report {str(source)!r}"
    try:
        if source.stat().st_size > _LARGEST_BYTES:
            raise ArtifactError("the file is too large to be a report", where=where)
        document = parse_document(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError("there is no such file", where=where, hint=_HOW) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"this is no JSON document: {error}", where=where, hint=_HOW) from error
    found = document.get("schema") if isinstance(document, dict) else None
    if found not in _SCHEMAS:
        raise ArtifactError(f"the schema is {found!r}, not one of {', '.join(_SCHEMAS)}", where=where, hint=_HOW)
    if (problem := problem_of(document, found)) is not None:
        raise ArtifactError(f"the report is damaged: {problem}", where=where, hint=_HOW)
    return document  # type: ignore[no-any-return]


_HOW = "reports are written by `onnxq quantize --report FILE.json` and `onnxq verify --report FILE.json`"
