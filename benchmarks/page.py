"""The page, as a person meets it: how much it loads, and how long from a dropped picture to its prediction.

Code 1 where either is too much.
"""

import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from benchmarks import report
from benchmarks.bodies import ROW
from benchmarks.process import Body, Running, cores, serving
from benchmarks.report import number
from benchmarks.servers import fitting_room

PICTURES = {
    "clothing": Path("models/clothing/2/assets.extra/sample.png"),
    "photos": Path("models/photos/1/assets.extra/sample.jpg"),
}
DROPS = 15
# From the drop to the first frame that shows the prediction, in milliseconds.
DROP = """async ([bytes, type]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "dropped", {type}));
    const before = document.querySelector(".verdict");
    const began = performance.now();
    document.querySelector(".drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data}));
    const frame = () => new Promise(requestAnimationFrame);
    while (!document.querySelector(".verdict") || document.querySelector(".verdict") === before) await frame();
    await frame();
    return performance.now() - began;
}"""


def main() -> None:
    parser = report.parser("benchmarks.page", __doc__)
    parser.add_argument("--drops", type=int, default=DROPS, help="of each picture (default: %(default)s)")
    options = parser.parse_args()
    chromium = shutil.which("chromium") or sys.exit("no browser: there is no `chromium` command")
    server = fitting_room.server(models="models", prepare=None)
    with serving(server, "/v1/models/regression:predict", ROW, cores(), Path()) as running, sync_playwright() as driver:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=chromium, args=flags)
        models = {model: _measure(browser, running, model, file, options.drops) for model, file in PICTURES.items()}
        browser.close()
    is_reached = report.finish("page", {"drops": options.drops, "models": models}, write=not options.dry_run)
    sys.exit(not is_reached)


def _measure(browser: Browser, running: Running, model: str, picture: Path, drops: int) -> dict[str, float]:
    """In a browser context that has never been there. Times in milliseconds."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    loaded: list[int] = []
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda event: loaded.append(int(event["encodedDataLength"])))
    began = time.perf_counter()
    page.goto(f"http://127.0.0.1:{running.port}/#/try/{model}")
    page.wait_for_selector(".drop")
    opened = 1000 * (time.perf_counter() - began)
    page_kb = sum(loaded) / 1000
    kind = "image/png" if picture.suffix == ".png" else "image/jpeg"
    sent = Body(picture.read_bytes(), {"Content-Type": kind})
    drawn, responded = [], []
    for _ in range(drops):
        drawn.append(float(page.evaluate(DROP, [list(sent.content), kind])))
        began = time.perf_counter()
        if (status := running.post(f"/v1/models/{model}:classify", sent)) != 200:
            raise SystemExit(f"{model}: status {status}")
        responded.append(1000 * (time.perf_counter() - began))
    context.close()
    return {
        "page_kb": page_kb,
        "opened_ms": opened,
        "first_drawn_ms": drawn[0],
        "drawn_ms": median(drawn),
        "slowest_drawn_ms": max(drawn),
        "request_ms": median(responded),
    }


def section(found: Mapping[str, Any]) -> list[str]:
    columns = {
        "page_kb": "KB until it can be used",
        "opened_ms": "ms until then",
        "first_drawn_ms": "ms to the first prediction",
        "drawn_ms": "median",
        "slowest_drawn_ms": "slowest",
        "request_ms": "request",
    }
    models = found["models"]
    return [
        f"{found['drops']} drops of each picture.",
        report.table(
            ["model", *columns.values()],
            [[model, *(number(one[column]) for column in columns)] for model, one in models.items()],
        ),
        report.targets(
            [
                report.target("KB until it can be used", max(one["page_kb"] for one in models.values()), 300),
                report.target(
                    "seconds to the first prediction", max(one["first_drawn_ms"] for one in models.values()) / 1e3, 1
                ),
            ]
        ),
    ]


if __name__ == "__main__":
    main()
