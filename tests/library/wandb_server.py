"""A W&B server on a loopback port: as much of its protocol as a run needs, and ways to fail."""

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Run:
    """What the server knows of one run."""

    config: str = "{}"
    summary: str = "{}"
    rows: list[dict] = field(default_factory=list)
    exit_code: int | None = None
    upserts: list[dict] = field(default_factory=list)  # the variables of each UpsertBucket
    uploads: list[str] = field(default_factory=list)  # names of files
    alerts: list[dict] = field(default_factory=list)  # title, text and severity
    is_preempting: bool = False
    used: list[str] = field(default_factory=list)  # ids of artifacts


class WandbServer(ThreadingHTTPServer):
    """
    Keeps what it is sent in `runs`, by run id; use it as a context manager.

    Setting `status` to an HTTP error makes it answer that to everything, and None makes it accept
    connections without ever answering. `stop` makes it refuse connections.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, dict] = {}  # {id: name, type and metadata}
        self.links: list[dict] = []  # from artifacts to collections
        self.is_stopped = False  # by the Stop button
        self.sweeps: list[dict] = []  # the variables of each request for a new one
        self.status = 200
        self.requests = []  # "method path", and GraphQL's operations by name
        self.released = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self.shutdown()
            self.server_close()
            self._thread.join()
        self.released.set()

    def __exit__(self, *exc_info) -> None:
        self.stop()

    def handle_error(self, request, client_address) -> None:
        """Clients that give up are what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; connections are not kept, so that a stopped server is gone at once."""

    server: WandbServer

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {self.path}")
        status = self.server.status
        if status is None:
            self.server.released.wait()
            return
        answer = {}
        if status == 200 and self.path == "/graphql":
            request = json.loads(body)
            # W&B's Python half names none
            named = re.search(r"(?:query|mutation) (\w+)", request["query"])
            operation = request.get("operationName") or (named[1] if named else "")
            self.server.requests.append(operation)
            answer = {"data": self._query(operation, request.get("variables"))}
        elif status == 200 and self.path.endswith("/file_stream"):
            self._stream(self.server.runs[self.path.split("/")[-2]], json.loads(body))
            answer = {"stopped": self.server.is_stopped}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_GET = do_POST

    def log_message(self, format, *args) -> None:
        """Requests are kept in `requests` instead of printed."""

    def _query(self, operation: str, variables: dict) -> dict:
        runs = self.server.runs
        project = {"id": "1", "name": "project", "entity": {"id": "2", "name": "entity"}}
        if operation == "RunResumeStatus":
            run = runs.get(variables["name"])
            return {"model": {**project, "bucket": run and self._bucket(variables["name"], run)}}
        if operation == "UpsertBucket":
            run = runs.setdefault(variables["name"], Run())
            run.upserts.append(variables)
            run.config = variables.get("config") or run.config
            bucket = {**self._bucket(variables["name"], run), "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": len(run.upserts) == 1}}
        if operation == "CreateRunFiles":
            runs[variables["run"]].uploads += variables["files"]
            files = [
                {"name": name, "uploadUrl": f"{self.server.url}/upload"}
                for name in variables["files"]
            ]
            return {"createRunFiles": {"runID": "3", "uploadHeaders": [], "files": files}}
        if operation == "Viewer":
            return {"viewer": {"id": "4", "entity": "entity", "teams": {"edges": []}}}
        if operation == "NotifyScriptableRunAlert":
            runs[variables["runName"]].alerts.append(variables)
            return {"notifyScriptableRunAlert": {"success": True}}
        if "rtifact" in operation or operation in ("ServerFeaturesQuery", "FetchOrgInfoFromEntity"):
            return self._artifacts(operation, variables)
        if "config" in (variables or {}):  # the one without a name
            self.server.sweeps.append(variables)
            sweep = {"name": "sweep1", "project": project}
            return {"upsertSweep": {"sweep": sweep, "configValidationWarnings": []}}
        return {}

    def _artifacts(self, operation: str, variables: dict) -> dict:
        """Takes every artifact for one that it has already, so that no file is sent."""
        known = self.server.artifacts
        if operation == "ServerFeaturesQuery":
            return {"serverInfo": {"features": []}}
        if operation == "CreateArtifact":
            sent = variables["input"]
            id_ = f"artifact-{len(known)}"
            known[id_] = {
                "name": sent["artifactCollectionName"],
                "type": sent["artifactTypeName"],
                "metadata": json.loads(sent["metadata"] or "{}"),
            }
            sequence = {"id": "5", "latestArtifact": {"id": id_, "versionIndex": 0}}
            artifact = {"id": id_, "state": "COMMITTED", "artifactSequence": sequence}
            return {"createArtifact": {"artifact": artifact}}
        if operation == "UseArtifact":
            used = variables.get("input", variables)
            self.server.runs[used["runName"]].used.append(used["artifactID"])
            return {"useArtifact": {"artifact": {"id": used["artifactID"]}}}
        if operation == "ArtifactType":  # of the collection, which is new
            return {"project": {"artifact": None}}
        if operation == "ArtifactByID":
            return {"artifact": described_artifact(variables["id"], **known[variables["id"]])}
        if operation == "ArtifactMembershipByName":
            name = variables["name"].split(":")[0]
            membership = {
                "__typename": "ArtifactCollectionMembership",
                "id": "6",
                "versionIndex": 3,
                "createdAt": "2024-01-01T00:00:00",
                "aliases": [],
                "artifactCollection": collection("ArtifactSequence", name),
                "artifact": described_artifact(f"artifact-{name}", name, "model"),
            }
            return {"project": {"artifactCollectionMembership": membership}}
        if operation == "FetchOrgInfoFromEntity":
            org = {"name": "Org", "orgEntity": {"name": "org"}}
            return {"entity": {"organization": org, "user": None}}
        if operation == "LinkArtifact":
            self.server.links.append(variables["input"])
            return {"result": {"versionIndex": 0}}
        return {}

    @staticmethod
    def _bucket(run_id: str, run: Run) -> dict:
        return {
            "id": "3",
            "name": run_id,
            "displayName": next(
                (u["displayName"] for u in run.upserts if u["displayName"]), run_id
            ),
            "config": run.config,
            "summaryMetrics": run.summary,
            "historyTail": json.dumps([json.dumps(row) for row in run.rows[-1:]]),
            "historyLineCount": len(run.rows),
            "eventsTail": "[]",
            "eventsLineCount": 0,
            "logLineCount": 0,
            "tags": [],
            "notes": "",
            "wandbConfig": '{"t": 1}',
        }

    @staticmethod
    def _stream(run: Run, request: dict) -> None:
        files = request.get("files", {})
        for line in files.get("wandb-history.jsonl", {}).get("content", []):
            row = json.loads(line)
            # like W&B, which keeps what it has
            if not run.rows or row["_step"] > run.rows[-1]["_step"]:
                run.rows.append(row)
        if "wandb-summary.json" in files:
            run.summary = files["wandb-summary.json"]["content"][-1]
        run.is_preempting |= request.get("preempting", False)
        if request.get("complete"):
            run.exit_code = request["exitcode"]


PROJECT = {"id": "1", "internalId": "1", "name": "project", "entity": {"name": "entity"}}


def collection(kind: str, name: str, project: dict = PROJECT) -> dict:
    """A collection of artifacts, as W&B's server describes it."""
    return {"__typename": kind, "id": "7", "name": name, "project": project}


def described_artifact(
    id_: str, name: str, type: str, metadata: dict | None = None, project: dict = PROJECT
) -> dict:
    """An artifact's third version, as W&B's server describes it."""
    return {
        "__typename": "Artifact",
        "id": id_,
        "artifactSequence": collection("ArtifactSequence", name, project),
        "versionIndex": 3,
        "artifactType": {"name": type},
        "description": None,
        "metadata": json.dumps(metadata or {}),
        "ttlDurationSeconds": -2,
        "ttlIsInherited": True,
        "tags": [],
        "historyStep": None,
        "state": "COMMITTED",
        "size": 1,
        "digest": "d",
        "commitHash": "c",
        "fileCount": 1,
        "createdAt": "2024-01-01T00:00:00",
        "updatedAt": "2024-01-01T00:00:00",
        "aliases": [],
    }
