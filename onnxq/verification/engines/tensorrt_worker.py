"""The process in which TensorRT parses and builds: `python -m <this module> REQUEST ANSWER`.

REQUEST is a JSON object: package, model (path), shapes ({input: [min, usual, max]}), engine (path or null).
ANSWER is one: version, accepted, problems, layers ({type: count}), size_bytes, seconds.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any


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
    messages: list[str] = []
    logger = _logger(trt, messages)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    started = time.perf_counter()
    answer: dict[str, Any] = {"version": trt.__version__, "accepted": False, "layers": {}, "size_bytes": 0}
    parsed = parser.parse_from_file(request["model"])
    if parsed:
        answer["layers"] = dict(Counter(_layer_type(network.get_layer(i)) for i in range(network.num_layers)))
        engine = builder.build_serialized_network(network, _config(builder, network, request["shapes"]))
        if engine is not None:
            answer |= {"accepted": True, "size_bytes": int(engine.nbytes)}
            if request.get("engine"):
                Path(request["engine"]).write_bytes(memoryview(engine))
        answer["problems"] = messages if engine is None else []
    else:
        answer["problems"] = [_sentence(parser.get_error(i)) for i in range(parser.num_errors)] or messages
    answer["seconds"] = time.perf_counter() - started
    # The parser refers to the network and the network to the builder: freed in any other order, the library crashes.
    del parser, network, builder
    return answer


def _network_flags(trt: Any) -> int:
    """Strongly typed where the library still asks: types are then the model's own, int8 only where Q/DQ says so."""
    flags = trt.NetworkDefinitionCreationFlag
    return 1 << int(flags.STRONGLY_TYPED) if hasattr(flags, "STRONGLY_TYPED") else 0


def _config(builder: Any, network: Any, shapes: dict[str, Any]) -> Any:
    config = builder.create_builder_config()
    if shapes:
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            name = network.get_input(index).name
            if name in shapes:
                setter = profile.set_shape_input if network.get_input(index).is_shape_tensor else profile.set_shape
                setter(name, *shapes[name])
        config.add_optimization_profile(profile)
    return config


def _layer_type(layer: Any) -> str:
    return str(layer.type).rpartition(".")[2]


def _sentence(error: Any) -> str:
    text = str(error.desc()).removeprefix("Assertion failed: ")
    return f"{error.node_operator()} {error.node_name()!r}: {text}"


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
