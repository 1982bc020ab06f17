"""Downloads are fetched whole and verified once, and every fault of the hub becomes one clear message."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download

from pipeline.suites import _hub as downloads
from pipeline.suites._hub import (
    HubError,
    Request,
    check_room,
    describe_downloads,
    fetch_files,
    plan_downloads,
    record_downloads,
)
from tests.support import hub_server
from tests.support.hub_server import MEMBER, STRANGER, Hub, blob, sha256
from tests.support.toy import ROOT

pytestmark = pytest.mark.long

hub = hub_server.hub

WEIGHTS, CONFIG = bytes(range(256)) * 40, b'{"model_type": "clip"}\n'
MODEL = {"model.safetensors": WEIGHTS, "config.json": CONFIG, "README.md": b"# Model\n", "old/model.safetensors": b"x"}
DATASET = {"data/train-00000.parquet": b"train 0" * 99, "data/train-00001.parquet": b"train 1" * 99, "README.md": b"D"}
VIT = Request("someone/vit", "model", "main", ("*.safetensors", "config.json"))
DIGITS = Request("someone/digits", "dataset", "main", ("data/train-*.parquet",))
CDN = f"/cdn/{sha256(WEIGHTS)}"


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the seconds of every pause instead of waiting; the server does not use time.sleep."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture
def vit(hub: Hub) -> Hub:
    """A hub with a model and a dataset."""
    hub.push("model", VIT.repo, MODEL)
    hub.push("dataset", DIGITS.repo, DATASET)
    return hub


class Room:
    """A disk with `free` bytes."""

    def __init__(self, free: int) -> None:
        self.free = free


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def leftovers(hub_home: Path) -> list[str]:
    return [path.name for path in hub_home.rglob("*") if path.name.endswith((".incomplete", ".tmp"))]


def error_message(*requests: Request) -> str:
    """Return the error of planning and fetching, which may leave nothing half-done."""
    with pytest.raises(HubError) as caught:
        fetch_files(plan_downloads(requests))
    assert not leftovers(Path(constants.HF_HOME))
    return str(caught.value)


def test_a_plan_lists_what_matches_and_downloads_nothing(vit: Hub):
    model, dataset = plan_downloads([VIT, DIGITS])
    assert (model.id, model.commit) == (VIT.repo, vit.commit("model", VIT.repo))
    assert [file.name for file in model.files] == ["config.json", "model.safetensors"]
    config, weights = model.files
    assert (config.size, config.sha256, config.blob) == (len(CONFIG), None, blob(CONFIG))
    assert (weights.size, weights.sha256) == (len(WEIGHTS), sha256(WEIGHTS))
    assert [file.name for file in dataset.files] == ["data/train-00000.parquet", "data/train-00001.parquet"]
    assert vit.count("GET", "/resolve/") + vit.count("GET", "/cdn/") + vit.count("HEAD") == 0


def test_files_arrive_whole_and_only_once(vit: Hub):
    plans = plan_downloads([VIT, DIGITS])
    paths = fetch_files(plans)
    assert {key: path.read_bytes() for key, path in paths.items()} == {
        (VIT.repo, "config.json"): CONFIG,
        (VIT.repo, "model.safetensors"): WEIGHTS,
        **{(DIGITS.repo, name): DATASET[name] for name in DATASET if name.endswith(".parquet")},
    }
    request_count = len(vit.requests)
    assert fetch_files(plans) == paths
    assert len(vit.requests) == request_count


def test_suites_share_common_files(vit: Hub):
    fetch_files(plan_downloads([VIT]))
    other = Request(VIT.repo, "model", "main", ("model.safetensors", "README.md"))
    both = plan_downloads([other, VIT, other])
    assert [[file.name for file in remote.files] for remote in both] == [
        ["README.md", "config.json", "model.safetensors"]
    ]
    fetch_files(both)
    assert vit.count("GET", CDN) == 1
    assert vit.count("GET", "/config.json") == 1


def test_one_name_stands_for_one_repository(vit: Hub):
    with pytest.raises(
        HubError, match="someone/vit is requested as a model at 'main' and as a model at 'v2'; name one of them"
    ):
        plan_downloads([VIT, Request(VIT.repo, "model", "v2", ("config.json",))])


def test_a_commit_is_listed_once_and_a_branch_every_time(vit: Hub):
    commit = vit.commit("model", VIT.repo)
    pinned = Request(VIT.repo, "model", commit, ("config.json",))
    assert plan_downloads([pinned]) == plan_downloads([pinned])
    assert vit.count("GET", f"/revision/{commit}") == 1
    plan_downloads([VIT])
    newer = vit.push("model", VIT.repo, {**MODEL, "config.json": b"{}"})
    assert plan_downloads([VIT])[0].commit == newer
    assert plan_downloads([pinned])[0].commit == commit


def test_downloads_are_described_and_recorded(vit: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(downloads, "GIB", 1000)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: Room(10**7))
    plans = plan_downloads([VIT, DIGITS])
    expected = "2 repositories, 4 files: 11.65 GiB to fetch, 0.00 GiB cached, 10000.00 GiB free in "
    assert describe_downloads(plans) == f"{expected}{constants.HF_HUB_CACHE}"
    fetch_files(plans)
    assert "0.00 GiB to fetch, 11.65 GiB cached" in describe_downloads(plans)
    recorded = record_downloads(plans)
    assert recorded == record_downloads(plan_downloads([DIGITS, VIT])) == json.loads(json.dumps(recorded))
    assert [record["repo"] for record in recorded] == ["someone/digits", "someone/vit"]
    assert recorded[1] == {
        "repo": VIT.repo,
        "kind": "model",
        "revision": "main",
        "id": VIT.repo,
        "commit": vit.commit("model", VIT.repo),
        "license": hub_server.LICENSE,
        "files": [
            {"name": "config.json", "size": len(CONFIG), "sha256": None, "blob": blob(CONFIG)},
            {
                "name": "model.safetensors",
                "size": len(WEIGHTS),
                "sha256": sha256(WEIGHTS),
                "blob": plans[0].files[1].blob,
            },
        ],
    }


def test_a_disk_without_room_is_named_before_anything_is_fetched(vit: Hub, monkeypatch: pytest.MonkeyPatch):
    plans, size = plan_downloads([VIT]), len(WEIGHTS) + len(CONFIG)
    monkeypatch.setattr(downloads, "GIB", 1000)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: Room(round(size * 1.06)))
    check_room(plans)
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: Room(round(size * 1.04)))
    with pytest.raises(HubError) as caught:
        check_room(plans)
    assert str(caught.value) == (
        f"the downloads need 10.78 GiB, the disk of {constants.HF_HUB_CACHE} has 10.67 GiB free; make room, or set "
        f"HF_HOME to a folder on a larger disk"
    )


def test_a_disk_that_fills_up_is_named(vit: Hub, monkeypatch: pytest.MonkeyPatch):
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    message = error_message(VIT)
    assert f"no room for config.json on the disk of {constants.HF_HUB_CACHE}; make room or set HF_HOME" in message


def test_an_interrupted_download_is_resumed(vit: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # the client's buffer, otherwise 10 MiB
    vit.fail(CDN, cut=1100)
    assert fetch_files(plan_downloads([VIT]))[VIT.repo, "model.safetensors"].read_bytes() == WEIGHTS
    assert [request.range for request in vit.requests if request.path == CDN] == ["", "bytes=1000-"]


def test_leftovers_of_a_killed_run_are_removed(vit: Hub):
    plans = plan_downloads([VIT])
    blobs = fetch_files(plans)[VIT.repo, "config.json"].resolve().parent
    old, recent = blobs / "a.1.incomplete", blobs / "b.2.incomplete"
    old.touch()
    recent.touch()
    os.utime(old, (0, 0))
    fetch_files(plans)
    assert leftovers(blobs) == ["b.2.incomplete"]


@pytest.mark.parametrize("path", ["/api/models/", "/config.json", CDN])
def test_after_429_the_client_waits_for_retry_after(vit: Hub, pauses: list[float], path: str):
    vit.fail(path, status=429, headers={"Retry-After": "17"})
    fetch_files(plan_downloads([VIT]))
    assert pauses in ([17], [18])  # the client adds a second


def test_after_429_the_client_waits_for_the_rate_limit_window(vit: Hub, pauses: list[float]):
    vit.fail("/api/models/", status=429, headers={"RateLimit": '"api";r=0;t=55'})
    plan_downloads([VIT])
    assert pauses == [55]


@pytest.mark.parametrize("method,path", [("GET", "/api/models/"), ("GET", "/config.json"), ("HEAD", ""), ("GET", CDN)])
def test_a_briefly_busy_hub_is_retried(vit: Hub, method: str, path: str):
    vit.fail(path, method=method, status=503, times=3)
    assert len(fetch_files(plan_downloads([VIT]))) == 2


@pytest.mark.parametrize("method,path,what", [
    ("GET", "/api/models/", "revision 'main'"),
    ("HEAD", "/model.safetensors", "model.safetensors"),
    ("GET", CDN, "model.safetensors"),
])  # fmt: skip
def test_a_hub_that_stays_busy_is_given_up(vit: Hub, pauses: list[float], method: str, path: str, what: str):
    vit.fail(path, method=method, status=503, times=99)
    message = f"{vit.url}/someone/vit: HTTP 503 for {what}; the hub is busy: try later; finished downloads are kept"
    assert error_message(VIT) == message
    assert pauses[:3] == [1, 2, 4]
    assert vit.count(method, path) <= 7


@pytest.mark.parametrize("method,path", [("GET", "/api/models/"), ("HEAD", "/config.json"), ("GET", CDN)])
def test_an_unresponsive_hub_is_retried(vit: Hub, monkeypatch: pytest.MonkeyPatch, method: str, path: str):
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    vit.fail(path, method=method, delay=2)
    assert len(fetch_files(plan_downloads([VIT]))) == 2


def test_a_missing_network_is_reported(vit: Hub, pauses: list[float]):
    vit.close()
    message = error_message(VIT)
    assert message.startswith(f"{vit.url}/someone/vit: revision 'main': ConnectError: ")
    assert message.endswith("; check the network, HF_ENDPOINT and HF_HOME; HF_HUB_OFFLINE=1 uses the cache alone")
    assert pauses == [1, 2, 4, 8]


def test_an_endpoint_other_than_a_hub_is_reported(vit: Hub):
    vit.fail("/api/models/", change=lambda _: b"<html>Log in to the guest network</html>")
    assert "revision 'main': JSONDecodeError: " in error_message(VIT)


def alter_first_byte(body: bytes) -> bytes:
    return b"?" + body[1:]


@pytest.mark.parametrize("path", ["/config.json", CDN])
def test_altered_bytes_are_fetched_again(vit: Hub, path: str):
    vit.fail(path, change=alter_first_byte)
    assert [path.read_bytes() for path in fetch_files(plan_downloads([VIT])).values()] == [CONFIG, WEIGHTS]
    assert vit.count("GET", path) == 2


@pytest.mark.parametrize("path,name,fault", [
    (CDN, "model.safetensors", f"has sha256 {sha256(alter_first_byte(WEIGHTS))}, the hub lists {sha256(WEIGHTS)}"),
    ("/resolve/", "config.json", f"has sha1 {blob(alter_first_byte(CONFIG))}, the hub lists {blob(CONFIG)}"),
])  # fmt: skip
def test_bytes_that_stay_altered_are_refused_and_deleted(vit: Hub, path: str, name: str, fault: str):
    vit.fail(path, change=alter_first_byte, times=99)
    assert error_message(VIT).startswith(f"{vit.url}/someone/vit: {name} {fault}, twice; the copy was deleted. ")
    assert not [*Path(constants.HF_HUB_CACHE).rglob(name)]
    vit.faults.clear()
    assert len(fetch_files(plan_downloads([VIT]))) == 2


@pytest.mark.parametrize("change", [lambda body: body[:99], lambda body: body + b"more"], ids=["shorter", "longer"])
def test_a_body_of_another_length_is_fetched_again(vit: Hub, change):
    vit.fail(CDN, change=change)
    assert fetch_files(plan_downloads([VIT]))[VIT.repo, "model.safetensors"].read_bytes() == WEIGHTS
    vit.push("model", VIT.repo, MODEL | {"model.safetensors": b"other" * 99})
    vit.fail("/cdn/", change=change, times=99)
    assert "Consistency check failed: file should be of size 495 but has size" in error_message(VIT)


@pytest.mark.parametrize(
    "damage", [b"", WEIGHTS[:99], alter_first_byte(WEIGHTS)], ids=["empty", "truncated", "altered"]
)
def test_a_damaged_cache_is_repaired(vit: Hub, damage: bytes):
    path = fetch_files(plan_downloads([VIT]))[VIT.repo, "model.safetensors"]
    path.resolve().write_bytes(damage)
    assert fetch_files(plan_downloads([VIT]))[VIT.repo, "model.safetensors"].read_bytes() == WEIGHTS
    assert vit.count("GET", CDN) == 2


def test_a_copy_that_repositories_share_is_deleted_with_the_links_to_it(vit: Hub):
    path = fetch_files(plan_downloads([VIT]))[VIT.repo, "model.safetensors"]
    shared = Path(constants.HF_HUB_CACHE, "shared")
    path.resolve().rename(shared)
    (path.parent / path.readlink()).symlink_to(os.path.relpath(shared, (path.parent / path.readlink()).parent))
    shared.write_bytes(b"damaged")
    assert fetch_files(plan_downloads([VIT]))[VIT.repo, "model.safetensors"].read_bytes() == WEIGHTS
    assert not shared.exists()


@pytest.mark.parametrize(
    "token,status", [(None, "HF_TOKEN is not set"), (STRANGER, "the token in use (HF_TOKEN) has no access")]
)
@pytest.mark.parametrize("kind,page", [("model", "someone/vit"), ("dataset", "datasets/someone/vit")])
def test_a_gated_repository_needs_a_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, kind, page: str, token: str | None, status: str
):
    hub.push(kind, VIT.repo, MODEL, gated=True)
    gated = Request(VIT.repo, kind, "main", VIT.patterns)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError) as caught:
        plan_downloads([gated])
    advice = "accept the licence on that page and set HF_TOKEN to that account's token"
    assert str(caught.value) == f"{hub.url}/{page}: gated, and {status}: {advice}"
    monkeypatch.setenv("HF_TOKEN", MEMBER)
    assert len(fetch_files(plan_downloads([gated]))) == 2
    assert not any(request.token for request in hub.requests if request.path.startswith("/cdn/"))


def test_a_missing_repository_is_reported(vit: Hub, monkeypatch: pytest.MonkeyPatch):
    missing = Request("someone/gone", "dataset", "main", ("*",))
    message = "no such dataset, or a private one, and {}; check its name, it may have moved"
    page = f"{vit.url}/datasets/someone/gone: "
    assert error_message(missing) == page + message.format("HF_TOKEN is not set")
    monkeypatch.setenv("HF_TOKEN", MEMBER)
    assert error_message(missing) == page + message.format("the token in use (HF_TOKEN) has no access")
    assert vit.count("GET") == 2


def test_an_invalid_token_is_reported(vit: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mistyped")
    assert "HTTP 401 for revision 'main'; see " in error_message(VIT)


def test_an_invalid_name_is_reported(vit: Hub):
    assert "someone/vit/main: revision 'main': HFValidationError: " in error_message(
        Request("someone/vit/main", "model", "main", ("*",))
    )


def test_a_missing_revision_is_reported(vit: Hub):
    message = "someone/vit: no revision 'v9'; name a branch, a tag, or a commit of "
    assert message in error_message(Request(VIT.repo, "model", "v9", ("*.safetensors",)))


@pytest.mark.parametrize("pattern", ["*.bin", "*.parquet", "train-*.safetensors", "old/*/*"])
def test_a_pattern_without_a_file_is_reported(vit: Hub, pattern: str):
    vit.push("model", VIT.repo, MODEL | {"data/train-0.parquet": b"0"})
    assert error_message(Request(VIT.repo, "model", "main", ("config.json", pattern))) == (
        f"{vit.url}/someone/vit: no file matches {pattern!r} at 'main'; there are: README.md, config.json, "
        f"data/train-0.parquet, model.safetensors, old/model.safetensors"
    )


def test_a_file_removed_after_the_plan_is_reported(vit: Hub):
    plans = plan_downloads([VIT])
    vit.fail("/config.json", method="HEAD", status=404, headers={"X-Error-Code": "EntryNotFound"})
    with pytest.raises(HubError, match=r"/someone/vit: HTTP 404 for config\.json; see .*/someone/vit and HF_TOKEN"):
        fetch_files(plans)


def test_a_repository_that_moved_is_followed_and_named(vit: Hub):
    vit.move("dataset", DIGITS.repo, "ylecun/digits")
    plans = plan_downloads([DIGITS])
    assert (plans[0].repo, plans[0].id) == (DIGITS.repo, "ylecun/digits")
    assert describe_downloads(plans).endswith("\nsomeone/digits has moved to ylecun/digits")
    assert record_downloads(plans)[0]["id"] == "ylecun/digits"
    path = fetch_files(plans)[DIGITS.repo, "data/train-00000.parquet"]
    assert path.read_bytes() == DATASET["data/train-00000.parquet"]
    fetch_files(plan_downloads([Request("ylecun/digits", "dataset", "main", DIGITS.patterns)]))
    assert vit.count("GET", "/cdn/") == 2


def test_offline_a_full_cache_is_enough(vit: Hub, monkeypatch: pytest.MonkeyPatch):
    commit = vit.commit("model", VIT.repo)
    online = fetch_files(plan_downloads([VIT]))
    request_count = len(vit.requests)
    go_offline(monkeypatch)
    assert plan_downloads([VIT])[0].commit == commit
    assert fetch_files(plan_downloads([VIT])) == online
    assert len(vit.requests) == request_count


def test_offline_missing_files_are_named(vit: Hub, monkeypatch: pytest.MonkeyPatch):
    path = fetch_files(plan_downloads([VIT]))[VIT.repo, "model.safetensors"]
    go_offline(monkeypatch)
    cache = f"is not in the cache {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE is set; unset it to download"
    assert error_message(DIGITS) == f"{vit.url}/datasets/someone/digits: revision 'main' {cache}"
    plans = plan_downloads([VIT])
    path.unlink()
    assert error_message(VIT) == f"{vit.url}/someone/vit: model.safetensors {cache}"
    with pytest.raises(HubError, match=r"model\.safetensors is not in the cache"):
        fetch_files(plans)


def test_environment_variables_reach_a_subprocess(hub: Hub, monkeypatch: pytest.MonkeyPatch):
    hub.push("model", VIT.repo, MODEL, gated=True)
    code = (
        "from pipeline.suites._hub import *\n"
        f"print(fetch_files(plan_downloads([{VIT!r}]))[{VIT.repo!r}, 'model.safetensors'])"
    )  # fmt: skip
    environment = {**os.environ, "HF_TOKEN": MEMBER, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(constants.HF_HUB_CACHE)
    go_offline(monkeypatch)
    assert [*fetch_files(plan_downloads([VIT])).values()][1] == Path(done.stdout.strip())
