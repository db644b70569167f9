"""Writes captured pictures whose right labels came later as a folder per class, for `python -m training folder`.

Result: INTO/<label>/<request>-<row>.png for each row with feedback, as the model saw it. A row is written once, however
often the command runs; where its feedback has changed since, its picture moves to the other label.
Cost: half a minute for a gigabyte of captured photos.
"""

import hashlib
import io
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import msgspec
import numpy as np
from PIL import Image

from service.feedback.lines import FeedbackLine, feedback_file
from service.feedback.lines import decode_line as decode_feedback
from service.lifecycle.repository import Repository
from service.observability.capture import Arrays, Captured, decode_line, decode_tensors
from service.observability.rotating_file import older_file
from service.serving_config import ImageSpec, InvalidServingConfig, read_serving_config
from service.tensors.dtypes import Array, shape_text
from training.data.captured import print_damaged, read_lines
from training.data.picture_folder import Pictures
from training.errors import RunError

NAME = "relabel"
# The service writes a request down on a thread, so its time may be after that of its feedback.
WRITING = timedelta(minutes=1)
MAX_NAME_BYTES = 200  # of a file, without row and suffix


@dataclass(frozen=True, kw_only=True)
class Config:
    capture: Path = field(
        metadata={"positional": True, "help": "what the service has captured; CAPTURE.1 is read, too, if there is one"}
    )
    feedback: str = field(
        default="",
        metadata={
            "metavar": "FILE",
            "bare": True,
            "help": "what the service has written down of feedback, FILE.1 included; without FILE, what is beside "
            "CAPTURE",
        },
    )
    into: str = field(
        default="", metadata={"metavar": "FOLDER", "help": "folder of the pictures; without it, relabelled/MODEL"}
    )
    model: str = field(
        default="", metadata={"metavar": "NAME", "help": "whose requests; needed where several models have feedback"}
    )
    wrong: bool = field(default=False, metadata={"help": "only the rows that were answered wrongly"})
    models: Path = field(default=Path("models"), metadata={"help": "folder of the models"})


class NoPicture(Exception):
    """The rows of a request cannot be written as pictures; the message says why."""


@dataclass
class Tally:
    # By the name of its file, the label of each picture.
    written: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    answered_right: set[str] = field(default_factory=set)
    # The ids with feedback whose request was found.
    found: set[str] = field(default_factory=set)
    # Places in the files, with the reason.
    left_out: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


class PictureWriter:
    """Pictures in a folder per class, each in one of them."""

    def __init__(self, folder: Path, tally: Tally) -> None:
        self._folder = folder
        self._tally = tally
        self._present = {path.name: path for path in folder.glob("*/*.png")}

    def write(self, name: str, label: str, pixels: Pictures) -> None:
        """Of pictures that are written under one name now, the last one stays."""
        tally, path = self._tally, self._folder / label / name
        present = self._present.get(name)
        if present == path:
            tally.kept[name] = label
            return
        # What clients sent is for this user alone, as in the captured requests.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        if present is not None:
            present.rename(path)
            self._present[name] = path
            tally.moved[name] = label
            with suppress(OSError):  # others are left in it
                present.parent.rmdir()
            return
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        # Hidden files are no pictures to train on: a run that is killed leaves no half one.
        draft = path.with_name(f".{name}")
        draft.write_bytes(file.getvalue())
        draft.rename(path)
        tally.written[name] = label


def run(config: Config) -> None:
    tally = Tally()
    model, feedback = read_feedback(config, tally)
    into = Path(config.into) if config.into else Path("relabelled", model)
    writer = PictureWriter(into, tally)
    specs = Specs(config.models, model)
    try:
        for where, captured in read_lines(with_older(config.capture), decode_line, tally.damaged):
            line = feedback.get(captured.request_id)
            if line is None or not is_about(line, captured):
                continue
            tally.found.add(captured.request_id)
            try:
                pixels = pixels_of(captured, specs)
            except NoPicture as error:
                tally.left_out.append(f"{where}: {error}")
            else:
                write_rows(writer, line, pixels, where, config, tally)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{into} has what was written so far; the same command goes on") from None
    print_damaged(tally.damaged)
    report(config, model, into, feedback, tally)


def read_feedback(config: Config, tally: Tally) -> tuple[str, dict[str, FeedbackLine]]:
    """The model, and what is known of each of its requests by the id. A later line counts more; what it does not say
    of a row, an earlier one about the same answer may."""
    file = Path(config.feedback) if config.feedback else feedback_file(config.capture)
    by_model: dict[str, dict[str, FeedbackLine]] = {}
    files = with_older(file)
    if not files:
        raise RunError(f"{file}: no such file; the service writes feedback there where it captures requests")
    for _, line in read_lines(files, decode_feedback, tally.damaged):
        of_model = by_model.setdefault(line.model, {})
        earlier = of_model.get(line.request_id)
        of_model[line.request_id] = line if earlier is None else joined(earlier, line)
    if not by_model:
        print_damaged(tally.damaged)
        raise RunError(f"{file}: no feedback in it")
    known = ", ".join(sorted(by_model))
    if config.model and config.model not in by_model:
        raise RunError(f"{file}: no feedback for {config.model}; there is some for {known}")
    if not config.model and len(by_model) > 1:
        raise RunError(f"{file}: feedback for {known}; choose one of them with --model")
    return next(item for item in by_model.items() if config.model in ("", item[0]))


def joined(earlier: FeedbackLine, later: FeedbackLine) -> FeedbackLine:
    if (earlier.version, earlier.answered) != (later.version, later.answered):
        return later
    labels = [old if new is None else new for old, new in zip(earlier.labels, later.labels, strict=True)]
    return msgspec.structs.replace(later, labels=labels)


def with_older(file: Path) -> list[Path]:
    """The file and the one before it, those that there are, the older one first."""
    return [path for path in (older_file(file), file) if path.exists()]


def is_about(line: FeedbackLine, captured: Captured) -> bool:
    """Whether the feedback is about this request: clients choose ids, and may use one again."""
    return (
        (captured.model, captured.version, captured.labels) == (line.model, line.version, line.answered)
        and len(line.labels) == len(line.answered)
        and captured.time <= line.time + WRITING
    )


class Specs:
    """How a picture becomes the input of each version, by its serving.json."""

    def __init__(self, models: Path, model: str) -> None:
        versions = Repository(models).versions() if models.is_dir() else {}
        self._folders = {version: folder for (name, version), folder in versions.items() if name == model}
        self._known: dict[int, ImageSpec | None] = {}

    def of(self, version: int) -> ImageSpec | None:
        """None if it does not say, or the version is gone; then the shape of the input does."""
        if version not in self._known:
            folder = self._folders.get(version)
            try:
                self._known[version] = read_serving_config(folder).image if folder else None
            except InvalidServingConfig as error:
                raise RunError(f"{folder}: {error}") from None
        return self._known[version]


def pixels_of(captured: Captured, specs: Specs) -> Pictures:
    """[rows, height, width] or [rows, height, width, 3]."""
    try:
        inputs: Arrays = decode_tensors(captured.inputs)
    except ValueError as error:
        raise NoPicture(str(error)) from None
    name = f"{captured.model} version {captured.version}"
    if len(inputs) != 1:
        raise NoPicture(f"{name} takes no pictures: it has the inputs {', '.join(sorted(inputs))}; expected one")
    ((input_name, values),) = inputs.items()
    spec = specs.of(captured.version)
    if not is_shape(values.shape, spec) or values.dtype.kind not in "uif":
        channels = "1 or 3" if spec is None else len(spec.mode)
        height, width = ("height", "width") if spec is None else (spec.height, spec.width)
        raise NoPicture(
            f"{name} takes no pictures: its input {input_name!r} has the shape {shape_text(values.shape)} and the type "
            f"{values.dtype.name}; expected numbers of the shape [rows, {height}, {width}, {channels}]"
        )
    return as_bytes(values, input_name)


def is_shape(shape: Sequence[int], spec: ImageSpec | None) -> bool:
    if spec is None:
        return len(shape) == 4 and shape[3] in (1, 3)
    size = (spec.height, spec.width)
    return tuple(shape[1:]) == (*size, len(spec.mode)) or (spec.mode == "L" and tuple(shape[1:]) == size)


def as_bytes(values: Array, name: str) -> Pictures:
    whole = np.rint(values)
    if not (np.isfinite(values).all() and (whole >= 0).all() and (whole <= 255).all()):
        raise NoPicture(f"{name!r} has values that are no pixels; expected 0 to 255")
    if values.size and values.max() <= 1 and (whole != values).any():
        raise NoPicture(f"{name!r} has fractions up to {values.max():.3g}; expected pixels from 0 to 255")
    pixels: Pictures = whole.astype(np.uint8)
    return pixels[..., 0] if pixels.ndim == 4 and pixels.shape[3] == 1 else pixels


def write_rows(
    writer: PictureWriter, line: FeedbackLine, pixels: Pictures, where: str, config: Config, tally: Tally
) -> None:
    if len(pixels) != len(line.labels):
        tally.left_out.append(f"{where}: {len(pixels)} rows, of which {len(line.labels)} have labels")
        return
    for row, (label, answered, picture) in enumerate(zip(line.labels, line.answered, pixels, strict=True)):
        name = f"{file_name(line.request_id)}-{row}.png"
        if label is None:
            continue
        if label == answered and config.wrong:
            tally.answered_right.add(name)
        elif is_folder_name(label):
            writer.write(name, label, picture)
        else:
            tally.left_out.append(f"{where}: {label!r} can be no folder's name")


def file_name(request_id: str) -> str:
    """Clients choose ids: with slashes, or a dot in front, which would hide the file."""
    name = quote(request_id, safe="")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) > MAX_NAME_BYTES:
        digest = hashlib.sha256(request_id.encode()).hexdigest()[:16]
        name = f"{name[: MAX_NAME_BYTES - 17]}-{digest}"
    return name


def is_folder_name(label: str) -> bool:
    return label.isprintable() and "/" not in label and label[:1] not in ("", ".") and len(label.encode()) <= 255


def report(config: Config, model: str, into: Path, feedback: dict[str, FeedbackLine], tally: Tally) -> None:
    unknown = len(feedback) - len(tally.found)
    if not tally.found:
        raise RunError(f"{config.capture}: none of the {unknown:,} requests of {model} with feedback is captured there")
    if tally.left_out and not (tally.written or tally.moved or tally.kept or tally.answered_right):
        raise RunError(f"no picture can be written; the first of {len(tally.left_out):,}: {tally.left_out[0]}")
    counts = Counter(tally.written.values())
    classes = ", ".join(f"{count:,} {label}" for label, count in sorted(counts.items()))
    print(f"{'Pictures':12}{len(tally.written):,} new in {into}" + (f": {classes}" if classes else ""))
    if tally.kept or tally.moved:
        print(f"{'':12}{len(tally.kept):,} there already, {len(tally.moved):,} moved to another label")
    if tally.answered_right:
        print(f"{'':12}{len(tally.answered_right):,} answered rightly, and left out")
    if unknown:
        print(f"{'Unknown':12}{unknown:,} requests with feedback are not captured")
    if tally.left_out:
        print(f"{'Left out':12}{len(tally.left_out):,}; the first: {tally.left_out[0]}")
    if tally.written or tally.kept or tally.moved:
        command = f"python -m training folder PICTURES {shlex.quote(str(into))} --name {shlex.quote(model)}"
        print(f"{'Next':12}{command}")
