import gc
import weakref

import pytest

from service.runtime import tuning
from service.runtime.tuning import limit_blas_threads, release_memory, tune_malloc


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {},
            {
                "OPENBLAS_NUM_THREADS": "1",
                "MKL_NUM_THREADS": "1",
                "BLIS_NUM_THREADS": "1",
                "VECLIB_MAXIMUM_THREADS": "1",
            },
        ),
        ({"OPENBLAS_NUM_THREADS": "4"}, {"OPENBLAS_NUM_THREADS": "4", "MKL_NUM_THREADS": "1"}),
        ({"OMP_NUM_THREADS": "2"}, {"OPENBLAS_NUM_THREADS": None, "MKL_NUM_THREADS": None, "OMP_NUM_THREADS": "2"}),
        ({"GOTO_NUM_THREADS": "2"}, {"OPENBLAS_NUM_THREADS": None, "MKL_NUM_THREADS": "1"}),
    ],
)
def test_blas_gets_one_thread_unless_set(environ: dict[str, str], expected: dict[str, str | None]) -> None:
    limit_blas_threads(environ)
    assert {name: environ.get(name) for name in expected} == expected


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
