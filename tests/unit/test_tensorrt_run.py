"""Running an engine, against a stand-in for TensorRT and the GPU's memory: there is no GPU where these tests run.

The stand-in knows the calls of the documented API and no others: a misspelt one fails. It reads and writes the
addresses that it was given, so a buffer of the wrong size or type shows in the numbers.
"""

from __future__ import annotations

import ctypes
import enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxq.verification.engines import tensorrt_run, tensorrt_worker
from onnxq.verification.engines.tensorrt_run import CudaDevice, no_device, run_engine


class Mode(enum.Enum):
    INPUT = 0
    OUTPUT = 1


class Location(enum.Enum):
    DEVICE = 0
    HOST = 1


class HostDevice:
    """The GPU's memory, on the host."""

    stream = 7

    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}
        self.freed = 0
        self.waited = 0

    def wait(self) -> None:
        self.waited += 1

    def allocate(self, size_bytes: int) -> int:
        buffer = ctypes.create_string_buffer(max(1, size_bytes))
        address = ctypes.addressof(buffer)
        self.kept[address] = buffer
        return address

    def upload(self, values: NDArray[Any]) -> int:
        address = self.allocate(values.nbytes)
        ctypes.memmove(address, values.ctypes.data, values.nbytes)
        return address

    def download(self, address: int, values: NDArray[Any]) -> None:
        ctypes.memmove(values.ctypes.data, address, values.nbytes)

    def free(self) -> None:
        self.kept.clear()
        self.freed += 1


def at(address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    count = int(np.prod(shape))
    raw = (ctypes.c_char * (count * np.dtype(dtype).itemsize)).from_address(address)
    return np.frombuffer(raw, dtype, count).reshape(shape)


class Context:
    """y = x + 1 for as many rows as `x` has; `rows` and `next`, which is rows + 1, are sizes, which lie on the host."""

    def __init__(self, *, works: bool = True, largest: int = 4, sizes_known: bool = True) -> None:
        self.works, self.largest, self.sizes_known = works, largest, sizes_known
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.streams: list[int] = []

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return shape[0] <= self.largest

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name == "next":
            return (1,)
        assert name == "y"
        return self.shapes["x"] if self.sizes_known else (-1, 3)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.streams.append(stream)
        x = at(self.addresses["x"], self.shapes["x"], np.float32)
        rows = at(self.addresses["rows"], (1,), np.int64)
        assert rows[0] == len(x)
        at(self.addresses["y"], self.shapes["x"], np.float32)[:] = x + 1
        at(self.addresses["next"], (1,), np.int64)[:] = rows + 1
        return self.works


class Engine:
    names = ("x", "rows", "y", "next")
    num_io_tensors = len(names)

    def __init__(self, context: Context | None, *, type_of_y: str = "FLOAT") -> None:
        self.context, self.type_of_y = context, type_of_y

    def create_execution_context(self) -> Context | None:
        return self.context

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Mode:
        return Mode.OUTPUT if name in {"y", "next"} else Mode.INPUT

    def get_tensor_dtype(self, name: str) -> str:
        return {"x": "FLOAT", "y": self.type_of_y}.get(name, "INT64")

    def get_tensor_location(self, name: str) -> Location:
        return Location.HOST if name in {"rows", "next"} else Location.DEVICE


def nptype(trt_type: str) -> Any:
    """As TensorRT's, which raises a TypeError for what numpy lacks."""
    known = {"FLOAT": np.float32, "INT64": np.int64}
    if trt_type not in known:
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
    return known[trt_type]


TRT = SimpleNamespace(TensorIOMode=Mode, TensorLocation=Location, nptype=nptype)


def feeds(folder: Path, *rows: int) -> list[dict[str, str]]:
    """Inputs as float64, which the engine does not take as they are."""
    written = []
    for count in rows:
        np.save(folder / f"x{count}.npy", np.arange(count * 3, dtype=np.float64).reshape(count, 3))
        np.save(folder / f"rows{count}.npy", np.array([count], np.int32))
        written.append({"x": str(folder / f"x{count}.npy"), "rows": str(folder / f"rows{count}.npy")})
    return written


def test_each_feed_runs_at_its_own_shape(tmp_path: Path) -> None:
    context, device = Context(), HostDevice()
    outputs = run_engine(TRT, Engine(context), feeds(tmp_path, 2, 4), tmp_path, device=device)
    for rows, paths in zip((2, 4), outputs, strict=True):
        got = np.load(paths["y"])
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, np.arange(rows * 3, dtype=np.float32).reshape(rows, 3) + 1)
        np.testing.assert_array_equal(np.load(paths["next"]), [rows + 1])
    assert device.waited == 2
    assert context.streams == [7, 7]
    assert (device.freed, device.kept) == (2, {})


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (Engine(Context(works=False)), "the engine fails while running"),
        (Engine(Context(largest=1)), r"the engine does not take input 'x' of shape \(2, 3\)"),
        (Engine(Context(sizes_known=False)), "the size of output 'y' depends on the data"),
        (Engine(Context(), type_of_y="BF16"), "'y' has the type BF16, which numpy lacks"),
    ],
    ids=["fails", "shape", "size", "type"],
)
def test_what_can_go_wrong_is_said_and_memory_given_back(engine: Engine, message: str, tmp_path: Path) -> None:
    device = HostDevice()
    with pytest.raises(RuntimeError, match=message):
        run_engine(TRT, engine, feeds(tmp_path, 2), tmp_path, device=device)
    assert device.freed == 1


def test_the_stand_in_has_the_calls_of_tensorrt() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    for stand_in, real in ((Engine, trt.ICudaEngine), (Context, trt.IExecutionContext)):
        called = {name for name, member in vars(stand_in).items() if callable(member) and not name.startswith("_")}
        assert called <= set(dir(real))
    assert set(Location.__members__) == set(trt.TensorLocation.__members__)
    assert set(Mode.__members__) <= set(trt.TensorIOMode.__members__)


def test_a_gpu_without_room_for_an_execution_context(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the engine gets no execution context"):
        run_engine(TRT, Engine(None), feeds(tmp_path, 2), tmp_path, device=HostDevice())


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_run, "_LIBRARIES", ("no-such-driver.so",))
    assert no_device() == "there is no GPU here: the driver of an NVIDIA GPU is not installed"
    with pytest.raises(RuntimeError, match="there is no GPU here"):
        CudaDevice()


class Driver:
    """The CUDA driver with memory on the host: sizes and addresses go through real ctypes arguments."""

    def __init__(self, *, devices: int = 1, broken: str = "") -> None:
        self.devices, self.broken, self.kept = devices, broken, {}  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        if name == self.broken:
            return lambda *_: 2
        return {
            "cuInit": lambda flags: 0,
            "cuDeviceGetCount": self._count,
            "cuDeviceGet": lambda device, ordinal: 0,
            "cuDevicePrimaryCtxRetain": lambda context, device: 0,
            "cuCtxSetCurrent": lambda context: 0,
            "cuStreamCreate": lambda stream, flags: 0,
            "cuStreamSynchronize": lambda stream: 0,
            "cuMemAlloc_v2": self._allocate,
            "cuMemcpyHtoD_v2": self._upload,
            "cuMemcpyDtoH_v2": self._download,
            "cuMemFree_v2": lambda address: self.kept.pop(address.value) and 0,
        }[name]

    def _count(self, count: Any) -> int:
        count._obj.value = self.devices
        return 0

    def _allocate(self, address: Any, size: ctypes.c_size_t) -> int:
        buffer = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(buffer)
        self.kept[address._obj.value] = buffer
        return 0

    def _upload(self, address: ctypes.c_uint64, host: ctypes.c_void_p, size: ctypes.c_size_t) -> int:
        ctypes.memmove(address.value, host, size.value)
        return 0

    def _download(self, host: ctypes.c_void_p, address: ctypes.c_uint64, size: ctypes.c_size_t) -> int:
        ctypes.memmove(host, address.value, size.value)
        return 0


def test_the_driver_moves_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(tensorrt_run, "_driver", lambda: driver)
    assert no_device() == ""
    device = CudaDevice()
    values = np.arange(6, dtype=np.float32).reshape(2, 3).T  # not contiguous
    back = np.empty((3, 2), np.float32)
    device.download(device.upload(values), back)
    np.testing.assert_array_equal(back, values)
    assert len(driver.kept) == 1
    device.free()
    assert driver.kept == {}


def test_the_drivers_errors_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_run, "_driver", lambda: Driver(broken="cuMemAlloc_v2"))
    with pytest.raises(RuntimeError, match="the GPU's driver answers cuMemAlloc_v2 with error 2"):
        CudaDevice().allocate(8)
    monkeypatch.setattr(tensorrt_run, "_driver", lambda: Driver(devices=0))
    assert no_device() == "there is no GPU here: the driver finds none"


# ---- the worker, with a TensorRT of the weakly typed kind ------------------------------------------------------------


class Config:
    def __init__(self) -> None:
        self.flags: list[str] = []
        self.limits: dict[str, int] = {}
        self.profiles: list[dict[str, Any]] = []
        self.known = b""

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.limits[pool] = size

    def create_timing_cache(self, known: bytes) -> bytes:
        return known

    def set_timing_cache(self, cache: bytes, *, ignore_mismatch: bool) -> None:
        self.known = cache

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.known + b"+new")

    def add_optimization_profile(self, profile: Any) -> None:
        self.profiles.append(profile.shapes)


def fake_tensorrt(config: Config, network_flags: list[int]) -> Any:
    """What the worker calls of TensorRT 10, which has weakly typed networks beside strongly typed ones."""

    class Profile:
        def __init__(self) -> None:
            self.shapes: dict[str, Any] = {}

        def set_shape(self, name: str, low: Any, usual: Any, high: Any) -> None:
            self.shapes[name] = (low, usual, high)

    class Network:
        num_layers, num_inputs = 0, 1

        def get_input(self, index: int) -> Any:
            return SimpleNamespace(name="x", is_shape_tensor=False)

    class Builder:
        def __init__(self, logger: Any) -> None: ...

        def create_network(self, flags: int) -> Network:
            network_flags.append(flags)
            return Network()

        def create_builder_config(self) -> Config:
            return config

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> Any:
            return np.frombuffer(b"engine", np.uint8)

    class Parser:
        def __init__(self, network: Network, logger: Any) -> None: ...

        def parse_from_file(self, path: str) -> bool:
            return True

    class ILogger:
        Severity = SimpleNamespace(ERROR=1)

    return SimpleNamespace(
        __version__="10.9", ILogger=ILogger, Builder=Builder, OnnxParser=Parser,
        BuilderFlag=SimpleNamespace(FP16="FP16", INT8="INT8"), MemoryPoolType=SimpleNamespace(WORKSPACE="WORKSPACE"),
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda engine: Engine(Context())),
        TensorIOMode=TRT.TensorIOMode, TensorLocation=TRT.TensorLocation, nptype=TRT.nptype,
    )  # fmt: skip


def request(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"package": "tensorrt", "model": "m.onnx", "shapes": {}, "engine": str(tmp_path / "e"), **more}


def test_options_reach_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config, flags = Config(), list[int]()
    monkeypatch.setattr(tensorrt_worker.importlib, "import_module", lambda _: fake_tensorrt(config, flags))
    (tmp_path / "times").write_bytes(b"old")
    shapes = {"x": [[1, 3], [2, 3], [4, 3]]}
    asked = request(tmp_path, fp16=True, workspace_bytes=64, timing_cache=str(tmp_path / "times"), shapes=shapes)
    answer = tensorrt_worker.build(asked)
    assert (answer["accepted"], answer["size_bytes"], (tmp_path / "e").read_bytes()) == (True, 6, b"engine")
    assert flags == [0]  # weakly typed
    assert config.flags == ["FP16", "INT8"]
    assert config.limits == {"WORKSPACE": 64}
    assert (tmp_path / "times").read_bytes() == b"old+new"
    assert config.profiles == [{"x": ([1, 3], [2, 3], [4, 3])}]


def test_without_fp16_the_network_is_strongly_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config, flags = Config(), list[int]()
    monkeypatch.setattr(tensorrt_worker.importlib, "import_module", lambda _: fake_tensorrt(config, flags))
    tensorrt_worker.build(request(tmp_path))
    assert flags == [1 << 1]
    assert config.flags == []


def test_the_engine_runs_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tensorrt_worker.importlib, "import_module", lambda _: fake_tensorrt(Config(), []))
    monkeypatch.setattr(tensorrt_worker, "no_device", lambda: "")
    monkeypatch.setattr(tensorrt_run, "CudaDevice", HostDevice)
    answer = tensorrt_worker.build(request(tmp_path, feeds=feeds(tmp_path, 2), folder=str(tmp_path)))
    np.testing.assert_array_equal(np.load(answer["outputs"][0]["y"])[0], [1, 2, 3])
    monkeypatch.setattr(tensorrt_worker, "no_device", lambda: "there is no GPU here")
    answer = tensorrt_worker.build(request(tmp_path, feeds=feeds(tmp_path, 2), folder=str(tmp_path)))
    assert answer["run_problem"] == "there is no GPU here"


def test_messages_are_made_readable() -> None:
    said = [
        "Invalid Node - b\nITensor::getDimensions: Error Code 4 (its type is Int32. In checkType at /_src/a.cpp:456)",
        "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (no driver)",
    ]
    assert tensorrt_worker.readable(said) == [
        "Invalid Node - b: ITensor::getDimensions: Error Code 4 (its type is Int32.)"
    ]
    assert tensorrt_worker.readable(said[1:]) == said[1:]  # it is told if nothing else is
