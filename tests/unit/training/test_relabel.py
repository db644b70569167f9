"""Captured pictures with feedback, as a folder per class."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.feedback.lines import FeedbackLine
from service.feedback.lines import encode_line as encode_feedback
from service.observability.capture import Captured, encode_line, encode_tensors
from service.serving_config import ImageSpec, ServingConfig, write_serving_config
from service.tensors.dtypes import Array
from training import relabel
from training.__main__ import main

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
GREY = ImageSpec(height=2, width=3, mode="L")


def grey(*values: int) -> Array:
    """A row for each value: a picture of it alone."""
    return np.stack([np.full((2, 3), value, np.float32) for value in values])


def captured(pixels: Array, *labels: str, **changed: Any) -> bytes:
    """A request that was answered with these labels."""
    given: dict[str, Any] = {
        "time": NOON,
        "request_id": "mine",
        "model": "model",
        "version": 1,
        "engine": "fake",
        "protocol": "v1",
        "verb": "predict",
        "signature": "serving_default",
        "inputs": encode_tensors({"pixels": pixels}),
        "outputs": {},
        "labels": list(labels),
    }
    return encode_line(Captured(**given | changed))


def given(labels: list[str | None], *answered: str, **changed: Any) -> bytes:
    line: dict[str, Any] = {
        "time": NOON + timedelta(hours=1),
        "request_id": "mine",
        "model": "model",
        "version": 1,
        "labels": labels,
        "answered": list(answered),
    }
    return encode_feedback(FeedbackLine(**line | changed))


class Bench:
    """What a service has written about its model's version 1, which takes grey pictures of 2×3."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.into = folder / "relabelled"
        self.models = folder / "models"
        self.capture = folder / "requests.jsonl"
        self.feedback = folder / "requests.feedback.jsonl"
        self.describe(GREY)

    def describe(self, image: ImageSpec | None) -> None:
        (version := self.models / "model" / "1").mkdir(parents=True, exist_ok=True)
        (version / "saved_model.pb").touch()
        write_serving_config(version, ServingConfig(image=image))

    def run(self, *more: str) -> tuple[int, str, str]:
        flags = ["--into", str(self.into), "--models", str(self.models)]
        status = main(["relabel", str(self.capture), *flags, *more])
        out = self._capsys.readouterr()
        return status, out.out, out.err

    def relabel(self, requests: bytes, feedback: bytes, *more: str) -> str:
        """What it prints."""
        self.capture.write_bytes(requests)
        self.feedback.write_bytes(feedback)
        status, out, error = self.run(*more)
        assert (status, error) == (0, "")
        return out

    def error(self, requests: bytes, feedback: bytes, *more: str) -> str:
        self.capture.write_bytes(requests)
        self.feedback.write_bytes(feedback)
        status, out, error = self.run(*more)
        assert (status, out) == (1, "")
        assert error.count("\n") == 1
        return error

    def pictures(self) -> dict[str, Any]:
        """The values of each picture by its path."""
        return {
            str(path.relative_to(self.into)): np.asarray(Image.open(path)).tolist()
            for path in sorted(self.into.rglob("*"))
            if path.is_file()
        }


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, capsys)


def test_each_row_with_feedback_is_a_picture_of_its_label(bench: Bench) -> None:
    requests = captured(grey(10, 20, 30), "bag", "bag", "hat") + captured(grey(40), "hat", request_id="other")
    told = bench.relabel(requests, given(["hat", None, "hat"], "bag", "bag", "hat"))
    assert bench.pictures() == {"hat/mine-0.png": [[10] * 3] * 2, "hat/mine-2.png": [[30] * 3] * 2}
    assert told.splitlines() == [
        f"Pictures    2 new in {bench.into}: 2 hat",
        f"Next        python -m training folder PICTURES {bench.into} --name model",
    ]


def test_wrong_leaves_out_what_was_answered_rightly(bench: Bench) -> None:
    told = bench.relabel(captured(grey(10, 20), "bag", "hat"), given(["hat", "hat"], "bag", "hat"), "--wrong")
    assert list(bench.pictures()) == ["hat/mine-0.png"]
    assert "1 answered rightly, and left out" in told


@pytest.mark.parametrize(
    ("pixels", "image", "mode"),
    [
        (np.full((1, 2, 3, 1), 7, np.float32), GREY, "L"),
        (np.full((1, 2, 3, 3), 7, np.uint8), ImageSpec(height=2, width=3), "RGB"),
        (np.full((1, 4, 5, 3), 7.4, np.float64), None, "RGB"),
        (np.full((1, 4, 5, 1), 7, np.int64), None, "L"),
    ],
    ids=["a channel of grey", "colour", "colour by the shape", "grey by the shape"],
)
def test_pixels_of_each_kind(pixels: Array, image: ImageSpec | None, mode: str, bench: Bench) -> None:
    bench.describe(image)
    bench.relabel(captured(pixels, "bag"), given(["hat"], "bag"))
    with Image.open(bench.into / "hat/mine-0.png") as picture:
        assert (picture.mode, picture.size) == (mode, pixels.shape[2:0:-1])
        assert np.unique(np.asarray(picture)).tolist() == [7]


def test_later_feedback_counts_more_in_rows_that_it_names(bench: Bench) -> None:
    answered = "bag", "bag", "bag"
    older = bench.feedback.with_name(f"{bench.feedback.name}.1")
    older.write_bytes(given(["hat", "hat", None], *answered))
    bench.relabel(captured(grey(1, 2, 3), *answered), given([None, "shoe", "shoe"], *answered))
    assert list(bench.pictures()) == ["hat/mine-0.png", "shoe/mine-1.png", "shoe/mine-2.png"]


def test_second_run_moves_what_has_another_label_now_and_writes_nothing_twice(bench: Bench) -> None:
    requests = captured(grey(1), "bag") + captured(grey(2), "bag", request_id="other")
    other = given(["hat"], "bag", request_id="other")
    bench.relabel(requests, given(["shoe"], "bag") + other)
    (kept := bench.into / "hat/other-0.png").write_bytes(b"of the first run")
    told = bench.relabel(requests, given(["hat"], "bag") + other)
    assert "Pictures    0 new" in told
    assert "1 there already, 1 moved to another label" in told
    assert [path.name for path in bench.into.iterdir()] == ["hat"]
    assert sorted(path.name for path in kept.parent.iterdir()) == ["mine-0.png", "other-0.png"]
    assert kept.read_bytes() == b"of the first run"


def test_of_requests_with_one_id_the_last_one_that_feedback_fits_is_written(bench: Bench) -> None:
    bench.capture.with_name("requests.jsonl.1").write_bytes(captured(grey(1), "bag") + captured(grey(2), "bag"))
    others = [
        captured(grey(3), "hat"),
        captured(grey(4), "bag", version=2),
        captured(grey(5), "bag", model="other"),
        captured(grey(6), "bag", time=NOON + timedelta(hours=2)),
    ]
    told = bench.relabel(b"".join(others), given(["hat"], "bag"))
    assert bench.pictures() == {"hat/mine-0.png": [[2] * 3] * 2}
    assert "1 new in" in told


def test_request_that_is_written_down_after_its_feedback(bench: Bench) -> None:
    late = captured(grey(1), "bag", time=NOON + timedelta(seconds=10))
    bench.relabel(late, given(["hat"], "bag", time=NOON))
    assert list(bench.pictures()) == ["hat/mine-0.png"]


def test_what_is_not_captured_is_counted(bench: Bench) -> None:
    feedback = given(["hat"], "bag") + given(["hat"], "bag", request_id="a") + given(["hat"], "bag", request_id="b")
    assert "Unknown     2 requests with feedback are not captured" in bench.relabel(captured(grey(1), "bag"), feedback)


def test_damaged_lines_are_named_and_left_out(bench: Bench) -> None:
    bench.capture.write_bytes(b"{}\n" + captured(grey(1), "bag"))
    bench.feedback.write_bytes(given(["hat"], "bag") + given(["hat"], "bag")[:40] + b"\n")
    status, _, error = bench.run()
    assert status == 0
    assert error.startswith(f"damaged, and left out: {bench.feedback}, line 2: ")
    assert f"\ndamaged, and left out: {bench.capture}, line 1: " in error
    assert list(bench.pictures()) == ["hat/mine-0.png"]


@pytest.mark.parametrize(
    ("request_id", "name"),
    [
        ("../../up", "%2E.%2F..%2Fup-0.png"),
        (".hidden", "%2Ehidden-0.png"),
        ("a?b&c", "a%3Fb%26c-0.png"),
    ],
)
def test_id_that_is_no_name_of_a_file(request_id: str, name: str, bench: Bench) -> None:
    bench.relabel(captured(grey(1), "bag", request_id=request_id), given(["hat"], "bag", request_id=request_id))
    assert list(bench.pictures()) == [f"hat/{name}"]


def test_long_ids_have_names_of_their_own(bench: Bench) -> None:
    ids = ["/" * 127 + end for end in "ab"]
    requests = b"".join(captured(grey(1), "bag", request_id=each) for each in ids)
    bench.relabel(requests, b"".join(given(["hat"], "bag", request_id=each) for each in ids))
    assert len(bench.pictures()) == 2


@pytest.mark.parametrize("label", ["T-shirt/top", "..", ".hidden", "", "a\nb", "x" * 256])
def test_label_that_is_no_name_of_a_folder_is_left_out(label: str, bench: Bench) -> None:
    told = bench.relabel(captured(grey(1, 2), "bag", "bag"), given(["hat", label], "bag", "bag"))
    assert f"Left out    1; the first: {bench.capture}, line 1: {label!r} can be no folder's name" in told
    assert list(bench.pictures()) == ["hat/mine-0.png"]


@pytest.mark.parametrize(
    ("inputs", "image", "says"),
    [
        (
            {"motion": np.zeros((1, 100, 6), np.float32)},
            None,
            "its input 'motion' has the shape [1, 100, 6] and the type float32; expected numbers of the shape "
            "[rows, height, width, 1 or 3]",
        ),
        ({"pixels": grey(1)}, ImageSpec(height=2, width=2), "expected numbers of the shape [rows, 2, 2, 3]"),
        ({"text": np.array([b"a"], object)}, None, "its input 'text' has the shape [1] and the type object"),
        ({"a": grey(1), "b": grey(1)}, GREY, "it has the inputs a, b; expected one"),
        ({"pixels": grey(1) * 256}, GREY, "'pixels' has values that are no pixels; expected 0 to 255"),
        ({"pixels": grey(1) * np.nan}, GREY, "'pixels' has values that are no pixels; expected 0 to 255"),
        ({"pixels": grey(1) * 0.5}, GREY, "'pixels' has fractions up to 0.5; expected pixels from 0 to 255"),
        ({"pixels": grey(1, 2)}, GREY, "2 rows, of which 1 have labels"),
    ],
    ids=["recording", "another size", "text", "two inputs", "too large", "not a number", "scaled", "other rows"],
)
def test_input_that_is_no_picture_is_an_error(
    inputs: dict[str, Array], image: ImageSpec | None, says: str, bench: Bench
) -> None:
    bench.describe(image)
    error = bench.error(captured(grey(1), "bag", inputs=encode_tensors(inputs)), given(["hat"], "bag"))
    assert f"no picture can be written; the first of 1: {bench.capture}, line 1: " in error
    assert says in error


def test_tensor_that_does_not_fit_its_shape_is_left_out(bench: Bench) -> None:
    line = captured(grey(1), "bag").replace(b'"shape":[1,2,3]', b'"shape":[1,2,4]')
    assert "'pixels' has 6 values" in bench.error(line, given(["hat"], "bag"))


def test_model_is_chosen_where_several_have_feedback(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    feedback = given(["hat"], "bag") + given(["hat"], "bag", model="other")
    assert "feedback for model, other; choose one of them with --model" in bench.error(b"", feedback)
    assert "no feedback for third; there is some for model, other" in bench.error(b"", feedback, "--model", "third")
    requests = captured(grey(1), "bag", model="other", inputs=encode_tensors({"x": grey(1)[..., np.newaxis]}))
    monkeypatch.chdir(bench.models.parent)
    bench.relabel(requests, feedback, "--model", "other", "--into", "")
    assert list(bench.pictures()) == ["other/hat/mine-0.png"]


def test_invalid_description_of_the_version_is_an_error(bench: Bench) -> None:
    (bench.models / "model/1/assets.extra/serving.json").write_text("{")
    assert "serving.json: " in bench.error(captured(grey(1), "bag"), given(["hat"], "bag"))


def test_feedback_may_lie_elsewhere(bench: Bench) -> None:
    bench.capture.write_bytes(captured(grey(1), "bag"))
    (elsewhere := bench.models.parent / "given.jsonl").write_bytes(given(["hat"], "bag"))
    assert bench.run("--feedback", str(elsewhere))[0] == 0
    status, _, error = bench.run("--feedback")
    assert status == 1
    assert f"{bench.feedback}: no such file" in error


@pytest.mark.parametrize(
    ("requests", "feedback", "says"),
    [
        (captured(grey(1), "hat"), given(["hat"], "bag"), "none of the 1 requests of model with feedback is captured"),
        (captured(grey(1), "hat"), b"", "no feedback in it"),
    ],
    ids=["no request", "no feedback"],
)
def test_nothing_to_join_is_an_error(requests: bytes, feedback: bytes, says: str, bench: Bench) -> None:
    assert says in bench.error(requests, feedback)


def test_pictures_are_for_their_owner_alone(bench: Bench) -> None:
    bench.relabel(captured(grey(1), "bag"), given(["hat"], "bag"))
    assert bench.into.stat().st_mode & 0o777 == 0o700


def test_interrupt_says_where_the_pictures_are(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(relabel.PictureWriter, "write", interrupted)
    bench.capture.write_bytes(captured(grey(1), "bag"))
    bench.feedback.write_bytes(given(["hat"], "bag"))
    status, _, error = bench.run()
    assert status == 130
    assert f"{bench.into} has what was written so far; the same command goes on" in error
