"""Stand-ins for what is slow or heavy: an engine, and a whole service over such engines."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from flask import Flask
from werkzeug.test import TestResponse

from service.registry import LoadedVersion, Registry, State, VersionStatus
from service.serving_config import ServingConfig
from service.signature import DEFAULT_SIGNATURE, PREDICT_METHOD, Signature, TensorSpec
from service.tensors import Array

Arrays = Mapping[str, Array]
Answer = Callable[[Arrays], dict[str, Array]]


@dataclass
class FakeEngine:
    """Answers what `answer` makes of the inputs, and keeps what it was asked."""

    signatures: Mapping[str, Signature]
    answer: Answer
    name: str = "fake"
    asked: list[tuple[str, Arrays]] = field(default_factory=list)

    def run(self, signature: str, inputs: Arrays) -> dict[str, Array]:
        self.asked.append((signature, inputs))
        return self.answer(inputs)


def tensor(dtype: str, *shape: int) -> TensorSpec:
    return TensorSpec("tensor:0", dtype, shape)


def any_shape(dtype: str) -> TensorSpec:
    return TensorSpec("tensor:0", dtype, None)


def signature(inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec] | None = None) -> Signature:
    return Signature(PREDICT_METHOD, inputs, outputs or {"y": any_shape("DT_FLOAT")})


def echo(inputs: Arrays) -> dict[str, Array]:
    return {"y": next(iter(inputs.values()))}


def loaded_version(
    of: Signature, answer: Answer = echo, config: ServingConfig | None = None, *, model: str = "model", version: int = 1
) -> LoadedVersion:
    return LoadedVersion(model, version, FakeEngine({DEFAULT_SIGNATURE: of}, answer), config or ServingConfig())


def make_available(registry: Registry, loaded: LoadedVersion) -> None:
    status = VersionStatus(State.AVAILABLE, engine=loaded.engine.name, load_seconds=0.5)
    registry.set_status(loaded.model, loaded.version, status, loaded)


@dataclass
class FakeService:
    """An app made by create_app, whose models are fakes."""

    app: Flask

    @property
    def registry(self) -> Registry:
        registry = self.app.extensions["registry"]
        assert isinstance(registry, Registry)
        return registry

    def add(
        self,
        of: Signature,
        answer: Answer = echo,
        config: ServingConfig | None = None,
        *,
        model: str = "model",
        version: int = 1,
    ) -> FakeEngine:
        loaded = loaded_version(of, answer, config, model=model, version=version)
        make_available(self.registry, loaded)
        assert isinstance(loaded.engine, FakeEngine)
        return loaded.engine

    def get(self, path: str) -> TestResponse:
        return self.app.test_client().get(path)

    def post(self, path: str, body: object = None, content_type: str = "application/json") -> TestResponse:
        """`body`: bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else orjson.dumps(body)
        return self.app.test_client().post(path, data=data, content_type=content_type)

    def post_form(self, path: str, form: Mapping[str, Any]) -> TestResponse:
        return self.app.test_client().post(path, data=form, content_type="multipart/form-data")

    def sample(self, line: str) -> str | None:
        """What /metrics says for a series; None where it has no such line."""
        for found in self.get("/metrics").text.splitlines():
            series, _, value = found.rpartition(" ")
            if series == line:
                return value
        return None


def error(response: TestResponse) -> str:
    """An error answer's sentence; fails where the answer is no such JSON object."""
    assert response.mimetype == "application/json"
    body = orjson.loads(response.data)
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    return body["error"]
