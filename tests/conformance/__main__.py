"""`python -m tests.conformance`: all tests, which writes docs/conformance.md; for another target or mode its row there.

python -m tests.conformance --target openvino
python -m tests.conformance --mode weight-only --every 13      (some of the tests: nothing is written)
python -m tests.conformance --target xnnpack --minutes 10      (a part; the same command goes on there)

A run of all tests keeps what it found in build/conformance as it comes: one that is cut goes on where it stopped, as
long as onnxq, these tests, onnx, onnxruntime and numpy stay the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
_ROOT = Path(__file__).parents[2]
PAGE = _ROOT / "docs" / "conformance.md"
STATE = _ROOT / "build" / "conformance"


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
    """Judge the tests; 1 if anything is wrong, 2 if the time was over before."""
    options = _options(arguments)
    whole = options.every == 1
    wanted = range(options.offset, len(tests()), options.every)
    state = Found(STATE / f"{options.target}-{options.mode}.jsonl", versions()) if whole else Found(None, {})
    _judge_all(state, wanted, options)
    left = sum(index not in state.verdicts for index in wanted)
    if left:
        print(f"{left} of {len(wanted)} tests left; the same command goes on with them")  # noqa: T201
        return 2
    verdicts = [verdict for index in wanted for verdict in state.verdicts[index]]
    page = _page(verdicts, state.seconds, options)
    print(page)  # noqa: T201
    if whole:
        known = PAGE.read_text(encoding="utf-8")
        if (options.target, options.mode) == (TARGET, MODES[0]):
            known = f"{page}\n{_OTHERS}{known.partition(_OTHERS)[2]}"
        else:
            known = with_row(known, options.target, options.mode, verdicts)
        PAGE.write_text(known, encoding="utf-8")
        state.forget()
    return 1 if any(v.outcome == "wrong" for v in verdicts) else 0


def _judge_all(state: Found, wanted: Sequence[int], options: argparse.Namespace) -> None:
    """Judge the tests that `state` does not know, until they are through or the time is over."""
    started = time.perf_counter()  # after the tests were loaded, before the first fork: workers share them
    worker = _Worker(options.target, options.mode)
    for index in wanted:
        if index in state.verdicts:
            continue
        if options.minutes is not None and time.perf_counter() - started > 60 * options.minutes:
            break
        began = time.perf_counter()
        found = worker.judge(index)
        if isinstance(found, str):
            kind, test = tests()[index]
            found = [Verdict(test.name, kind, "wrong", found)]
            worker.stop()
            worker = _Worker(options.target, options.mode)
        state.keep(index, found, time.perf_counter() - began)
        for verdict in found:
            if verdict.outcome in ("wrong", "refused"):
                print(f"{verdict.outcome}: {verdict.name}: {verdict.detail[:300]}", flush=True)  # noqa: T201
    worker.stop()


class Found:
    """What was found of each test so far, in a file.

    Args:
        path: A line of JSON for each test, behind one with `made_with`; None keeps nothing.
        made_with: What must be the same for the file to count.

    Attributes:
        verdicts: By number of the test.
        seconds: Time taken.
    """

    def __init__(self, path: Path | None, made_with: Mapping[str, str]) -> None:
        self.verdicts: dict[int, list[Verdict]] = {}
        self.seconds = 0.0
        self._path = path
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        # What follows the last end of a line was being written when the run was killed.
        first, *rest = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else [""]
        known = rest if first and json.loads(first) == dict(made_with) else []
        path.write_text("\n".join([json.dumps(dict(made_with)), *known, ""]), encoding="utf-8")
        for line in known:
            index, seconds, rows = json.loads(line)
            self.verdicts[index] = [Verdict(**row) for row in rows]
            self.seconds += seconds

    def keep(self, index: int, found: list[Verdict], seconds: float) -> None:
        """Note what came of test number `index`."""
        self.verdicts[index] = found
        self.seconds += seconds
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([index, round(seconds, 3), [dataclasses.asdict(v) for v in found]]) + "\n")

    def forget(self) -> None:
        """Remove the file: what was found is on the page."""
        if self._path is not None:
            self._path.unlink()


def versions() -> dict[str, str]:
    """What verdicts depend on."""
    digest = hashlib.sha256()
    for file in _sources():
        digest.update(file.read_bytes())
    return {
        "onnxq": digest.hexdigest(),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": numpy.__version__,
    }


def _sources() -> Iterator[Path]:
    yield from sorted((_ROOT / "onnxq").rglob("*.py"))
    yield from sorted(Path(__file__).parent.glob("[cj]*.py"))  # the cases and their judge


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Models of onnx's backend tests, quantized and judged")
    parser.add_argument("--every", type=int, default=1, help="take every n-th test")
    parser.add_argument("--offset", type=int, default=0, help="the first of them")
    parser.add_argument("--minutes", type=float, help="end after so long; the same command goes on there")
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
