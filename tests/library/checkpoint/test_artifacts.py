"""Checkpoints logged to a real offline run, and loaded through wandb from a loopback server."""

import base64
import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import wandb
import wandb_server
from conftest import PROJECT_ROOT, read_wandb_records
from detection.checkpoint import artifacts
from detection.checkpoint.artifacts import WandbArtifactHandler
from detection.checkpoint.checkpointer import WholeFileCheckpointer
from detection.engine.checkpoint_hooks import BestCheckpointer, ModelArtifacts
from detection.engine.hooks import EvalHook
from detection.utils.errors import UserError
from detection.utils.wandb_runs import make_settings, open_run, tear_down
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import hooks
from detectron2.utils.file_io import PathManager
from tiny_training import TinyModel, tiny_trainer


class WandbServer(ThreadingHTTPServer):
    """Answers as much of W&B's protocol as it takes to download the artifact e/p/model:v3."""

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = files
        self.manifest = json.dumps(manifest(files)).encode()
        self.requests = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/graphql":
            return self.answer(b"{}")
        query = json.loads(body)
        name = query["query"].split("(")[0].split("{")[0].split()[-1]
        self.server.requests.append(name)
        data = {"viewer": {"id": "1", "entity": "e", "username": "u", "flags": "{}"}}
        if name == "ServerFeaturesQuery":
            data = {"serverInfo": {"features": []}}
        elif name == "ArtifactMembershipByName":
            found = query["variables"]["name"] in ("model:best", "model:v3", "model:latest")
            data = {"project": {"artifactCollectionMembership": MEMBERSHIP if found else None}}
        elif name == "FetchArtifactManifest":
            url = f"{self.server.url}/manifest"
            data = {"artifact": {"currentManifest": {"file": {"directUrl": url}}}}
        return self.answer(json.dumps({"data": data}).encode())

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.path == "/manifest":
            return self.answer(self.server.manifest)
        for content in self.server.files.values():
            if self.path.startswith("/artifactsV2/") and hexdigest(content) in self.path:
                return self.answer(content)
        return self.send_error(404)

    def answer(self, content: bytes):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


PROJECT = {"id": "1", "internalId": "1", "name": "p", "entity": {"name": "e"}}
MEMBERSHIP = {
    "__typename": "ArtifactCollectionMembership",
    "id": "1",
    "versionIndex": 3,
    "createdAt": "2024-01-01T00:00:00",
    "aliases": [],
    "artifactCollection": {"__typename": "ArtifactSequence", "name": "model", "project": PROJECT},
    "artifact": wandb_server.described_artifact("artifact-1", "model", "model", project=PROJECT),
}


def hexdigest(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def manifest(files: dict[str, bytes]) -> dict:
    entries = {
        name: {"digest": base64.b64encode(hashlib.md5(c).digest()).decode(), "size": len(c)}
        for name, c in files.items()
    }
    return {
        "version": 1,
        "storagePolicy": "wandb-storage-policy-v1",
        "storagePolicyConfig": {"storageLayout": "V2"},
        "contents": entries,
    }


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Starts a server with files in its artifact; wandb talks to it, and caches in `tmp_path`."""
    servers = []

    def start(files: dict[str, bytes]) -> WandbServer:
        server = WandbServer(files)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb"))
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        monkeypatch.delenv("WANDB_MODE", raising=False)
        tear_down()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
    tear_down()


def weights(tmp_path, value: float) -> bytes:
    model = TinyModel()
    torch.nn.init.constant_(model.weight, value)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    return (tmp_path / "weights.pth").read_bytes()


def test_checkpointer_loads_an_artifact(serve, tmp_path):
    server = serve({"model_best.pth": weights(tmp_path, 7), "log.txt": b"-"})
    model = TinyModel()
    DetectionCheckpointer(model).load("wandb-artifact://e/p/model:best")
    assert model.weight == 7

    assert artifacts.versions["wandb-artifact://e/p/model:best"] == "e/p/model:v3"
    (file,) = (tmp_path / "cache").rglob("model_best.pth")
    assert file.parent.name == "model-v3", "under its version, as an alias moves on"
    assert sum(path.startswith("/artifactsV2") for path in server.requests) == 1
    WandbArtifactHandler()._get_local_path("wandb-artifact://e/p/model")
    assert sum(path.startswith("/artifactsV2") for path in server.requests) == 1, "it was there"


def test_a_file_of_several(serve, tmp_path):
    serve({"a.pth": b"a", "b/model.pth": b"b"})
    path = PathManager.get_local_path("wandb-artifact://e/p/model:v3/b/model.pth")
    assert open(path).read() == "b"
    with PathManager.open("wandb-artifact://e/p/model:v3/a.pth") as f:
        assert f.read() == "a"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("wandb-artifact://e/p", "entity/project/name:alias"),
        ("wandb-artifact://e//model", "entity/project/name:alias"),
        ("wandb-artifact://e/p/other:best", "'other:best' not found in 'e/p'"),
        ("wandb-artifact://e/p/model:best/c.pth", "no file c.pth; there are a.pth, b.pth"),
        ("wandb-artifact://e/p/model:best", "there are a.pth, b.pth"),
    ],
)
def test_what_cannot_be_had_is_one_line(serve, path, says):
    serve({"a.pth": b"a", "b.pth": b"b"})
    with pytest.raises(UserError) as e:
        WandbArtifactHandler()._get_local_path(path)
    assert says in str(e.value) and path in str(e.value)
    assert "\n" not in str(e.value)


def test_without_a_key_or_a_server(tmp_path, monkeypatch):
    path = "wandb-artifact://e/p/model:best"
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="wandb login"):
        WandbArtifactHandler()._get_local_path(path)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    tear_down()
    with pytest.raises(UserError) as e:
        WandbArtifactHandler(timeout=2)._get_local_path(path)
    assert "\n" not in str(e.value) and str(e.value).startswith(path)
    tear_down()


ENDINGS = {
    "fetch": """
from detection.checkpoint import artifacts
from detection.checkpoint.artifacts import WandbArtifactHandler
try:
    WandbArtifactHandler(timeout=2)._get_local_path("wandb-artifact://e/p/model:best")
except Exception as e:
    print("error", e)
""",
    "run": """
from pathlib import Path
from detection.utils.wandb_runs import make_settings, open_run
settings = make_settings([], init_timeout=1, finish_timeout=2)
run = open_run(Path("."), "abc", "online", settings, lambda: None)
run.log({"x": 1})
run.finish()
""",
}
FREEZE = """
import os, signal
from pathlib import Path
for child in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
    os.kill(int(child), signal.SIGSTOP)
print("end", flush=True)
"""


@pytest.mark.parametrize("ending", ENDINGS)
def test_python_ends_though_wandb_does_not(tmp_path, ending):
    """Frozen here, W&B's own process is now and then like that by itself, after a refusal."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("WANDB_")},
        "HOME": str(tmp_path),
        "PYTHONPATH": str(PROJECT_ROOT),
        "WANDB_API_KEY": "k" * 40,
        "WANDB_BASE_URL": "http://127.0.0.1:9",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", ENDINGS[ending] + FREEZE],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=60)
    finally:
        subprocess.run(["pkill", "-KILL", "-P", str(process.pid)])
        process.kill()
    assert process.returncode == 0
    assert out.endswith("end\n") and out.count("\n") == {"fetch": 2, "run": 1}[ending]


def train_and_log(folder, steps=6, max_iter=6, link_to=None):
    scores = iter([10.0, 30.0, 20.0])
    trainer = tiny_trainer([1.0] * steps)
    checkpointer = WholeFileCheckpointer(
        trainer.model, str(folder), classes=["종이"], trainer=trainer
    )
    trainer.register_hooks(
        [
            hooks.PeriodicCheckpointer(checkpointer, period=2),
            EvalHook(2, lambda: {"bbox": {"AP": next(scores)}}),
            BestCheckpointer(checkpointer, "bbox/AP"),
            ModelArtifacts(checkpointer, "bbox/AP", link_to=link_to),
        ]
    )
    trainer.train(0, max_iter)


@pytest.fixture
def offline_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    tear_down()
    config = {"optimizer": {"lr": 0.1}, "classes": ["종이"]}
    run = wandb.init(dir=tmp_path, project="p", id="abc", config=config)
    yield run
    run.finish()
    tear_down()


def logged_artifacts(run) -> list:
    run.finish()
    tear_down()  # its process has written all
    records = read_wandb_records(run.settings.sync_file)
    return [record.artifact for record in records if record.HasField("artifact")]


def test_best_and_last_are_logged_at_the_end(offline_run, tmp_path):
    train_and_log(tmp_path)
    best, last = logged_artifacts(offline_run)
    for artifact, alias, file in (
        (best, "best", "model_best.pth"),
        (last, "last", "model_final.pth"),
    ):
        assert (artifact.type, artifact.name) == ("model", "model-abc")
        assert sorted(artifact.aliases) == sorted([alias, "latest"])  # the latest one keeps that
        (entry,) = artifact.manifest.contents
        assert entry.path == file
        assert entry.local_path == str(tmp_path / file), "not a copy"
        digest = hashlib.md5((tmp_path / file).read_bytes()).digest()
        assert entry.digest == base64.b64encode(digest).decode()
    config = {"optimizer": {"lr": 0.1}, "classes": ["종이"]}
    expected = {"metric": "bbox/AP", "config": config, "thing_classes": ["종이"]}
    assert json.loads(best.metadata) == {**expected, "value": 30, "iteration": 3}
    assert json.loads(last.metadata) == {**expected, "value": 20, "iteration": 5}
    assert not list((tmp_path / "elsewhere").rglob("*.pth"))


def test_a_training_that_stops_early_logs_none(offline_run, tmp_path):
    with pytest.raises(StopIteration):
        train_and_log(tmp_path, steps=4)
    assert logged_artifacts(offline_run) == []


REGISTRY = "wandb-registry-model/trash"


def test_best_is_linked_to_the_registry(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="detection")
    with wandb_server.WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
        monkeypatch.delenv("WANDB_MODE", raising=False)
        tear_down()
        settings = make_settings([], init_timeout=60)
        run = open_run(tmp_path, "abc", "online", settings, lambda: None, project="p")
        train_and_log(tmp_path, link_to=REGISTRY)
        run.finish()
        tear_down()
    best, last = server.artifacts.values()
    assert best["metadata"]["value"] == 30 and last["metadata"]["iteration"] == 5
    (link,) = server.links
    assert server.artifacts[link["artifactID"]] is best
    assert f"{link['projectName']}/{link['artifactPortfolioName']}" == REGISTRY
    assert link["entityName"] == "org"
    assert f"W&B: model-abc:v3 is linked to {REGISTRY}" in caplog.messages


def test_best_of_an_offline_run_is_not_linked(offline_run, tmp_path, caplog):
    train_and_log(tmp_path, link_to=REGISTRY)
    assert len(logged_artifacts(offline_run)) == 2
    said = f"W&B: model-abc is not linked to {REGISTRY} (the run is offline); its page in W&B can"
    assert said in caplog.messages


def test_what_fails_does_not_stop_training(offline_run, tmp_path, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(offline_run, "log_artifact", fail)
    train_and_log(tmp_path)
    assert "checkpoints not logged (OSError('no space left'))" in caplog.text


def test_without_a_run(tmp_path, caplog):
    assert wandb.run is None
    train_and_log(tmp_path)
    assert "no W&B run" in caplog.text


@pytest.mark.slow
def test_train_net_logs_and_loads_them(train_net, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    train_net("train.max_iter=1", "train.artifacts.enabled=True", f"train.output_dir={tmp_path}")
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    logged = [r.artifact for r in read_wandb_records(file) if r.HasField("artifact")]
    assert logged[0].type == "dataset" and logged[0].use_after_commit
    metadata = json.loads(logged[0].metadata)
    assert metadata["train"]["images"] == 8 and metadata["val"]["file"] == "val.json"
    assert "last" in [alias for artifact in logged for alias in artifact.aliases]
    assert json.loads(logged[-1].metadata)["config"]["train"]["max_iter"] == 1
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    args = [
        "train.init_checkpoint=wandb-artifact://e/p/model:best",
        f"train.output_dir={tmp_path}/2",
    ]
    process = train_net(*args, check=False)
    assert process.returncode == 2
    assert (
        process.stderr.strip()
        .splitlines()[-1]
        .startswith("train_net.py: wandb-artifact://e/p/model")
    )
