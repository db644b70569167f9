"""TensorFlow's C API, called in the library of the installed package.

The package itself is never imported: that would take seconds and 200 MB, and running a SavedModel needs no Python.

Source: tensorflow/c/{c_api,tf_tensor,tf_tstring,tf_status,tf_buffer}.h.
"""

import ctypes
import functools
import importlib.util
import logging
import os
import re
from ctypes import c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from service.engines.base import LoadError

# The oldest that is tested. The C API promises to stay compatible until version 3.
MIN_VERSION = (2, 21)
# For error messages.
TENSORFLOW_INSTALL = "make serve TENSORFLOW=1 (or: pip install tensorflow-cpu)"

logger = logging.getLogger(__name__)

Library = SimpleNamespace

NOT_FOUND = 5  # of tsl_status.h


class Buffer(ctypes.Structure):
    """TF_Buffer."""

    _fields_ = (("data", c_void_p), ("length", c_size_t), ("deallocator", c_void_p))


class Output(ctypes.Structure):
    """TF_Output: a tensor of a graph, given by an operation and the index among its outputs."""

    _fields_ = (("operation", c_void_p), ("index", c_int))


DEALLOCATOR = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_void_p)

_BUFFER = ctypes.POINTER(Buffer)
_POINTERS = ctypes.POINTER(c_void_p)
_SIZES = ctypes.POINTER(c_int64)
_VALUES = (ctypes.POINTER(Output), _POINTERS, c_int)

# Types of result and arguments. TensorFlow's objects are addresses: c_void_p.
_QUICK: dict[str, tuple[Any, list[Any]]] = {
    "TF_Version": (c_char_p, []),
    "TF_NewStatus": (c_void_p, []),
    "TF_DeleteStatus": (None, [c_void_p]),
    "TF_GetCode": (c_int, [c_void_p]),
    "TF_Message": (c_char_p, [c_void_p]),
    "TF_NewBuffer": (_BUFFER, []),
    "TF_DeleteBuffer": (None, [_BUFFER]),
    "TF_NewSessionOptions": (c_void_p, []),
    "TF_SetConfig": (None, [c_void_p, c_char_p, c_size_t, c_void_p]),
    "TF_DeleteSessionOptions": (None, [c_void_p]),
    "TF_NewGraph": (c_void_p, []),
    "TF_GraphOperationByName": (c_void_p, [c_void_p, c_char_p]),
    "TF_OperationNumOutputs": (c_int, [c_void_p]),
    "TF_OperationOutputType": (c_int, [Output]),
    "TF_NewTensor": (c_void_p, [c_int, _SIZES, c_int, c_void_p, c_size_t, DEALLOCATOR, c_void_p]),
    "TF_AllocateTensor": (c_void_p, [c_int, _SIZES, c_int, c_size_t]),
    "TF_DeleteTensor": (None, [c_void_p]),
    "TF_TensorType": (c_int, [c_void_p]),
    "TF_NumDims": (c_int, [c_void_p]),
    "TF_Dim": (c_int64, [c_void_p, c_int]),
    "TF_TensorData": (c_void_p, [c_void_p]),
    "TF_StringCopy": (None, [c_void_p, c_char_p, c_size_t]),
    "TF_StringGetDataPointer": (c_void_p, [c_void_p]),
    "TF_StringGetSize": (c_size_t, [c_void_p]),
    "TF_StringDealloc": (None, [c_void_p]),
}
_LONG: dict[str, tuple[Any, list[Any]]] = {
    "TF_LoadLibrary": (c_void_p, [c_char_p, c_void_p]),
    "TF_LoadSessionFromSavedModel": (
        c_void_p,
        [c_void_p, c_void_p, c_char_p, ctypes.POINTER(c_char_p), c_int, c_void_p, _BUFFER, c_void_p],
    ),
    "TF_SessionRun": (
        None,
        [c_void_p, c_void_p, *_VALUES, *_VALUES, c_void_p, c_int, c_void_p, c_void_p],
    ),
    "TF_CloseSession": (None, [c_void_p, c_void_p]),
    "TF_DeleteSession": (None, [c_void_p, c_void_p]),
    "TF_DeleteGraph": (None, [c_void_p]),
}


class TensorFlowError(Exception):
    """An error of TensorFlow, with its message; `code` is a TF_Code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def check(library: Library, status: int) -> None:
    """Raise TensorFlowError if this TF_Status holds an error."""
    if code := library.TF_GetCode(status):
        raise TensorFlowError(code, library.TF_Message(status).decode(errors="replace"))


@functools.cache
def tensorflow() -> Library:
    """The library's functions, loaded once. Call it after a fork, never before.

    Raises:
        ModuleNotFoundError: TensorFlow is not installed.
        LoadError: the installed TensorFlow cannot be used.
    """
    path = _library_path()
    # Else TensorFlow prints its build flags and missing GPUs.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        # Only long calls release the interpreter lock: for the others that would cost more than the call.
        library = Library()
        for functions, handle in ((_QUICK, ctypes.PyDLL(str(path))), (_LONG, ctypes.CDLL(str(path)))):
            for name, (result, arguments) in functions.items():
                function = getattr(handle, name)
                function.restype, function.argtypes = result, arguments
                setattr(library, name, function)
    except (OSError, AttributeError) as error:
        raise LoadError(f"{_found(path)} cannot be used: {str(error).replace(f'{path.parent}/', '')}") from None
    version = library.TF_Version().decode()
    if not _is_suitable(version):
        # Not in the LoadError, which clients read.
        logger.error("%s is version %s", _found(path), version)
        raise LoadError(f"{_found(path)} is of another version than is needed: {_expected()}")
    return library


@functools.cache
def load_op_library(path: Path) -> None:
    """Load a library with operations, once. Raises LoadError, which names it, and the errors of `tensorflow`."""
    library = tensorflow()
    status = library.TF_NewStatus()
    try:
        library.TF_LoadLibrary(os.fsencode(path), status)
        check(library, status)
    except TensorFlowError as error:
        reason = str(error).removeprefix(f"{path}: ")
        if "undefined symbol" in reason:
            version = library.TF_Version().decode()
            reason += f"; it is made for another TensorFlow than the one that is installed, {version}"
        raise LoadError(f"{path} cannot be loaded: {reason}") from None
    finally:
        library.TF_DeleteStatus(status)


def _library_path() -> Path:
    spec = importlib.util.find_spec("tensorflow")
    if spec is None:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    # libtensorflow_cc.so.2 on Linux, libtensorflow_cc.2.dylib on macOS.
    for folder in folders:
        for path in sorted(folder.glob("libtensorflow_cc.*")):
            return path
    raise LoadError(
        "the TensorFlow that is installed brings no library libtensorflow_cc (for Windows there is none); "
        f"expected the package tensorflow or tensorflow-cpu, {_expected()}"
    )


def _is_suitable(version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)\.", version)
    return numbers is not None and MIN_VERSION <= (int(numbers[1]), int(numbers[2])) < (3, 0)


def _expected() -> str:
    return f"{MIN_VERSION[0]}.{MIN_VERSION[1]} or a later 2.x"


def _found(path: Path) -> str:
    return f"the library {path.name} of the TensorFlow that is installed"
