"""What decoding a picture for `photos/1` takes, by format and size, beside Pillow's open, convert and resize. Five
minutes."""

import time
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.process import in_own_process
from benchmarks.report import number

SAMPLE = Path("models/photos/1/assets.extra/sample.jpg")
MEGAPIXELS = {"0.3": (640, 480), "3": (2000, 1500), "12": (4000, 3000), "48": (8000, 6000)}
# Of the model.
SIZE = (224, 224)
ROUNDS, MIN_SECONDS = 5, 2
MAX_MB = 12
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "JPEG": ("RGB", "JPEG", {"quality": 85}),
    "JPEG, progressive": ("RGB", "JPEG", {"quality": 85, "progressive": True}),
    "PNG": ("RGB", "PNG", {"compress_level": 3}),
    "PNG, with opacity": ("RGBA", "PNG", {"compress_level": 3}),
    "PNG, palette": ("P", "PNG", {"compress_level": 3}),
    "PNG, 16-bit grey": ("I;16", "PNG", {"compress_level": 1}),
    "WebP": ("RGB", "WEBP", {"quality": 80, "method": 0}),
    "WebP, with opacity": ("RGBA", "WEBP", {"quality": 80, "method": 0}),
    "WebP, lossless": ("RGB", "WEBP", {"lossless": True, "quality": 0, "method": 0}),
}
# Of which nearly nothing is held, however large they are.
SCALED = ("JPEG", "PNG", "PNG, with opacity", "PNG, palette", "PNG, 16-bit grey", "WebP")


def main() -> None:
    options = report.parser("benchmarks.pictures", __doc__).parse_args()
    found: dict[str, Any] = {}
    for kind in KINDS:
        small = in_own_process(_encode, kind, (8, 8))
        for megapixels, size in MEGAPIXELS.items():
            file = in_own_process(_encode, kind, size)
            taken = {
                "service": in_own_process(_decode, file, small),
                "pillow": in_own_process(_decode_by_pillow, file, small),
            }
            found.setdefault(kind, {})[megapixels] = taken | {"kb": len(file) / 1000}
    report.finish("pictures", {"kinds": found}, write=not options.dry_run)


def _encode(kind: str, size: tuple[int, int]) -> bytes:
    import numpy as np
    from PIL import Image

    mode, name, options = KINDS[kind]
    with Image.open(SAMPLE) as sample:
        pixels = np.asarray(sample.convert("RGB").resize(size)).astype(np.int16)
    # As a camera has it; without, an enlarged picture is too easy.
    pixels += np.random.default_rng(0).integers(-3, 4, (*pixels.shape[:2], 1), np.int16)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "RGBA":
        opacity = Image.new("L", size, 255)
        opacity.paste(0, (0, 0, size[0] // 4, size[1]))
        image.putalpha(opacity)
    else:
        image = image.convert(mode)
    stream = BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def _decode(file: bytes, small: bytes) -> dict[str, float]:
    from service.serving_config import ImageSpec
    from service.tensors.image import decode_picture

    spec = ImageSpec(height=SIZE[1], width=SIZE[0])
    return _measure(lambda data: decode_picture(data, spec, 2**31), file, small)


def _decode_by_pillow(file: bytes, small: bytes) -> dict[str, float]:
    import numpy as np
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None

    def decode(data: bytes) -> object:
        with Image.open(BytesIO(data)) as image:
            return np.asarray(image.convert("RGB").resize(SIZE))

    return _measure(decode, file, small)


def _measure(decode: Callable[[bytes], object], file: bytes, small: bytes) -> dict[str, float]:
    """Least CPU time of a few rounds, in ms, and the most memory beyond what was there before, in MB."""
    # What the decoder loads once does not count.
    decode(small)
    with Path("/proc/self/clear_refs").open("w") as reset:
        reset.write("5")
    before = _status("VmRSS:")
    times: list[float] = []
    while len(times) < ROUNDS and sum(times) < MIN_SECONDS:
        began = time.process_time()
        decode(file)
        times.append(time.process_time() - began)
    return {"cpu_ms": min(times) * 1000, "peak_mb": (_status("VmHWM:") - before) / 1000}


def _status(name: str) -> int:
    """In kB."""
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))


def section(found: Mapping[str, Any]) -> list[str]:
    kinds = found["kinds"]
    rows = [
        [
            kind,
            megapixels,
            number(one["kb"]),
            *(number(one[by][what]) for what in ("cpu_ms", "peak_mb") for by in ("service", "pillow")),
        ]
        for kind, sizes in kinds.items()
        for megapixels, one in sizes.items()
    ]
    return [
        report.table(["", "megapixels", "KB", "CPU ms", "Pillow, CPU ms", "peak MB", "Pillow, peak MB"], rows),
        report.targets(
            report.target(f"peak MB of 48 megapixels, {kind}", kinds[kind]["48"]["service"]["peak_mb"], MAX_MB)
            for kind in SCALED
        ),
    ]


if __name__ == "__main__":
    main()
