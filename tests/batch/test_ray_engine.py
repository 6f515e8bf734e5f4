"""The Ray engine gives the results of the local engine, even if a worker is killed."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch_maker import alike
from mien.batch.inputs import Input, RecognizerOptions, walk_folder
from mien.batch.run import LocalEngine
from mien.core.errors import UsageError
from mien.core.results import Results

PICTURES = 600

needs_ray = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ray", "pyarrow")),
    reason="needs the extra ray",
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without cores and two workers with one core each, in separate process groups."""
    importlib.import_module("mien.batch.ray_engine")  # before Ray, which it sets up
    import ray
    from ray.cluster_utils import Cluster

    cluster: Any = Cluster(initialize_head=True, head_node_args=node(0))
    for _ in range(2):
        cluster.add_node(**node(1))
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def kill_a_worker(cluster: Any) -> None:
    """Kill a worker that the driver is not attached to, since Ray would not survive that."""
    for worker in list(cluster.worker_nodes):
        try:
            cluster.remove_node(worker, allow_graceful=False)
        except ValueError:
            continue
        return
    raise AssertionError("the driver is attached to every worker")


def node(cores: int) -> dict[str, Any]:
    # Given all ports, a node does not wait for its helpers to find some (15 seconds at most).
    names = (
        "metrics_agent_port",
        "metrics_export_port",
        "dashboard_agent_listen_port",
        "runtime_env_agent_port",
    )
    return {
        "num_cpus": cores,
        "object_store_memory": 100 << 20,
        "include_dashboard": False,
        **{name: free_port() for name in names},
    }


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


def slow_source(model: Path, seconds: float) -> RecognizerOptions:
    """Return options of slow recognizers, which are pickled by value."""

    class Slow(RecognizerOptions):
        def load(self, *, threads: int | None = None) -> Any:
            recognizer = super().load(threads=threads)
            whole = recognizer.analyze_many

            def analyze_many(images: Any, **options: Any) -> Results:
                time.sleep(seconds * len(images))
                return whole(images, **options)

            recognizer.analyze_many = analyze_many  # type: ignore[method-assign]
            return recognizer

    return Slow(str(model), detector="none")


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_results_match_the_local_engine_although_a_worker_dies(
    cluster: Any,
    tmp_path: Path,
    tiny_model: Path,
    make_pictures: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mien.batch.ray_engine import RayEngine

    make_pictures(tmp_path / "d", PICTURES)
    (tmp_path / "d" / "bad.png").write_bytes(b"no image")
    (tmp_path / "d" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    # The workers are in other folders, where relative paths would mean something else.
    monkeypatch.chdir(tmp_path)
    inputs: list[Input] = list(walk_folder("d"))
    source = slow_source(tiny_model, 0.02)
    recognizer = RecognizerOptions(str(tiny_model), detector="none").load()
    local = list(LocalEngine(source, recognizer, workers=1, batch_size=64)(inputs))
    engine = RayEngine(source, recognizer, address=cluster.address, workers=2, batch_size=64)
    results = []
    for result in engine(inputs):
        results.append(result)
        if len(results) == 20:
            kill_a_worker(cluster)
    assert alike([one.to_dict() for one in results], [one.to_dict() for one in local])
    assert [one.source for one in results] == [one.source for one in inputs]


@needs_ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("address", "message"),
    [
        (f"127.0.0.1:{free_port()}", "no Ray cluster at 127.0.0.1:"),
        ("127.0.0.1:99999", "no Ray cluster at 127.0.0.1:99999"),
        ("127.0.0.1:port", "expected --address as HOST:PORT or auto"),
    ],
    ids=["nothing listens", "no port", "no number"],
)
def test_no_cluster_at_the_address_is_one_line(
    tiny_model: Path, address: str, message: str
) -> None:
    from mien.batch.ray_engine import RayEngine

    options = RecognizerOptions(str(tiny_model), detector="none")
    engine = RayEngine(options, options.load(), address=address, batch_size=64)
    with pytest.raises(UsageError, match=message):
        next(engine([Input("a.png", content="a.png")]))


def test_missing_ray_says_what_to_install(
    tmp_path: Path, tiny_model: Path, make_pictures: Callable[..., list[str]]
) -> None:
    make_pictures(tmp_path / "d", 1)
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from mien.cli.main import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["predict", str(tmp_path / "d"), "--model", str(tiny_model), "--engine", "ray"]
    ran = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("mien: --engine ray needs the extra [ray]")
    assert ran.stderr.count("\n") == 1
