"""Send photos to a running `mien serve` and print the results.

python examples/http_client.py photo.jpg
python examples/http_client.py --address http://127.0.0.1:8000 a.jpg b.jpg
"""

import argparse
import json
import mimetypes
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def analyze(address: str, photo: Path) -> dict[str, Any]:
    """Return the answer of the service: a result, or an error in one line."""
    media_type = mimetypes.guess_type(photo.name)[0] or "image/jpeg"
    request = urllib.request.Request(
        f"{address}/v1/analyze", data=photo.read_bytes(), headers={"Content-Type": media_type}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            answer = reply.read()
    except urllib.error.HTTPError as error:  # the body of 4xx and 5xx explains the error
        answer = error.read()
    content: dict[str, Any] = json.loads(answer)
    return content


def main() -> None:
    """Print a line per face."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("photos", nargs="+", type=Path)
    args = parser.parse_args()
    for photo in args.photos:
        answer = analyze(args.address, photo)
        if "error" in answer:
            print(f"{photo}: {answer['error']}")
        for face in answer.get("faces", []):
            print(f"{photo}: {face['emotion']} {face['confidence']:.0%} at {face['box']}")


if __name__ == "__main__":
    try:
        main()
    except OSError as error:  # no such file, or no service at the address
        sys.exit(str(error))
