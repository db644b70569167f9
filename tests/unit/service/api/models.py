"""Models that the tests of several protocols ask, and pictures."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image

from service.serving_config import ImageSpec, ServingConfig
from service.tensors.dtypes import Array
from tests.unit.service.fakes import Arrays, FakeService, signature, tensor

VECTOR = tensor("DT_FLOAT", -1)
LINEAR = signature({"x": VECTOR}, {"y": VECTOR})
PICTURES = signature({"pixels": tensor("DT_FLOAT", -1, 8, 8)}, {"scores": tensor("DT_FLOAT", -1, 2)})
BRIGHTNESS = ServingConfig(labels=("dark", "bright"), image=ImageSpec(height=8, width=8, mode="L"))


def times_three_plus_one(inputs: Arrays) -> dict[str, Array]:
    return {"y": inputs["x"] * 3 + 1}


def brightness(inputs: Arrays) -> dict[str, Array]:
    score = inputs["pixels"].mean(axis=(1, 2)) / 255
    return {"scores": np.stack([1 - score, score], axis=1).astype(np.float32)}


def add_models(service: FakeService) -> None:
    service.add(LINEAR, times_three_plus_one, model="linear")
    service.add(PICTURES, brightness, BRIGHTNESS, model="pictures")


def png(level: int = 0, size: tuple[int, int] = (8, 8)) -> bytes:
    out = BytesIO()
    Image.new("L", size, level).save(out, "PNG")
    return out.getvalue()


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}
