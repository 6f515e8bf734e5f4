"""Build a static site of the example: page, library, runtime and models.

python mien-web/example/make_site.py site && python -m http.server --directory site
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from mien.core.manifest import load_manifest
from mien.core.models import MANIFEST_NAME, find_model
from mien.inference.detectors.libface import NETWORK
from mien.inference.onnx_model import prune_outputs

ROOT = Path(__file__).resolve().parent.parent.parent
LIBRARY = ROOT / "mien-web" / "src"
RUNTIME = ROOT / "src" / "mien" / "service" / "web" / "runtime"


def make_site(folder: Path, models: list[str]) -> None:
    """Write the site to a folder; existing files are overwritten.

    Raises:
        FileNotFoundError: if onnxruntime-web has not been downloaded.
    """
    if not RUNTIME.is_dir():
        raise FileNotFoundError("onnxruntime-web is missing: run 'python hatch_build.py' first")
    shutil.copytree(LIBRARY, folder / "mien-web", dirs_exist_ok=True)
    shutil.copytree(RUNTIME, folder / "onnxruntime-web", dirs_exist_ok=True)
    shutil.copy(Path(__file__).with_name("index.html"), folder)
    for name in models:
        write_model(find_model(name), folder / "models" / name)
    shutil.copy(NETWORK, folder / "models")


def write_model(model: Path, folder: Path) -> None:
    """Write a model's manifest and one network per reading."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(model / MANIFEST_NAME, folder)
    manifest = load_manifest(model, labels=None)
    source = model / manifest.file.name
    for reading in manifest.readings:
        outputs = tuple(manifest.with_reading(reading).outputs.values())
        network = prune_outputs(source.read_bytes(), outputs, source)
        (folder / f"{reading}.onnx").write_bytes(network)


def main() -> int:
    """Command line: write the site."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=["mien-nano"], metavar="MODEL")
    args = parser.parse_args()
    try:
        make_site(args.folder, args.models)
    except OSError as error:
        print(f"make_site: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
