"""The page, as a person meets it: how much it loads, and how long from a dropped picture to its answer. Code 1 where
either is too much."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from benchmarks import machine
from benchmarks.bodies import Body
from benchmarks.processes import Running, start, stop
from benchmarks.report import number
from benchmarks.sections import Section
from benchmarks.servers import Server

HEADING = "## The page"
MODELS = Path("models")
PICTURES = {
    "clothing": MODELS / "clothing/2/assets.extra/sample.png",
    "photos": MODELS / "photos/1/assets.extra/sample.jpg",
}
MOST_BYTES = 300_000
MOST_SECONDS = 1.0
DROPS = 15

# From the drop to the first frame that shows the answer, in milliseconds.
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


SERVER = Server("the page", ("-m", "service", "--models", str(MODELS), "--port", "{port}"), routes={})
READY = Body(b'{"instances": [10.0]}', {"Content-Type": "application/json"})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--drops", type=int, default=DROPS, help="of each picture (default: %(default)s)")
    drops = parser.parse_args().drops
    chromium = shutil.which("chromium") or sys.exit("no browser: there is no `chromium` command")
    running = start(SERVER, 1, set(machine.cores()), "/v1/models/regression:predict", READY, Path())
    try:
        with sync_playwright() as playwright:
            options = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=chromium, args=options)
            measured = {model: measure(browser, running, model, file, drops) for model, file in PICTURES.items()}
    finally:
        stop(running)
    results = {
        **machine.provenance(),
        "drops": drops,
        "models": measured,
    }
    SECTION.keep(results)
    print(section(results))
    sys.exit(1 if missed(results) else 0)


def measure(browser: Browser, running: Running, model: str, picture: Path, drops: int) -> dict[str, float]:
    """On a browser that has never been there. Times in milliseconds."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    loaded: list[int] = []
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.loadingFinished", lambda found: loaded.append(int(found["encodedDataLength"])))
    began = time.perf_counter()
    page.goto(f"http://127.0.0.1:{running.port}/#/try/{model}")
    page.wait_for_selector(".drop")
    opened = 1000 * (time.perf_counter() - began)
    page_bytes = sum(loaded)
    content = picture.read_bytes()
    kind = "image/png" if picture.suffix == ".png" else "image/jpeg"
    drawn, answered = [], []
    for _ in range(drops):
        drawn.append(float(page.evaluate(DROP, [list(content), kind])))
        began = time.perf_counter()
        if problem := running.ask(f"/v1/models/{model}:classify", Body(content, {"Content-Type": kind})):
            raise SystemExit(problem)
        answered.append(1000 * (time.perf_counter() - began))
    context.close()
    return {
        "page_bytes": page_bytes,
        "opened_ms": opened,
        "first_drawn_ms": drawn[0],
        "drawn_ms": median(drawn),
        "slowest_drawn_ms": max(drawn),
        "answered_ms": median(answered),
    }


def missed(results: Mapping[str, Any]) -> bool:
    return any(
        figures["page_bytes"] > MOST_BYTES or figures["first_drawn_ms"] > 1000 * MOST_SECONDS
        for figures in results["models"].values()
    )


def section(results: Mapping[str, Any]) -> str:
    rows = [
        f"| {model} | {figures['page_bytes'] / 1000:.0f} | "
        + " | ".join(
            number(figures[name])
            for name in ("opened_ms", "first_drawn_ms", "drawn_ms", "slowest_drawn_ms", "answered_ms")
        )
        + " |"
        for model, figures in results["models"].items()
    ]
    return "\n".join(
        [
            HEADING,
            "",
            f"{results['machine']}; {results['made']}; service and headless Chromium on the same cores. From the drop "
            f"of a picture to the first frame that shows its answer, {results['drops']} times, beside a request of our "
            "own for the same picture in between. "
            + (
                "**Missed.**"
                if missed(results)
                else f"Wanted: at most {MOST_BYTES // 1000} KB, and the first answer within {MOST_SECONDS:g} s."
            ),
            "",
            "| model | KB until it can be used | ms until then | ms to the first answer | median | slowest | request |",
            "|---|--:|--:|--:|--:|--:|--:|",
            *rows,
        ]
    )


SECTION = Section(HEADING, Path("benchmarks/page.json"), section)

if __name__ == "__main__":
    main()
