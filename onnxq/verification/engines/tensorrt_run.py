"""Runs a TensorRT engine on a GPU, with nothing installed but TensorRT and the GPU's driver.

Memory on the GPU comes from the CUDA driver library itself through ctypes, so that no package for it is needed.
Sources: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/ (ICudaEngine, IExecutionContext:
tensors by name, `execute_async_v3`) and https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")


class Device(Protocol):
    """What running an engine needs of a GPU."""

    stream: int

    def upload(self, values: NDArray[Any]) -> int:
        """A copy of `values` on the GPU; its address."""

    def allocate(self, size_bytes: int) -> int:
        """The address of so many bytes on the GPU."""

    def wait(self) -> None:
        """Wait until everything queued on the stream is done."""

    def download(self, address: int, values: NDArray[Any]) -> None:
        """Fill `values` from the GPU."""

    def free(self) -> None:
        """Give back everything that was allocated."""


class CudaDevice:
    """The first GPU, by way of its driver.

    Raises:
        RuntimeError: there is no driver or no GPU, or a call of the driver fails.
    """

    def __init__(self) -> None:
        self._cuda = _driver()
        self._addresses: list[int] = []
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = int(stream.value or 0)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._cuda, name)(*arguments)
        if status != 0:
            raise RuntimeError(f"the GPU's driver answers {name} with error {status}")

    def allocate(self, size_bytes: int) -> int:
        """The address of so many bytes on the GPU."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size_bytes)))
        self._addresses.append(address.value)
        return address.value

    def upload(self, values: NDArray[Any]) -> int:
        """A copy of `values` on the GPU; its address."""
        values = np.ascontiguousarray(values)
        address = self.allocate(values.nbytes)
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), values.ctypes.data_as(ctypes.c_void_p),
                   ctypes.c_size_t(values.nbytes))  # fmt: skip
        return address

    def wait(self) -> None:
        """Wait until everything queued on the stream is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def download(self, address: int, values: NDArray[Any]) -> None:
        """Fill `values` from the GPU."""
        self._call("cuMemcpyDtoH_v2", values.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(address),
                   ctypes.c_size_t(values.nbytes))  # fmt: skip

    def free(self) -> None:
        """Give back everything that was allocated."""
        while self._addresses:
            self._call("cuMemFree_v2", ctypes.c_uint64(self._addresses.pop()))


def _driver() -> Any:
    for name in _LIBRARIES:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise RuntimeError("there is no GPU here: the driver of an NVIDIA GPU is not installed")


def no_device() -> str:
    """Why no engine can run here; "" if one can."""
    try:
        driver = _driver()
        count = ctypes.c_int()
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
            return "there is no GPU here: the driver finds none"
    except RuntimeError as error:
        return str(error)
    return ""


def run_engine(
    trt: Any, engine: Any, feeds: Sequence[Mapping[str, str]], folder: Path, *, device: Device | None = None
) -> list[dict[str, str]]:
    """Run an engine on each feed.

    Args:
        trt: The module `tensorrt` or `tensorrt_rtx`.
        engine: The deserialized engine.
        feeds: For each batch, the .npy file of each input.
        folder: Where the outputs are written.
        device: The GPU; None takes the first one.

    Returns:
        For each batch, the .npy file of each output.

    Raises:
        RuntimeError: the engine cannot be run here.
    """
    session = _Session(trt, engine, device or CudaDevice())
    written = []
    for number, feed in enumerate(feeds):
        outputs = session.run({name: np.load(path, allow_pickle=False) for name, path in feed.items()})
        paths = {name: folder / f"out{number}_{slot}.npy" for slot, name in enumerate(outputs)}
        for name, path in paths.items():
            np.save(path, outputs[name], allow_pickle=False)
        written.append({name: str(path) for name, path in paths.items()})
    return written


class _Session:
    """An engine with its execution context and the GPU's memory."""

    def __init__(self, trt: Any, engine: Any, device: Device) -> None:
        self._trt, self._engine, self._device = trt, engine, device
        self._context = engine.create_execution_context()
        if self._context is None:
            raise RuntimeError("the engine gets no execution context on this GPU; it may lack memory")
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        self._outputs = [n for n in names if n not in self._inputs]

    def run(self, feed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        try:
            kept = [self._set_input(name, feed[name]) for name in self._inputs]
            results = {name: self._make_output(name) for name in self._outputs}
            if not self._context.execute_async_v3(self._device.stream):
                raise RuntimeError("the engine fails while running")
            self._device.wait()
            del kept  # TensorRT reads sizes from there while it runs
            for name, (address, values) in results.items():
                if not self._is_on_host(name):
                    self._device.download(address, values)
        finally:
            self._device.free()
        return {name: values for name, (_, values) in results.items()}

    def _type(self, name: str) -> Any:
        own = self._engine.get_tensor_dtype(name)
        try:
            return self._trt.nptype(own)
        except TypeError:
            raise RuntimeError(f"{name!r} has the type {own}, which numpy lacks; it is not supported here") from None

    def _is_on_host(self, name: str) -> bool:
        """Whether TensorRT reads or writes a tensor in the host's memory: sizes, from which it infers shapes."""
        return bool(self._engine.get_tensor_location(name) == self._trt.TensorLocation.HOST)

    def _set_input(self, name: str, given: NDArray[Any]) -> NDArray[Any]:
        values = np.ascontiguousarray(given, self._type(name))
        if self._is_on_host(name):
            self._context.set_tensor_address(name, values.ctypes.data)
        elif self._context.set_input_shape(name, values.shape):
            self._context.set_tensor_address(name, self._device.upload(values))
        else:
            raise RuntimeError(f"the engine does not take input {name!r} of shape {values.shape}")
        return values

    def _make_output(self, name: str) -> tuple[int, NDArray[Any]]:
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise RuntimeError(f"the size of output {name!r} depends on the data, which is not supported here")
        values = np.empty(shape, self._type(name))
        address = values.ctypes.data if self._is_on_host(name) else self._device.allocate(values.nbytes)
        self._context.set_tensor_address(name, address)
        return address, values
