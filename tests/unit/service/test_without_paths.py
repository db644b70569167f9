from pathlib import Path

import pytest

from service.errors import without_paths

FOLDER = Path("/srv/my models/clothing/2")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "[Errno 21] Is a directory: '/srv/my models/clothing/2/model.tflite'",
            "[Errno 21] Is a directory: 'model.tflite'",
        ),
        ("/srv/my models/clothing/2 holds nothing", "its folder holds nothing"),
        ("/opt/venv/lib/python3.11/site-packages/x/y.so: undefined symbol", "y.so: undefined symbol"),
        ("vocabulary (/home/alice/words.txt) is missing", "vocabulary (words.txt) is missing"),
        ("open /usr/lib/ failed", "open  failed"),
        ("assets.extra/serving.json: no", "assets.extra/serving.json: no"),
        ("expected 1/2, and/or http://example.org/a/b", "expected 1/2, and/or http://example.org/a/b"),
    ],
)
def test_folders_of_this_machine_are_left_out_and_the_rest_stays(message: str, expected: str) -> None:
    assert without_paths(message, FOLDER) == expected


def test_a_folder_that_is_named_from_here_is_left_out_as_well() -> None:
    assert without_paths("models/m/1/variables are missing", Path("models/m/1")) == "variables are missing"
