import gc
import weakref

import pytest

from service.runtime import malloc


class Node:
    other: "Node"


def test_what_holds_itself_in_a_circle_is_given_back() -> None:
    gc.disable()
    try:
        one, two = Node(), Node()
        one.other, two.other = two, one
        gone = weakref.ref(one)
        del one, two
        assert gone() is not None
        malloc.give_back()
        assert gone() is None
    finally:
        gc.enable()


def test_a_c_library_without_malloc_trim_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())
    malloc._trim.cache_clear()
    malloc.give_back()
    malloc._trim.cache_clear()
