"""What the benches of modes without calibration have in common: variants of one model, side by side, as a table.

Tables of models that are not measured again stay, each with the commit, day and machine that it was measured with.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benches import machine
from benches.job import shortened
from benches.measure import LATENCY_SECONDS, Session, Tally, judge, one_sample
from benches.peer_weights import Maker
from benches.sections import RESULTS, read_section, write_section
from benches.turns import in_turns
from tests.zoo import ZOO, ZooModel

_MEASURED = "Measured with "

SAMPLES = 400
"""Enough to tell the variants of one model apart; whole evaluation sets take hours."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant of one model.

    Attributes:
        variant: Its name.
        error: Why there is nothing to show; "" if there is.
        size: Bytes of its file.
        seconds: What making it took.
        tally: Right answers and SQNR.
        latency_ms: Median of one sample on one thread.
        ratio: Of the float model's latency in the same rounds.
    """

    variant: str
    error: str = ""
    size: int = 0
    seconds: float = 0.0
    tally: Tally | None = None
    latency_ms: float = 0.0
    ratio: float = 1.0


def compare(
    model: ZooModel, makers: Mapping[str, Maker], *, calib: int, samples: int | None, rounds: int
) -> Sequence[Row]:
    """Make every variant of `model`, judge all on the same samples, and race them in turns."""
    source = model.path()
    if source is None:
        raise FileNotFoundError(f"{model.name} is absent ({model.source})")
    given = [feed for _, feed in zip(range(calib), model.calib(calib), strict=False)]
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="onnxq-bench-") as folder:
        files = {"float": source}
        spent = {"float": 0.0}
        for name, make in makers.items():
            output = Path(folder) / f"{name.replace(' ', '-').replace(',', '')}.onnx"
            started = time.process_time()
            try:
                make(source, output, given)
                Session(output)
            except Exception as error:  # whatever it is, the table shows it
                rows[name] = Row(variant=name, error=shortened(f"{type(error).__name__}: {error}"))
                continue
            files[name], spent[name] = output, time.process_time() - started
        sessions = {name: Session(file) for name, file in files.items()}
        batches = list(model.load("eval", samples))
        tallies, errors = judge(model, sessions, batches)
        alone = {name: Session(files[name], threads=1) for name in sessions if name not in errors}
        latency = in_turns(alone, one_sample(batches[0].feed), rounds=rounds, seconds=LATENCY_SECONDS)
        for name, file in files.items():
            if name in errors:
                rows[name] = Row(variant=name, error=errors[name])
                continue
            rows[name] = Row(
                variant=name,
                size=file.stat().st_size,
                seconds=spent[name],
                tally=tallies[name],
                latency_ms=latency[name][0],
                ratio=latency[name][1],
            )
    return [rows[name] for name in ("float", *makers)]


def table(model: ZooModel, rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """The rows in Markdown, under the model's name and what it was measured with."""
    lines = [
        f"**{model.name}** ({model.source})",
        "",
        f"{_MEASURED}{_line(facts)}",
        "",
        f"| variant | {model.metric} % | SQNR dB | MB | ms | of float | made in s |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    for row in rows:
        if row.error or row.tally is None:
            lines.append(f"| {row.variant} | {row.error} | | | | | |")
            continue
        score = "" if row.tally.score is None else f"{100 * row.tally.score:.2f}"
        sqnr = "" if row.variant == "float" else f"{row.tally.sqnr_db:.1f}"
        lines.append(
            f"| {row.variant} | {score} | {sqnr} | {row.size / 1e6:.2f} | {row.latency_ms:.3f} | "
            f"{row.ratio:.2f} | {row.seconds:.1f} |"
        )
    return "\n".join(lines)


def tables_of(section: str) -> dict[str, str]:
    """The tables of a section by the name of the model, each with what it was measured with.

    Before each table said so itself, a list at the head of the section did for all.
    """
    head, *parts = re.split(r"^(?=\*\*)", section, flags=re.MULTILINE)
    facts = dict(re.findall(r"^- ([^:\n]+): (.*)$", head, flags=re.MULTILINE))
    found = {}
    for part in parts:
        heading, _, rest = part.strip().partition("\n\n")
        said = rest if rest.startswith(_MEASURED) else f"{_MEASURED}{_line(facts)}\n\n{rest}"
        found[heading.split("**")[1]] = f"{heading}\n\n{said}"
    return found


def _line(facts: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {value}" for name, value in facts.items())


def run(  # noqa: PLR0913 - what one bench says of itself
    section: str,
    title: str,
    models: Sequence[str],
    makers: Mapping[str, Maker],
    arguments: list[str] | None,
    *,
    calib: int,
) -> int:
    """Measure all models, print the tables, and write them as a section of the results."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--models", default=",".join(models), help="comma-separated names of the zoo")
    parser.add_argument("--calib", type=int, default=calib, help="calibration samples")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"most samples to judge on; default: {SAMPLES}")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of latency")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Markdown whose section is replaced")
    options = parser.parse_args(arguments)
    tables = tables_of(read_section(options.output, section))
    for name in options.models.split(","):
        model = ZOO.get(name)
        if model is None or model.path() is None:
            print(f"{name}: absent")
            continue
        rows = compare(model, makers, calib=options.calib, samples=options.samples, rounds=options.rounds)
        tables[name] = table(model, rows, machine.facts())
        print(tables[name], "\n", flush=True)
    head = (
        f"## {title}\n\nWritten by `python -m benches.{section.replace('-', '_')}`, on {options.samples} samples of "
        "each model at most; models that are not named in `--models` keep their tables. Latency is that of one sample "
        "on one thread, in processor time; `of float` is the median of its ratios in rounds where all variants take "
        "turns."
    )
    ordered = sorted(tables, key=lambda name: (*models, name).index(name))
    write_section(options.output, section, "\n\n".join([head, *(tables[name] for name in ordered)]))
    return 0
