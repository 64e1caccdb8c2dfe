"""A hub that is unreachable, slow, or serves half a file."""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.running import PATIENCE_S, Ended
from faults.test_killed import PLAIN

MAIN = Path(__file__).parent.parent.parent / "main.py"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves one model, `someone/tiny`, from `folder`, as well as `ill` lets it."""

    folder: Path
    ill: str
    stopping: threading.Event

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, *args):
        pass

    def _answer(self, body):
        if self.ill == "slow":
            self.stopping.wait(PATIENCE_S)
            return
        if self.ill == "broken":
            self.send_error(500)
            return
        if self.path.startswith("/api/"):
            info = {"id": "someone/tiny", "sha": COMMIT, "siblings": []}
            tree = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}
                for file in sorted(self.folder.iterdir())
            ]
            said = json.dumps(tree if "/tree/" in self.path else info).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            if body:
                self.wfile.write(said)
            return
        file = self.folder / self.path.rpartition("/")[2]
        if not file.is_file():
            self.send_error(404, "Entry not found")
            return
        content = file.read_bytes()
        half = self.ill == "half" and file.suffix == ".safetensors"
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{len(content)}-{file.name}"')
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if half else content)
        self.close_connection = True


@contextmanager
def hub(folder, ill):
    kind = type("Hub", (Hub,), {"folder": folder, "ill": ill, "stopping": threading.Event()})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        kind.stopping.set()
        server.shutdown()
        server.server_close()


def run(place, endpoint, tmp_path, *overrides):
    """Run in a new process: the hub's library reads the environment on import."""
    arguments = place.arguments(*overrides, "model.path=someone/tiny")
    arguments.remove(f"model.path={place.model}")
    done = subprocess.run(
        [sys.executable, str(MAIN), *arguments[1:]],
        cwd=place.folder, capture_output=True, text=True, timeout=PATIENCE_S,
        env={
            **os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint, "COLUMNS": "120",
            "HF_HOME": str(tmp_path / "home"), "HF_HUB_DOWNLOAD_TIMEOUT": "2",
            "HF_HUB_ETAG_TIMEOUT": "2", "HF_HUB_DISABLE_XET": "1",
        },
    )  # fmt: skip
    return Ended(done.returncode, done.stdout + done.stderr)


@pytest.mark.parametrize("ill", ["not there", "slow", "broken", "half"])
def test_a_hub_that_is_ill(ill, place, undisturbed, tmp_path, seen):
    overrides = (*PLAIN, "export=hf") if ill == "half" else PLAIN
    started = time.monotonic()
    if ill == "not there":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        done = run(place, endpoint, tmp_path, *overrides)
    else:
        with hub(place.model, ill) as endpoint:
            done = run(place, endpoint, tmp_path, *overrides)
    assert time.monotonic() - started < PATIENCE_S
    assert done.status == 2, done.said
    assert "model.path=someone/tiny" in done.last, done.said
    assert not list(place.outputs.glob("faults/points/*/record.json"))
    with hub(place.model, "well") as endpoint:
        again = run(place, endpoint, tmp_path, *overrides)
    assert again.status == 0, again.said
    now = [json.loads(each)[1:4] for each in place.results().values()]
    before = [json.loads(each)[1:4] for each in undisturbed(*PLAIN).values()]
    assert sorted(map(str, now)) == sorted(map(str, before))
    words = {"not there": "cannot be reached", "slow": "never answers",
             "broken": "answers with errors", "half": "sends half of the weights"}  # fmt: skip
    seen("the hub", words[ill], done, "once it works: a rerun completes")
