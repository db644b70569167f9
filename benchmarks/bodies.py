"""The requests' bodies: `python -m benchmarks.bodies FOLDER ENCODING-PICTURES ...` writes each, with its headers.

A process of its own, so that the command itself never loads NumPy and Pillow: pages that a server shares with somebody
outside it count only half in its proportional memory.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLE = Path("models/clothing/1/assets.extra/sample.png")
PHOTO_SIZE = (400, 533)


@dataclass(frozen=True)
class Body:
    content: bytes
    headers: dict[str, str]


def make(wanted: set[str], folder: Path) -> dict[str, Body]:
    """Bodies by `ENCODING-PICTURES`, as v1_json-32."""
    subprocess.run([sys.executable, "-m", "benchmarks.bodies", str(folder), *sorted(wanted)], check=True, timeout=60)
    return {name: Body((folder / name).read_bytes(), _headers(folder, name)) for name in wanted}


def _headers(folder: Path, name: str) -> dict[str, str]:
    headers: dict[str, str] = json.loads((folder / f"{name}.headers").read_text())
    return headers


def main() -> None:
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        encoding, _, pictures = name.partition("-")
        content, headers = encode(encoding, int(pictures))
        (folder / name).write_bytes(content)
        (folder / f"{name}.headers").write_text(json.dumps(headers))


def encode(encoding: str, pictures: int) -> tuple[bytes, dict[str, str]]:
    if encoding in ("png", "jpeg"):
        return picture(encoding), {"Content-Type": f"image/{encoding}"}
    batch = tensor(pictures)
    v2_input = {"name": "pixels", "shape": list(batch.shape), "datatype": "FP32"}
    match encoding:
        case "v1_json":
            content = {"instances": batch.tolist()}
        case "v2_json":
            content = {"inputs": [v2_input | {"data": batch.ravel().tolist()}]}
        case "bentoml_json":
            content = {"pixels": batch.tolist()}
        case "v2_binary":
            described = v2_input | {"parameters": {"binary_data_size": batch.nbytes}}
            head = json.dumps({"inputs": [described]}).encode()
            return head + batch.tobytes(), {
                "Content-Type": "application/octet-stream",
                "Inference-Header-Content-Length": str(len(head)),
            }
        case _:
            raise ValueError(f"encoding {encoding!r}: expected png, jpeg, v1_json, v2_json, v2_binary or bentoml_json")
    return json.dumps(content).encode(), {"Content-Type": "application/json"}


def tensor(pictures: int) -> Any:
    """Float32 [pictures, 28, 28]: the sample, shifted a pixel further each time."""
    import numpy as np
    from PIL import Image

    sample = np.asarray(Image.open(SAMPLE), np.float32)
    return np.stack([np.roll(sample, shift, axis=1) for shift in range(pictures)])


def picture(encoding: str) -> bytes:
    """The sample itself as PNG; as JPEG a photo's size and texture, made from the sample and a fixed noise."""
    from io import BytesIO

    import numpy as np
    from PIL import Image

    if encoding == "png":
        return SAMPLE.read_bytes()
    garment = np.asarray(Image.open(SAMPLE).resize(PHOTO_SIZE, Image.Resampling.BICUBIC), np.float32)
    # Grain and a slope of light: a smooth picture would unpack faster than a photo does.
    height, width = garment.shape
    grain = np.random.default_rng(1).normal(0, 6, (height, width, 3))
    light = np.linspace(0, 25, height)[:, None, None]
    colour = garment[..., None] * np.array([0.9, 0.8, 0.7]) + light + grain
    photo = BytesIO()
    Image.fromarray(colour.clip(0, 255).astype(np.uint8)).save(photo, "JPEG", quality=90)
    return photo.getvalue()


if __name__ == "__main__":
    main()
