import gc
import weakref

import pytest

from service.runtime import tuning
from service.runtime.tuning import limit_blas_threads, release_memory, tune_malloc

OPENBLAS, MKL, BLIS, VECLIB = (
    f"{library}_THREADS" for library in ("OPENBLAS_NUM", "MKL_NUM", "BLIS_NUM", "VECLIB_MAXIMUM")
)


@pytest.mark.parametrize(
    ("environ", "added"),
    [
        ({}, {OPENBLAS, MKL, BLIS, VECLIB}),
        ({OPENBLAS: "4"}, {MKL, BLIS, VECLIB}),
        ({"GOTO_NUM_THREADS": "2"}, {MKL, BLIS, VECLIB}),
        ({"OMP_NUM_THREADS": "2"}, {VECLIB}),
    ],
)
def test_blas_gets_one_thread_unless_set(environ: dict[str, str], added: set[str]) -> None:
    before = dict(environ)
    limit_blas_threads(environ)
    assert environ == before | dict.fromkeys(added, "1")


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
    options: list[int] = []

    class Library:
        def mallopt(self, option: int, _value: int) -> None:
            options.append(option)

    monkeypatch.setattr("ctypes.CDLL", lambda _name: Library())
    tune_malloc()
    assert sorted(options) == [-8, -3, -2, -1]


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())
    tuning._malloc_trim.cache_clear()
    release_memory()
    tune_malloc()
    tuning._malloc_trim.cache_clear()
