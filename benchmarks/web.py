"""Frames per second of mien-web in Chromium: one face at 640 x 480, on one core.

    taskset -c 0 python benchmarks/web.py
    taskset -c 0 python benchmarks/web.py --models mien-nano mien-b0 --seconds 10 --json

Each frame is drawn on a canvas, shifted by a pixel, and fully analyzed (detection, crop,
classifier, quality) before the next one. Reported are the fastest of many short turns, which other
programs slow down least, and the median.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MAKE_SITE = ROOT / "mien-web" / "example" / "make_site.py"
FLAGS = ("--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run")

MEASURE = """async ([model, picture, seconds, turns, width, height]) => {
  const { loadRecognizer } = await import(new URL("mien-web/index.js", document.baseURI));
  const started = performance.now();
  const recognizer = await loadRecognizer({ model: `models/${model}`, runtime: "onnxruntime-web" });
  const loading = performance.now() - started;
  const image = await createImageBitmap(await (await fetch(picture)).blob());
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const scale = Math.min(width / image.width, height / image.height);
  const frame = async (number) => {
    context.fillStyle = "#606870";
    context.fillRect(0, 0, width, height);
    const [x, y] = [number % 40, (number % 17) / 2];
    context.drawImage(image, x, y, image.width * scale, image.height * scale);
    return recognizer.analyze(canvas);
  };
  let result;
  for (let number = 0; number < 20; number += 1) result = await frame(number);
  const rates = [];
  let faces = new Set();
  for (let turn = 0; turn < turns; turn += 1) {
    const start = performance.now();
    let number = 0;
    for (; performance.now() - start < 1000 * seconds; number += 1) {
      result = await frame(number);
      faces.add(result.faces.length);
    }
    rates.push((1000 * number) / (performance.now() - start));
  }
  recognizer.close();
  return {
    model, rates, loading_ms: loading, threads: recognizer.threads,
    faces: [...faces], side_px: result.faces[0]?.box.w ?? null,
  };
}"""


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def site(models: Sequence[str]) -> Iterator[str]:
    """Serve the example and the image; yields the address."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, MAKE_SITE, folder, "--models", *models], check=True)
        shutil.copy(ROOT / "images" / "astronaut.jpg", folder)
        handler = partial(_Handler, directory=name)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            yield f"http://127.0.0.1:{server.server_port}/"
            server.shutdown()
            thread.join()


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the measurements of each model."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("MIEN_CHROMIUM") or shutil.which("chromium")
    with site(args.models) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=[*FLAGS], chromium_sandbox=False
        )
        results = []
        for model in args.models:
            page = browser.new_page()
            page.goto(address)
            arguments = [model, "astronaut.jpg", args.seconds, args.turns, 640, 480]
            results.append({**page.evaluate(MEASURE, arguments), "browser": browser.version})
            page.close()
        browser.close()
    return results


def main() -> int:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["mien-nano", "mien-b0"], metavar="MODEL")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds per turn (default: 1)")
    parser.add_argument("--turns", type=int, default=30, help="number of turns (default: 30)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    results = measure(args)
    if args.json:
        print(json.dumps(results, indent=2))
        return 0
    print("| model | frames per second | median | ms per frame | loading |")
    print("|---|---:|---:|---:|---:|")
    for result in results:
        best, median = max(result["rates"]), statistics.median(result["rates"])
        loading = result["loading_ms"] / 1000
        cells = f"{best:.0f} | {median:.0f} | {1000 / best:.0f} | {loading:.1f} s"
        print(f"| `{result['model']}` | {cells} |")
    print(
        f"\nChromium {results[0]['browser']}, {results[0]['threads']} thread, one face of "
        f"{results[0]['side_px']} pixels; {args.turns} turns of {args.seconds:g} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
