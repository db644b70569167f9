"""Bodies of requests: pictures and tensors, encoded as the servers take them."""

import json
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks.process import Body, in_own_process

SAMPLE = Path("models/clothing/1/assets.extra/sample.png")
PHOTO_SIZE = (400, 533)
# Nobody should send longer rows as JSON.
MAX_JSON_VALUES = 10_000
JSON = {"Content-Type": "application/json"}
# Of the regression.
ROW = Body(b'{"instances": [1.0]}', JSON)


@cache
def body(encoding: str, pictures: int = 1) -> Body:
    return in_own_process(_encode, encoding, pictures)


def of_version(version: Path) -> dict[str, Body]:
    """One row for a version of models/ in each form that it takes: picture, JSON, v2 binary."""
    return in_own_process(_forms, version)


def _encode(encoding: str, pictures: int) -> Body:
    if encoding in ("png", "jpeg"):
        return Body(picture(encoding), {"Content-Type": f"image/{encoding}"})
    batch = tensor(pictures)
    match encoding:
        case "v1_json":
            return _json({"instances": batch.tolist()})
        case "v2_json":
            described = {"name": "pixels", "shape": list(batch.shape), "datatype": "FP32"}
            return _json({"inputs": [described | {"data": batch.ravel().tolist()}]})
        case "bentoml_json":
            return _json({"pixels": batch.tolist()})
        case "v2_binary":
            return _v2_binary("pixels", batch)
        case "grpc_v1" | "grpc_v2":
            return _grpc(encoding, batch)
    raise ValueError(
        f"encoding {encoding!r}: expected png, jpeg, v1_json, v2_json, v2_binary, grpc_v1, grpc_v2 or bentoml_json"
    )


def _forms(version: Path) -> dict[str, Body]:
    import numpy as np
    from PIL import Image

    extra = version / "assets.extra"
    config = json.loads((extra / "serving.json").read_text())
    ((name, described),) = config["signatures"]["serving_default"]["inputs"].items()
    forms = {}
    if sample := config["example"].get("picture"):
        image = config["image"]
        with Image.open(extra / sample) as opened:
            values = opened.convert(image.get("mode", "RGB")).resize((image["width"], image["height"]))
        kind = Path(sample).suffix[1:].replace("jpg", "jpeg")
        forms["picture"] = Body((extra / sample).read_bytes(), {"Content-Type": f"image/{kind}"})
    else:
        values = config["example"]["instances"][:1]
    row = np.asarray(values, np.float32).reshape([1, *described["shape"][1:]])
    if row.size <= MAX_JSON_VALUES:
        forms["JSON"] = _json({"instances": np.round(row.astype(float), 3).tolist()})
    forms["v2 binary"] = _v2_binary(name, row)
    return forms


def _json(content: object) -> Body:
    return Body(json.dumps(content).encode(), JSON)


def _v2_binary(name: str, values: Any) -> Body:
    described = {"name": name, "shape": list(values.shape), "datatype": "FP32"}
    head = json.dumps({"inputs": [described | {"parameters": {"binary_data_size": values.nbytes}}]}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Body(head + values.tobytes(), headers)


def _grpc(encoding: str, values: Any) -> Body:
    """A message of gRPC, with its prefix."""
    from service.tensors.protobuf import field, text_field, varint
    from service.tensors.tensor_proto import write_tensor

    if encoding == "grpc_v1":
        tensor = b"".join(write_tensor(values, as_content=True))
        message = field(1, text_field(1, "clothing")) + field(2, text_field(1, "pixels"), field(2, tensor))
    else:
        described = text_field(1, "pixels") + text_field(2, "FP32") + field(3, *map(varint, values.shape))
        message = text_field(1, "clothing") + field(5, described) + field(7, values.tobytes())
    headers = {"content-type": "application/grpc", "te": "trailers"}
    return Body(b"\0" + len(message).to_bytes(4) + message, headers)


def tensor(pictures: int) -> Any:
    """Float32 [pictures, 28, 28]: the sample, shifted a pixel further each time."""
    import numpy as np
    from PIL import Image

    sample = np.asarray(Image.open(SAMPLE), np.float32)
    return np.stack([np.roll(sample, shift, axis=1) for shift in range(pictures)])


def picture(encoding: str) -> bytes:
    """PNG: the sample itself. JPEG: a photo's size and texture, made from the sample and fixed noise."""
    import numpy as np
    from PIL import Image

    if encoding == "png":
        return SAMPLE.read_bytes()
    garment = np.asarray(Image.open(SAMPLE).resize(PHOTO_SIZE, Image.Resampling.BICUBIC), np.float32)
    # Grain and a slope of light: a smooth picture would decode faster than a photo does.
    height, width = garment.shape
    grain = np.random.default_rng(1).normal(0, 6, (height, width, 3))
    light = np.linspace(0, 25, height)[:, None, None]
    colour = garment[..., None] * np.array([0.9, 0.8, 0.7]) + light + grain
    photo = BytesIO()
    Image.fromarray(colour.clip(0, 255).astype(np.uint8)).save(photo, "JPEG", quality=90)
    return photo.getvalue()
