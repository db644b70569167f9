"""A request for a version of models/, in each form it takes: `python -m benchmarks.shipped_bodies VERSION FOLDER`.

A process of its own, as benchmarks.bodies, and for the same reason.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.bodies import Body

# Longer rows nobody should send as JSON.
MOST_JSON_VALUES = 10_000


def make(version: Path, folder: Path) -> dict[str, Body]:
    """By form: JSON, v2 binary, and the picture as it is where the version takes one."""
    subprocess.run([sys.executable, "-m", "benchmarks.shipped_bodies", str(version), str(folder)], check=True)
    described = json.loads((folder / "forms.json").read_text())
    return {form: Body((folder / form).read_bytes(), headers) for form, headers in described.items()}


def main() -> None:
    version, folder = map(Path, sys.argv[1:])
    described = {}
    for form, (content, headers) in encode(version / "assets.extra").items():
        (folder / form).write_bytes(content)
        described[form] = headers
    (folder / "forms.json").write_text(json.dumps(described))


def encode(extra: Path) -> dict[str, tuple[bytes, dict[str, str]]]:
    import numpy as np

    config = json.loads((extra / "serving.json").read_text())
    ((name, tensor),) = config["signatures"]["serving_default"]["inputs"].items()
    shape = [1, *tensor["shape"][1:]]
    forms = {}
    if picture := config["example"].get("picture"):
        values = pixels(extra / picture, config["image"])
        forms["picture"] = (extra / picture).read_bytes(), {"Content-Type": f"image/{kind(picture)}"}
    else:
        values = np.asarray(config["example"]["instances"][:1], np.float32)
    values = values.reshape(shape)
    if values.size <= MOST_JSON_VALUES:
        rows = {"instances": np.round(values.astype(float), 3).tolist()}
        forms["JSON"] = json.dumps(rows).encode(), {"Content-Type": "application/json"}
    described = {"name": name, "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": values.nbytes}}
    head = json.dumps({"inputs": [described]}).encode()
    binary = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    forms["v2 binary"] = head + values.tobytes(), binary
    return forms


def kind(picture: str) -> str:
    return Path(picture).suffix[1:].replace("jpg", "jpeg")


def pixels(picture: Path, image: dict[str, Any]) -> Any:
    """Float32 [height, width] or [height, width, 3]; near enough to what the service makes of it."""
    import numpy as np
    from PIL import Image

    with Image.open(picture) as opened:
        fitted = opened.convert(image.get("mode", "RGB")).resize((image["width"], image["height"]))
        return np.asarray(fitted, np.float32)


if __name__ == "__main__":
    main()
