"""A W&B server on loopback, as far as this project needs one: it keeps what runs send.

It answers wandb-core's queries by their names. What a real server does beyond that, it does not
show: rows lie where the client says, as W&B's own test server has it.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "somebody"


@dataclass
class Kept:
    """A run on the server."""

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None
    begun: int = 0
    """How often it was begun."""

    @property
    def fractions(self) -> list[float]:
        return [row["fraction"] for row in self.rows.values() if "fraction" in row]


@dataclass
class Server:
    url: str = ""
    runs: dict[str, Kept] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    """Queries by name, and paths of other requests."""
    status: int = 200
    """Of every answer."""
    history_status: int = 200
    """Of the answer to what holds histories."""


class _Handler(BaseHTTPRequestHandler):  # its methods are called by their names
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        state: Server = self.server.state
        with self.server.lock:
            if state.status != 200:
                state.asked.append(self.path)
                self._answer({"error": "no"}, state.status)
            elif self.path == "/graphql":
                self._graphql(json.loads(body))
            else:
                state.asked.append(self.path)
                self._file_stream(json.loads(body or b"{}"))

    def do_GET(self) -> None:
        self.do_POST()

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer({})

    def _answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _graphql(self, asked: dict[str, Any]) -> None:
        state: Server = self.server.state
        found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
        name = found[1] if found else "?"
        state.asked.append(name)
        given = asked.get("variables") or {}
        answer = getattr(self, f"_on_{name}", lambda _: {})(given)
        if isinstance(answer, str):
            self._answer({"errors": [{"message": answer}], "data": None}, 400)
        else:
            self._answer({"data": answer})

    def _on_Viewer(self, _: Any) -> Any:
        return {"viewer": {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}"}}

    def _on_UpsertBucket(self, given: dict[str, Any]) -> Any:
        state: Server = self.server.state
        name = given["name"]
        if name in state.deleted:
            return f"run {name} was previously created and deleted; try a new run name"
        inserted = name not in state.runs
        run = state.runs.setdefault(name, Kept(name))
        run.begun += 1
        if given.get("config"):
            config = json.loads(given["config"])
            run.config = {key: value["value"] for key, value in config.items()}
        return {
            "upsertBucket": {
                "bucket": {**self._bucket(run), "project": self._project(given["project"])},
                "inserted": inserted,
            }
        }

    def _on_RunResumeStatus(self, given: dict[str, Any]) -> Any:
        run = self.server.state.runs.get(given["name"])
        bucket = None
        if run is not None:
            last = run.rows[max(run.rows)] if run.rows else {}
            bucket = {
                **self._bucket(run),
                "logLineCount": 0,
                "eventsLineCount": 0,
                "historyTail": json.dumps([json.dumps(last)] if last else []),
                "eventsTail": "[]",
                "tags": [],
                "wandbConfig": '{"t": 1}',
            }
        return {"model": {**self._project(given["project"]), "bucket": bucket}}

    def _on_CreateRunFiles(self, given: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": f"/put/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _on_ArtifactType(self, _: Any) -> Any:
        return {"project": {"artifact": None}}

    def _on_CreateArtifact(self, _: Any) -> Any:
        sequence = {"id": "1", "latestArtifact": None}
        artifact = {"id": "1", "state": "COMMITTED", "artifactSequence": sequence}
        return {"createArtifact": {"artifact": artifact}}

    def _on_GetDefaultEntity(self, given: Any) -> Any:
        return self._on_Viewer(given)

    def _on_DeleteRun(self, given: dict[str, Any]) -> Any:
        self.server.state.runs.pop(given["id"])
        self.server.state.deleted.append(given["id"])
        return {"deleteRun": {"clientMutationId": None}}

    def _on_Run(self, given: dict[str, Any]) -> Any:
        run = self.server.state.runs.get(given["name"])
        project = self._project(given["project"])
        if run is None:
            return {"project": {**project, "run": None}}
        more = {
            "tags": [], "state": "finished", "group": None, "jobType": None, "commit": None,
            "readOnly": False, "createdAt": "2025-01-01T00:00:00", "heartbeatAt": None,
            "notes": None, "systemMetrics": "{}", "user": {"name": ENTITY, "username": ENTITY},
            "historyKeys": {}, "projectId": "1", "description": "",
        }  # fmt: skip
        return {"project": {**project, "internalId": "1", "run": {**self._bucket(run), **more}}}

    def _bucket(self, run: Kept) -> dict[str, Any]:
        config = {key: {"value": value} for key, value in run.config.items()}
        return {
            "id": run.name,
            "name": run.name,
            "displayName": run.name,
            "sweepName": None,
            "config": json.dumps(config),
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.rows),
        }

    def _project(self, name: str) -> dict[str, Any]:
        return {"id": "1", "name": name, "entity": {"id": "1", "name": ENTITY}}

    def _file_stream(self, sent: dict[str, Any]) -> None:
        state: Server = self.server.state
        found = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        if found is None:
            return self._answer({}, 404)
        if state.history_status != 200:
            return self._answer({"error": "no"}, state.history_status)
        run = state.runs[found[1]]
        for name, part in (sent.get("files") or {}).items():
            for at, line in enumerate(part["content"], part["offset"]):
                if name == "wandb-history.jsonl":
                    run.rows[at] = json.loads(line)
                elif name == "wandb-summary.json":
                    run.summary = json.loads(line)
        if sent.get("complete"):
            run.exit_code = sent.get("exitcode")
        return self._answer({})


@contextmanager
def serving(**settings: Any) -> Iterator[Server]:
    """A server, until the block ends."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    http.daemon_threads = True
    state = Server(url=f"http://127.0.0.1:{http.server_port}", **settings)
    http.state, http.lock = state, threading.Lock()  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()
