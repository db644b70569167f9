"""What becomes of TensorFlow's messages. The engine itself is tested with TensorFlow, in tests/integration."""

from pathlib import Path

import pytest

from service.engines.saved_model import sentence

VERSION = Path("/srv/models/coat/1")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("indices[0] = 5 is not in [0, 2)", "indices[0] = 5 is not in [0, 2)"),
        (
            "assertion failed: [too long] [Condition x <= y did not hold.]\n\t [[{{node Assert/Assert}}]]",
            "assertion failed: [too long] [Condition x <= y did not hold.]",
        ),
        (
            "2 root error(s) found.\n  (0) INVALID_ARGUMENT: too long\n\t [[{{node a}}]]\n"
            "  (1) INVALID_ARGUMENT: too short\n\t [[{{node b}}]]\n0 successful operations.",
            "too long",
        ),
        (
            "Op type not registered 'Frobnicate' in binary running on web-7. Make sure the Op and Kernel are there",
            "Op type not registered 'Frobnicate'",
        ),
        (
            "No OpKernel was registered to support Op 'PyFunc' used by {{node call/PyFunc}} with these attrs: [Tin=[]]"
            "\nRegistered devices: [CPU]",
            "No OpKernel was registered to support Op 'PyFunc' used by call/PyFunc",
        ),
        ("Can't parse /srv/models/coat/1/saved_model.pb as binary proto", "Can't parse saved_model.pb as binary proto"),
        (
            "/srv/models/coat/1/assets/words.txt; No such file or directory",
            "assets/words.txt; No such file or directory",
        ),
        ("/srv/models/coat/1; Permission denied", "its folder; Permission denied"),
    ],
)
def test_a_message_becomes_a_sentence_that_names_neither_nodes_nor_the_machine(message: str, expected: str) -> None:
    assert sentence(message, VERSION) == expected
