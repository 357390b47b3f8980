"""`python -m tests.conformance`: all tests, which writes docs/conformance.md; for another target or mode its row there.

python -m tests.conformance --target openvino
python -m tests.conformance --mode weight-only --every 13      (some of the tests: nothing is written)
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy
import onnx
import onnxruntime

from tests.conformance.cases import KINDS, cases, tests
from tests.conformance.judge import FLOORS_DB, Verdict, judge

OUTCOMES = ("int8", "nothing", "float fails", "refused", "wrong")
LIMIT_SECONDS = 60
TARGET = "ort-x64-vnni"
MODES = tuple(FLOORS_DB)
_LEGEND = """\
The models of `onnx.backend.test` as they are, with weights as constants where they are inputs, and with a linear layer
beside them, so that a quantized model comes out whatever their own operators are.

- **int8**: a quantized model; valid, passed by `verify`, outputs that no int8 node reaches equal to the float model's
  (up to the order of products), the others above {floor:.0f} dB
- **nothing**: nothing in it runs in int8, and the error says why
- **float fails**: onnxruntime, or the engine of the target, does not take the float model
- **refused**: another typed error, listed below
- **wrong**: anything else: another exception, an invalid model, values that are off, more than 60 s
"""
_OTHERS = f"""\
## Other targets and modes

Of each the last run, which may be of another version than the above. Between targets, the others of ONNX Runtime differ
in what they place in int8, OpenVINO also in who answers.

| target | mode | {" | ".join(OUTCOMES)} |
| --- | --- |{" ---: |" * len(OUTCOMES)}
"""
PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


def _work(pipe: Connection, target: str, mode: str) -> None:
    """Judge the tests whose numbers come in, one answer for each form."""
    while (index := pipe.recv()) is not None:
        try:
            forms = cases(index)
        except Exception as error:  # a test that onnx itself cannot load is no case
            pipe.send([Verdict(str(index), "node", "float fails", f"not loaded: {error}")])
            continue
        pipe.send([judge(form, target, mode) for form in forms])


class _Worker:
    """A process that may crash or hang without taking the run with it."""

    def __init__(self, target: str, mode: str) -> None:
        self._pipe, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        # No daemon: TensorRT is asked in a process of the worker's own.
        self._process = context.Process(target=_work, args=(other, target, mode))
        self._process.start()
        other.close()

    def judge(self, index: int) -> list[Verdict] | str:
        self._pipe.send(index)
        try:
            if self._pipe.poll(LIMIT_SECONDS):
                found: list[Verdict] = self._pipe.recv()
                return found
        except EOFError:
            return "the process crashed"
        return f"took more than {LIMIT_SECONDS} s"

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge the tests; 1 if anything is wrong."""
    options = _options(arguments)
    verdicts: list[Verdict] = []
    count = len(tests())  # before the first fork: workers share what was loaded
    started, worker = time.perf_counter(), _Worker(options.target, options.mode)
    for index in range(options.offset, count, options.every):
        found = worker.judge(index)
        if isinstance(found, str):
            kind, test = tests()[index]
            found = [Verdict(test.name, kind, "wrong", found)]
            worker.stop()
            worker = _Worker(options.target, options.mode)
        verdicts += found
        for verdict in found:
            if verdict.outcome in ("wrong", "refused"):
                print(f"{verdict.outcome}: {verdict.name}: {verdict.detail[:300]}", flush=True)  # noqa: T201
    worker.stop()
    page = _page(verdicts, time.perf_counter() - started, options)
    print(page)  # noqa: T201
    if options.every == 1:
        known = PAGE.read_text(encoding="utf-8")
        if (options.target, options.mode) == (TARGET, MODES[0]):
            known = f"{page}\n{_OTHERS}{known.partition(_OTHERS)[2]}"
        else:
            known = with_row(known, options.target, options.mode, verdicts)
        PAGE.write_text(known, encoding="utf-8")
    return 1 if any(v.outcome == "wrong" for v in verdicts) else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Models of onnx's backend tests, quantized and judged")
    parser.add_argument("--every", type=int, default=1, help="take every n-th test")
    parser.add_argument("--offset", type=int, default=0, help="the first of them")
    parser.add_argument("--target", default=TARGET)
    parser.add_argument("--mode", choices=MODES, default=MODES[0])
    return parser.parse_args(arguments)


def _page(verdicts: list[Verdict], seconds: float, options: argparse.Namespace) -> str:
    lines = [f"| {kind} | " + " | ".join(str(_count(verdicts, kind, o)) for o in OUTCOMES) + " |" for kind in KINDS]
    reasons = Counter(v.detail.splitlines()[0][:110] for v in verdicts if v.outcome == "refused" and v.detail)
    listed = [f"| {count} | {reason.replace('|', '/')} |" for reason, count in reasons.most_common(15)]
    return "\n".join([
        "# Conformance", "",
        f"Models of onnx's backend tests, quantized for {options.target}"
        f"{'' if options.mode == MODES[0] else f', mode {options.mode}'}: {len(verdicts)} in {seconds:.0f} s.",
        f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, numpy {numpy.__version__}, "
        f"Python {platform.python_version()}.", "", _LEGEND.format(floor=FLOORS_DB[options.mode]),
        "| kind | " + " | ".join(OUTCOMES) + " |", "| --- |" + " ---: |" * len(OUTCOMES), *lines, "",
        "| refused | for |", "| ---: | --- |", *listed, "",
    ])  # fmt: skip


def with_row(page: str, target: str, mode: str, verdicts: list[Verdict]) -> str:
    """`page` with what came of another target or mode."""
    main, _, rows = page.partition(_OTHERS)
    row = f"| {target} | {mode} |"
    kept = [line for line in rows.splitlines() if line.startswith("|") and not line.startswith(row)]
    counts = " | ".join(str(sum(v.outcome == outcome for v in verdicts)) for outcome in OUTCOMES)
    return "\n".join([main.rstrip(), "", _OTHERS.rstrip(), *sorted([*kept, f"{row} {counts} |"]), ""])


def _count(verdicts: list[Verdict], kind: str, outcome: str) -> int:
    return sum(v.kind == kind and v.outcome == outcome for v in verdicts)


if __name__ == "__main__":
    sys.exit(main())
