import gc
import weakref
from unittest.mock import Mock

import pytest

from service.runtime import tuning
from service.runtime.tuning import limit_blas_threads, release_memory, tune_malloc

LIBRARIES = ["OPENBLAS_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM"]


@pytest.mark.parametrize(("name", "before"), [("", 0), ("OPENBLAS_NUM", 1), ("GOTO_NUM", 1), ("OMP_NUM", 3)])
def test_blas_gets_one_thread_unless_set(name: str, before: int) -> None:
    given = {f"{name}_THREADS": "4"} if name else {}
    environ = dict(given)
    limit_blas_threads(environ)
    assert environ == given | {f"{library}_THREADS": "1" for library in LIBRARIES[before:]}


class Node:
    other: "Node"


def test_cycles_are_released() -> None:
    gc.disable()
    try:
        one, two = Node(), Node()
        one.other, two.other = two, one
        gone = weakref.ref(one)
        del one, two
        assert gone() is not None
        release_memory()
        assert gone() is None
    finally:
        gc.enable()


def test_malloc_is_told_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Mock()
    monkeypatch.setattr("ctypes.CDLL", lambda _name: library)
    tune_malloc()
    assert sorted(call.args[0] for call in library.mallopt.call_args_list) == [-8, -3, -2, -1]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())
    tuning._malloc_trim.cache_clear()
    release_memory()
    tune_malloc()
    tuning._malloc_trim.cache_clear()
