"""Capture: a share of the requests with their outputs, in a file for `python -m training replay`.

No request waits for capture or fails because of it: a thread encodes and writes what it can, and counts the rest.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from random import random

import msgspec
import numpy as np

from service.inference.context import RequestContext
from service.inference.shadow import first_labels
from service.inference.version import LoadedVersion
from service.observability.rotating_file import RotatingFile
from service.runtime.worker_thread import WorkerThread
from service.tensors.dtypes import DATATYPES, DTYPES, Array, shape_text

Arrays = Mapping[str, Array]

_DTYPE_OF = {DATATYPES[name]: dtype for name, dtype in DTYPES.items()}
_DATATYPE_OF = {dtype: datatype for datatype, dtype in _DTYPE_OF.items()}
_STRINGS = "BYTES"


class Tensor(msgspec.Struct, frozen=True):
    """A tensor in the Open Inference Protocol's terms. `data`: base64 of the bytes, little-endian, row by row; for
    BYTES one base64 for each string."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes | list[bytes]


class Captured(msgspec.Struct, frozen=True, omit_defaults=True):
    """A captured request: a line of JSON. `labels`: the best of each row, if the version has labels."""

    time: datetime
    request_id: str
    model: str
    version: int
    engine: str
    protocol: str
    verb: str
    signature: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    labels: list[str] | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Captured)


def encode_line(captured: Captured) -> bytes:
    return _encoder.encode(captured) + b"\n"


def decode_line(line: bytes) -> Captured:
    """Raises ValueError if the line is damaged or is not a captured request."""
    return _decoder.decode(line)


def encode_tensors(arrays: Arrays) -> dict[str, Tensor]:
    """Raises ValueError for a type that the protocol has no name for."""
    return {name: _tensor(name, array) for name, array in arrays.items()}


def decode_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """Raises ValueError if the data of a tensor does not fit its datatype and shape."""
    return {name: _array(name, tensor) for name, tensor in tensors.items()}


def _tensor(name: str, array: Array) -> Tensor:
    if array.dtype.kind in "OS":
        return Tensor(_STRINGS, array.shape, [_utf8(each) for each in array.ravel().tolist()])
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    datatype = _DATATYPE_OF.get(array.dtype)
    if datatype is None:
        raise ValueError(f"{name!r} is of the type {array.dtype.name}, which has no name")
    return Tensor(datatype, array.shape, array.tobytes())


def _utf8(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _array(name: str, tensor: Tensor) -> Array:
    dtype = _DTYPE_OF.get(tensor.datatype)
    if dtype is None:
        raise ValueError(f"{name!r} has the datatype {tensor.datatype!r}; expected one of {', '.join(_DTYPE_OF)}")
    if any(size < 0 for size in tensor.shape):
        raise ValueError(f"{name!r} has the shape {shape_text(tensor.shape)}; no size is below 0")
    count = prod(tensor.shape)
    if isinstance(tensor.data, bytes):
        held, is_strings = len(tensor.data) / dtype.itemsize, False
    else:
        held, is_strings = len(tensor.data), True
    if is_strings != (tensor.datatype == _STRINGS) or held != count:
        raise ValueError(
            f"{name!r} has {held:g} {'strings' if is_strings else 'values'}; a tensor of {tensor.datatype} and shape "
            f"{shape_text(tensor.shape)} has {count}"
        )
    if isinstance(tensor.data, bytes):
        return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)
    array = np.empty(count, object)
    array[:] = tensor.data
    return array.reshape(tensor.shape)


# Inputs and outputs that wait to be written: one large request, or thousands of small ones.
MAX_QUEUED_BYTES = 64 * 1024 * 1024

logger = logging.getLogger(__name__)


class _Taken(msgspec.Struct, frozen=True):
    context: RequestContext
    loaded: LoadedVersion
    signature: str
    inputs: Arrays
    outputs: Arrays


class Capture:
    """Writes a share of the requests to a file.

    `dropped` is called for each request that was chosen and not written. `draw`: gives a number in [0, 1) for each
    request.
    """

    def __init__(
        self,
        path: Path,
        share: float,
        max_bytes: int,
        dropped: Callable[[], None],
        draw: Callable[[], float] = random,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> None:
        self.path = path
        self._file = RotatingFile(path, max_bytes)
        self._share = share
        self._dropped = dropped
        self._draw = draw
        self._background = WorkerThread("capture", self._keep, max_queued_bytes)
        self._is_failing = False
        self.close = self._background.close

    def offer(
        self,
        context: RequestContext,
        loaded: LoadedVersion,
        signature: str,
        inputs: Arrays,
        outputs: Arrays,
        share: float | None = None,
    ) -> None:
        """Capture this request, if it is chosen and was not cancelled. Never waits. `share`: instead of the capture's
        own."""
        is_chosen = self._draw() < (self._share if share is None else share)
        if not is_chosen or (context.deadline is not None and context.deadline.is_cancelled):
            return
        weight = _bytes(inputs) + _bytes(outputs)
        if not self._background.offer(_Taken(context, loaded, signature, inputs, outputs), weight):
            self._dropped()

    def _keep(self, taken: _Taken) -> None:
        try:
            self._file.append(encode_line(self._captured(taken)))
        # The thread must go on: whatever went wrong, the next request may be written.
        except Exception as error:
            self._dropped()
            if not self._is_failing:
                self._is_failing = True
                logger.error("%s: requests are not captured: %s", self.path, error)
        else:
            if self._is_failing:
                self._is_failing = False
                logger.info("%s: requests are captured again", self.path)

    def _captured(self, taken: _Taken) -> Captured:
        context, loaded = taken.context, taken.loaded
        return Captured(
            datetime.now(UTC),
            context.request_id,
            loaded.model,
            loaded.version,
            loaded.engine.name,
            context.protocol,
            context.verb,
            taken.signature,
            encode_tensors(taken.inputs),
            encode_tensors(taken.outputs),
            first_labels(loaded, taken.outputs, taken.signature),
        )


class Captures:
    """The capture of all models, and those of models whose policy has one of its own."""

    def __init__(self, of_all: Capture | None, new: Callable[[Path], Capture]) -> None:
        """`new`: a capture into this file."""
        self._of_all = of_all
        self._new = new
        self._by_file: dict[str, Capture] = {}
        self._by_model: Mapping[str, tuple[Capture, float]] = {}

    def follow(self, policies: Mapping[str, tuple[str, float]]) -> None:
        """By model, the file and the share. An empty file is that of all models."""
        for file in {file for file, _ in policies.values() if file} - self._by_file.keys():
            self._by_file[file] = self._new(Path(file))
        captures = {model: (self._by_file.get(file, self._of_all), share) for model, (file, share) in policies.items()}
        self._by_model = {model: (one, share) for model, (one, share) in captures.items() if one is not None}
        for model in captures.keys() - self._by_model.keys():
            logger.warning("requests for %s are not captured: expected a file, or SERVING_CAPTURE_FILE", model)

    def offer(
        self, context: RequestContext, loaded: LoadedVersion, signature: str, inputs: Arrays, outputs: Arrays
    ) -> None:
        """Capture this request, if it is chosen. Never waits."""
        own = self._by_model.get(loaded.model)
        if own is not None:
            own[0].offer(context, loaded, signature, inputs, outputs, own[1])
        elif self._of_all is not None:
            self._of_all.offer(context, loaded, signature, inputs, outputs)

    def file_of(self, model: str) -> Path | None:
        """The file that requests for this model are captured in now."""
        own = self._by_model.get(model)
        capture = own[0] if own is not None else self._of_all
        return capture.path if capture is not None else None

    def close(self, seconds: float) -> None:
        """Wait until everything is written, for at most this long each."""
        for capture in (self._of_all, *self._by_file.values()):
            if capture is not None:
                capture.close(seconds)


def _bytes(arrays: Arrays) -> int:
    """The memory that they take: their values, and some for the objects."""
    total = 1024
    for array in arrays.values():
        total += sum(map(len, array.flat)) if array.dtype.kind == "O" else array.nbytes
    return total
