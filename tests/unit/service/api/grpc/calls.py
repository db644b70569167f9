"""Calls of gRPC as the transport hands them to the dispatcher."""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson

from service.http import GRPC, Response
from service.server import grpc
from tests.unit.service.api.grpc import schema
from tests.unit.service.fakes import FakeService, request

PREDICTION = "tensorflow.serving.PredictionService"
MODELS = "tensorflow.serving.ModelService"
INFERENCE = "inference.GRPCInferenceService"


def respond(
    service: FakeService, method: str, body: bytes, headers: Mapping[bytes, bytes] = MappingProxyType({})
) -> Response:
    async def run() -> Response:
        sent = request(f"/{method}".encode(), body, method=GRPC, headers=dict(headers))
        response = service.app.dispatcher.dispatch(sent)
        return response if isinstance(response, Response) else await response

    return asyncio.run(run())


def call(service: FakeService, method: str, message: Any, answer: str) -> Any:
    """The answer, of the message class of that name."""
    response = respond(service, method, message.SerializeToString())
    assert response.status == 200, response.body
    return schema.message(answer).FromString(response.body)


def error(service: FakeService, method: str, message: Any) -> tuple[int, str]:
    """gRPC's status, and the sentence."""
    body = message if isinstance(message, bytes) else message.SerializeToString()
    response = respond(service, method, body)
    assert response.status != 200
    status, text = grpc.status_of(response)
    assert text == orjson.loads(response.body)["error"]
    return status, text
