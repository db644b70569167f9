"""Byte order marks, in every text that the service reads."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.api.playground.version_files import VersionFiles
from service.api.v1.decode import parse_body
from service.api.v2 import decode as v2_codec
from service.cli.inputs import ModelInput, source
from service.drift.reference import InvalidReference, read_reference
from service.errors import InvalidRequest
from service.lifecycle import policies
from service.runtime.config_file import InvalidFile
from service.runtime.utf8 import NotUtf8, decode, without_mark
from service.security import api_keys
from service.serving_config import ASSETS, InvalidServingConfig, read_serving_config
from service.tensors.files import InvalidInput
from tests.unit.service.fakes import signature, tensor

LINEAR = signature({"x": tensor("DT_FLOAT", -1)}, {"y": tensor("DT_FLOAT", -1)})
MARK = b"\xef\xbb\xbf"
PREDICT = b'{"instances": [10.0]}'
INFER = b'{"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [10.0, 0.0]}]}'
BINARY = b'{"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}]}'
POLICIES = b"[models.clothing]\nversions = {latest = 1}\n"
REFERENCE = b'{"rows": 1, "inputs": {}}'
KEYS = b'[keys.ci]\nsha256 = "%b"\nscope = "predict"\n' % (b"0" * 64)


def infer(text: bytes, data: bytes = b"") -> Any:
    _, inputs = v2_codec.decode(text + data, str(len(text)).encode() if data else None, LINEAR)
    return inputs["x"].tolist()


def beside(folder: Path, name: str, text: bytes) -> Path:
    (folder / ASSETS).mkdir(exist_ok=True)
    (folder / ASSETS / name).write_bytes(text)
    return folder


def read_input(text: str, rank: int, stdin: bytes = b"") -> Any:
    (one,) = source(text, {"x": ModelInput(rank)}, io.BytesIO(stdin)).items
    return one.request if isinstance(one.request, InvalidInput) else one.request.body


def read_file(folder: Path, name: str, text: bytes) -> Any:
    (folder / name).write_bytes(text)
    return read_input(str(folder / name), 2)


READERS: dict[str, tuple[bytes, Callable[[Path, bytes], Any]]] = {
    "v1": (PREDICT, lambda folder, text: parse_body(text)),
    "v2": (INFER, lambda folder, text: infer(text)),
    "v2 before binary data": (BINARY, lambda folder, text: infer(text, bytes(8))),
    "models.toml": (POLICIES, lambda folder, text: policies.decode(text, folder)),
    "keys": (KEYS, lambda folder, text: api_keys.decode(text, folder)),
    "serving.json": (b"{}", lambda folder, text: read_serving_config(beside(folder, "serving.json", text))),
    "reference.json": (REFERENCE, lambda folder, text: read_reference(beside(folder, "reference.json", text))),
    "metrics.json": (b"{}", lambda folder, text: VersionFiles(beside(folder, "metrics.json", text)).metrics()),
    "CSV": (b"x,y\r\n1,2\r\n3,4\r\n", lambda folder, text: read_file(folder, "rows.csv", text)),
    "JSON": (PREDICT, lambda folder, text: read_file(folder, "rows.json", text)),
    "standard input": (PREDICT, lambda folder, text: read_input("-", 1, text)),
}
each_reader = pytest.mark.parametrize("name", READERS)


@each_reader
def test_mark_is_ignored(name: str, tmp_path: Path) -> None:
    text, read = READERS[name]
    assert (expected := read(tmp_path, text)) is not None
    assert read(tmp_path, MARK + text) == expected


@each_reader
@pytest.mark.parametrize("coding", ["utf-16", "utf-32"])
def test_other_encoding_is_rejected(name: str, coding: str, tmp_path: Path) -> None:
    text, read = READERS[name]
    wrong = text.decode().encode(coding)
    if name == "metrics.json":  # what cannot be read there is not shown
        assert read(tmp_path, wrong) is None
        return
    try:
        rejection: Any = read(tmp_path, wrong)
    except (InvalidRequest, InvalidFile, InvalidServingConfig, InvalidReference) as error:
        rejection = error
    assert "it is in UTF-16 or UTF-32, as its byte order mark says; expected UTF-8" in str(rejection)


def test_first_mark_alone_is_ignored_and_invalid_utf_8_says_where() -> None:
    assert decode(MARK) == ""
    assert decode(MARK + MARK) == "\ufeff"
    assert without_mark(memoryview(MARK + MARK)) == MARK
    with pytest.raises(NotUtf8, match=r"it is not UTF-8 \(.* at byte 2\); expected UTF-8"):
        decode(b"Gr\xfc\xdfe")
