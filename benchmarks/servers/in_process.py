"""No server: the same pictures through LiteRT in one loop on one core. What a server adds is what lies above it.

For a tensor the loop runs the model, and that is all; for a picture it decodes, resizes and runs it, by plain Pillow.
"""

import sys
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

from benchmarks import bodies
from benchmarks.servers import Route, Server

SERVER = Server(
    title="LiteRT in process, one core",
    yardstick="in process",
    in_process=True,
    command=("-m", "benchmarks.servers.in_process", "{encoding}", "{pictures}", "{seconds}"),
    routes={
        "json": Route("", "tensor"),
        "v2_binary": Route("", "tensor"),
        "png": Route("", "png"),
        "jpeg": Route("", "jpeg"),
    },
)
SIZE = (28, 28)


def main(encoding: str, pictures: int, seconds: float) -> None:
    """Prints what wrk's script prints; see load.py."""
    once = _tensor(pictures) if encoding == "tensor" else _picture(encoding)
    for _ in range(50):
        once()
    times = []
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        before = time.perf_counter()
        once()
        times.append(time.perf_counter() - before)
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu
    times.sort()
    p50, p99 = (times[int(len(times) * share)] * 1e6 for share in (0.5, 0.99))
    print(f"requests={len(times)} seconds={elapsed:.6f} p50={p50:.1f} p99={p99:.1f} cpu={cpu:.6f} failed=0")


def _tensor(pictures: int) -> Callable[[], Any]:
    batch, run = bodies.tensor(pictures), _model(pictures)
    return lambda: run(batch)


def _picture(encoding: str) -> Callable[[], Any]:
    import numpy as np
    from PIL import Image, ImageOps

    content, run = bodies.picture(encoding), _model(1)

    def once() -> Any:
        image = Image.open(BytesIO(content))
        # A JPEG is decoded at a fraction of its size, the quickest that Pillow offers.
        image.draft("L", (2 * SIZE[0], 2 * SIZE[1]))
        grey = image.convert("L")
        fitted = grey if grey.size == SIZE else ImageOps.pad(grey, SIZE, Image.Resampling.LANCZOS)
        return run(np.asarray(fitted, np.float32)[np.newaxis])

    return once


def _model(batch: int) -> Callable[[Any], Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter("models/clothing/1/assets.extra/model.tflite", num_threads=1)
    first, last = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    interpreter.resize_tensor_input(first, [batch, *SIZE])
    interpreter.allocate_tensors()

    def run(pixels: Any) -> Any:
        interpreter.set_tensor(first, pixels)
        interpreter.invoke()
        return interpreter.get_tensor(last)

    return run


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
