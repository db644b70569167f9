import re

import pytest

from service.inference.context import request_id


@pytest.mark.parametrize("given", [b"a", b"8a7f-11", b"x" * 128, b"a,b", bytes(range(0x21, 0x7F))])
def test_the_clients_own_is_taken(given: bytes) -> None:
    assert request_id(given) == given.decode()


@pytest.mark.parametrize(
    "given",
    [None, b"", b"x" * 129, b"two words", b"a\tb", b"line\nline", b"line\n", b"f\xc3\xbcr", b"\x7f", b"\x1b[2J"],
)
def test_what_does_not_fit_into_a_line_gets_a_new_one(given: bytes | None) -> None:
    assert re.fullmatch("[0-9a-f]{16,24}", request_id(given))


def test_no_two_new_ones_are_the_same() -> None:
    assert len({request_id(None) for _ in range(1000)}) == 1000
