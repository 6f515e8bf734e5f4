"""The service under load, compared with the bare recognizer on the same photos and cores.

    python benchmarks/serve.py PHOTOS... --update docs/evidence/serve.md

The load comes from wrk (https://github.com/wg/wrk; `apt install wrk`) on the same machine. Both
sides alternate, each in a separate process, so that other load affects both alike; the table has
the medians. With --requests the service then answers that many, while its memory is recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mien.api import load
from mien.core.process import usable_cores
from mien.evaluation.tables import markdown_table, update_marked_section

SECTION = "load"
WRK = """
local bodies = {}
for path in string.gmatch(os.getenv("PHOTOS"), "[^\\n]+") do
  local file = assert(io.open(path, "rb"))
  bodies[#bodies + 1] = file:read("*a")
  file:close()
end
local headers, count = {["Content-Type"] = "image/jpeg"}, 0
request = function()
  count = count + 1
  return wrk.format("POST", "/v1/analyze", headers, bodies[count % #bodies + 1])
end
done = function(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %f, "p50": %f, "p99": %f, "worst": %f, "failed": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6,
    latency:percentile(99) / 1e6, latency.max / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", nargs="+", type=Path)
    parser.add_argument("--model", nargs="+", default=["mien-b0", "mien-nano"])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20, help="seconds per turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument(
        "--requests", type=int, default=0, help="number of requests for the memory test"
    )
    parser.add_argument(
        "--serve", default="", metavar="OPTIONS", help="further options of mien serve"
    )
    parser.add_argument("--update", type=Path, metavar="FILE")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare:
        bare(args.photos, args.model[0], args.seconds)
        return
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt install wrk")
    results = {model: measure(model, args) for model in args.model}
    text = table(results, args)
    print(text)
    if args.update:
        update_marked_section(args.update, SECTION, text)


def bare(photos: list[Path], model: str, seconds: float) -> None:
    """Analyze the photos in a loop in this process, and print the rate per second."""
    contents = [photo.read_bytes() for photo in photos]
    recognizer = load(model, offline=True)
    for content in contents:
        recognizer.analyze_result(content)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        recognizer.analyze_result(contents[count % len(contents)])
        count += 1
    print(json.dumps(count / (time.perf_counter() - start)))


def measure(model: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the results of both sides for each turn, and the memory of the service."""
    photos = [str(photo.resolve()) for photo in args.photos]
    command = [sys.executable, __file__, *photos, "--model", model, "--bare"]
    rates, turns = [], []
    for _ in range(args.rounds):
        seconds = ["--seconds", str(args.seconds)]
        done = subprocess.run([*command, *seconds], check=True, capture_output=True)
        rates.append(float(json.loads(done.stdout)))
        with serving(model, args) as (port, _):
            turns.append(run_load(port, photos, args.clients, args.seconds))
        print(json.dumps({"model": model, "bare": rates[-1], **turns[-1]}), file=sys.stderr)
    memory = []
    if args.requests:
        memory = memory_over(model, args, photos, args.requests)
    return {"bare": rates, "turns": turns, "memory": memory}


def memory_over(
    model: str, args: argparse.Namespace, photos: list[str], requests: int
) -> list[tuple[int, float]]:
    """Return pairs of requests answered and resident megabytes, up to that many requests."""
    samples, count = [], 0
    with serving(model, args) as (port, process):
        run_load(port, photos, args.clients, 2)  # warms up every thread with every image
        while count < requests:
            turn = run_load(port, photos, args.clients, args.seconds)
            if turn["failed"]:
                raise SystemExit(f"{turn['failed']} requests failed")
            count += turn["requests"]
            samples.append((count, resident(process.pid)))
            print(json.dumps({"model": model, "memory": samples[-1]}), file=sys.stderr)
    return samples


def run_load(port: int, photos: list[str], clients: int, seconds: float) -> dict[str, Any]:
    """Run wrk with a number of clients for some seconds, and return its figures."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WRK)
        script.flush()
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "30s", "-s"]
        done = subprocess.run(
            [*command, script.name, f"http://127.0.0.1:{port}"],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PHOTOS": "\n".join(photos)},
        )
    match = re.search(r"RESULT (.*)", done.stdout)
    if match is None:
        raise SystemExit(f"wrk said: {done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(match[1])
    return {**result, "rate": result["requests"] / result["seconds"]}


@contextmanager
def serving(model: str, args: argparse.Namespace) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run mien serve until the block ends; yields its port and process."""
    command = [sys.executable, "-m", "mien", "serve", "--port", "0", "--offline"]
    with subprocess.Popen(
        [*command, "--model", model, *args.serve.split()], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "listening on " in line)
            port = int(line.split(":")[2].split()[0])
            until_ready(port)
            yield port, process
        finally:
            process.terminate()
            process.wait(20)


def until_ready(port: int) -> None:
    """Wait until the model is warm."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the service did not become ready in a minute")


def resident(pid: int) -> float:
    """Return the resident megabytes of a process (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


def table(results: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    """Return the results as a Markdown table."""
    rows = []
    for model, sides in results.items():
        turns = sides["turns"]
        plain = statistics.median(sides["bare"])
        rate, p50, p99 = (
            statistics.median(t[key] for t in turns) for key in ("rate", "p50", "p99")
        )
        ratio = statistics.median(
            turn["rate"] / alone for turn, alone in zip(turns, sides["bare"], strict=True)
        )
        failed = sum(turn["failed"] for turn in turns)
        memory = sides["memory"]
        kept = f"{memory[0][1]:.0f} → {memory[-1][1]:.0f} MB" if memory else ""
        rows.append(
            [
                *(model, f"{plain:.1f}", f"{rate:.1f}", f"{ratio:.2f}"),
                *(f"{1000 * p50:.0f} ms", f"{1000 * p99:.0f} ms", str(failed), kept),
            ]
        )
    head = ["model", "bare, images/s", "served", "ratio", "p50", "p99", "failed", "memory"]
    count = max(
        (sides["memory"][-1][0] for sides in results.values() if sides["memory"]), default=0
    )
    long = f" Memory: after the first turn and after {count:,} requests." if count else ""
    return (
        f"{len(args.photos)} photos, {args.clients} clients, {usable_cores()} cores, "
        f"{args.rounds} turns of {args.seconds:g} s on each side.{long}\n\n"
        + markdown_table(head, rows)
    )


if __name__ == "__main__":
    main()
