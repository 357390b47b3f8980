"""The process in which TensorRT parses, builds and runs: `python -m <this module> REQUEST ANSWER`.

REQUEST is a JSON object: package, model (path), shapes ({input: [min, usual, max]}), engine (path or null), and
perhaps fp16 (bool), workspace_bytes, timing_cache (path), feeds ([{input: path of .npy}]), folder (of the outputs).
ANSWER is one: unsupported (an option that this TensorRT does not take), version, accepted, problems, layers
({type: count}), size_bytes, seconds, outputs ([{output: path}]), run_problem.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from onnxq.verification.engines.tensorrt_run import no_device, run_engine

_PLACE = re.compile(r"\s*In \w+ at \S+\.(cpp|h):\d+")
"""Where in TensorRT's source a message comes from, which tells a user nothing."""


def main(request_path: str, answer_path: str) -> None:
    """Build what the request names and write the answer, whole or not at all."""
    request = json.loads(Path(request_path).read_text())
    answer = build(request)
    draft = Path(answer_path + ".part")
    draft.write_text(json.dumps(answer))
    draft.replace(answer_path)


def build(request: dict[str, Any]) -> dict[str, Any]:
    """Parse and build.

    Args:
        request: As in the module's docstring.

    Returns:
        The answer, as in the module's docstring.
    """
    trt = importlib.import_module(request["package"])
    answer: dict[str, Any] = {"version": trt.__version__, "accepted": False, "layers": {}, "size_bytes": 0}
    if request.get("fp16") and not hasattr(trt.BuilderFlag, "FP16"):
        return answer | {"unsupported": "fp16"}
    messages: list[str] = []
    logger = _logger(trt, messages)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, fp16=bool(request.get("fp16"))))
    parser = trt.OnnxParser(network, logger)
    started = time.perf_counter()
    engine = None
    if parser.parse_from_file(request["model"]):
        answer["layers"] = dict(Counter(_layer_type(network.get_layer(i)) for i in range(network.num_layers)))
        config = _config(trt, builder, network, request)
        engine = builder.build_serialized_network(network, config)
        answer["problems"] = readable(messages) if engine is None else []
        if engine is not None:
            answer |= {"accepted": True, "size_bytes": int(engine.nbytes)}
            _keep_timings(config, request)
    else:
        answer["problems"] = readable([_sentence(parser.get_error(i)) for i in range(parser.num_errors)] or messages)
    answer["seconds"] = time.perf_counter() - started
    # The parser refers to the network and the network to the builder: freed in any other order, the library crashes.
    del parser, network, builder
    if engine is not None:
        if request.get("engine"):
            Path(request["engine"]).write_bytes(memoryview(engine))
        answer |= _run(trt, logger, engine, request)
    return answer


def _run(trt: Any, logger: Any, engine: Any, request: dict[str, Any]) -> dict[str, Any]:
    feeds = request.get("feeds") or []
    if not feeds:
        return {}
    if problem := no_device():
        return {"run_problem": problem}
    loaded = trt.Runtime(logger).deserialize_cuda_engine(engine)
    if loaded is None:
        return {"run_problem": "the engine cannot be loaded on this GPU"}
    try:
        return {"outputs": run_engine(trt, loaded, feeds, Path(request["folder"]))}
    except RuntimeError as error:
        return {"run_problem": str(error)}


def _network_flags(trt: Any, *, fp16: bool) -> int:
    """Strongly typed where the library still asks: types are then the model's own, int8 only where Q/DQ says so."""
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") and not fp16 else 0


def _config(trt: Any, builder: Any, network: Any, request: dict[str, Any]) -> Any:
    config = builder.create_builder_config()
    if request.get("fp16"):
        # A weakly typed network with Q/DQ wants the int8 flag as well.
        for flag in ("FP16", "INT8"):
            config.set_flag(getattr(trt.BuilderFlag, flag))
    if request.get("workspace_bytes"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(request["workspace_bytes"]))
    if cache := request.get("timing_cache"):
        known = Path(cache).read_bytes() if Path(cache).exists() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    shapes = request["shapes"]
    if shapes:
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            name = network.get_input(index).name
            if name in shapes:
                setter = profile.set_shape_input if network.get_input(index).is_shape_tensor else profile.set_shape
                setter(name, *shapes[name])
        config.add_optimization_profile(profile)
    return config


def _keep_timings(config: Any, request: dict[str, Any]) -> None:
    cache = request.get("timing_cache")
    if cache and (timings := config.get_timing_cache()) is not None:
        draft = Path(cache + ".part")
        draft.write_bytes(memoryview(timings.serialize()))
        draft.replace(cache)


def _layer_type(layer: Any) -> str:
    return str(layer.type).rpartition(".")[2]


def _sentence(error: Any) -> str:
    text = str(error.desc()).removeprefix("Assertion failed: ")
    return f"{error.node_operator()} {error.node_name()!r}: {text}"


def readable(messages: list[str]) -> list[str]:
    """Messages in a line each, without places in TensorRT's source; the lack of a GPU is told only if nothing else is.

    >>> readable(["a\\nb (x. In f at /src/y.cpp:1)", "[c.cpp::f::2] Error Code 1: Cuda Runtime (no driver)"])
    ['a: b (x.)']
    """
    lines = [[line.strip() for line in message.splitlines() if line.strip()] for message in messages]
    told = [[line for line in one if "Error Code 1: Cuda Runtime" not in line] for one in lines]
    kept = [one for one in told if one] or lines
    return list(dict.fromkeys(": ".join(_PLACE.sub("", line) for line in one) for one in kept))


def _logger(trt: Any, messages: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class is known only when running
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                messages.append(message.partition(" In ")[0])

    return Logger()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
