"""An export reaches the hub with the hub's own client, and what keeps it away is one line."""

from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download

from pipeline.export.folder import export
from pipeline.export.upload import UploadError
from tests.support import hub_server
from tests.support.hub_server import MEMBER, STRANGER, Hub

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning"),  # the client's own, without xet
]
hub = hub_server.hub

REPO = "member/merged"


@pytest.fixture
def member(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub with the token of a member in the environment."""
    monkeypatch.setenv("HF_TOKEN", MEMBER)
    return hub


def message(out: Path, repo: str = REPO) -> str:
    """The one-line error of an upload."""
    with pytest.raises(UploadError) as caught:
        export("tiny", "average", out, repo=repo)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("existing", [True, False])
def test_every_file_arrives(member: Hub, tmp_path: Path, existing: bool):
    if existing:
        member.push("model", REPO, {".gitattributes": b"x"})
    place = export("tiny", "average", tmp_path / "out", repo=REPO)
    assert place == f"{member.url}/{REPO}/commit/{member.commit('model', REPO)}"
    fetched = Path(snapshot_download(REPO))
    sent = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    arrived = {path.name: path.read_bytes() for path in fetched.iterdir()}
    assert len(sent) == 8
    assert arrived == sent | ({".gitattributes": b"x"} if existing else {})


def test_a_name_without_an_owner_is_of_the_account(member: Hub, tmp_path: Path):
    assert f"{member.url}/{REPO}/commit/" in export("tiny", "average", tmp_path / "out", repo="merged")


def test_nothing_is_exported_without_a_token(hub: Hub, tmp_path: Path):
    assert message(tmp_path / "out") == (
        f"{REPO}: no token; set HF_TOKEN to one that may write, or run `hf auth login`"
    )
    assert not (tmp_path / "out").exists()
    assert not hub.requests


@pytest.mark.parametrize(
    ("token", "reason"),
    [("hf_wrong", "the hub does not accept the token"), (STRANGER, "the token has no right to write there")],
)
def test_nothing_is_exported_with_a_useless_token(
    token: str, reason: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_TOKEN", token)
    assert message(tmp_path / "out") == f"{REPO}: {reason}; check HF_TOKEN and the name; nothing was exported"
    assert not (tmp_path / "out").exists()


def test_nothing_is_exported_offline(member: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert message(tmp_path / "out") == f"{REPO}: HF_HUB_OFFLINE is set; unset it to upload, or leave out --push"
    assert not (tmp_path / "out").exists()


def test_nothing_is_exported_without_a_hub(member: Hub, tmp_path: Path):
    member.close()
    assert "check the network and HF_ENDPOINT; nothing was exported" in message(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_none_is_refused(member: Hub, tmp_path: Path):
    assert message(tmp_path / "out", "a/b/c") == (
        "a/b/c: not an id of the hub; expected owner/name; nothing was exported"
    )


@pytest.mark.parametrize("step", ["/commit/", "/lfs/", "/preupload/"])
def test_an_export_whose_upload_fails_is_complete(member: Hub, tmp_path: Path, step: str):
    member.fail(step, method="PUT" if step == "/lfs/" else "POST", status=403, times=9)
    out = tmp_path / "out"
    assert message(out) == (
        f"{REPO}: the token has no right to write there; check HF_TOKEN and the name; {out} is complete, upload it "
        f"with `hf upload {REPO} {out}`"
    )
    assert len([*out.iterdir()]) == 8
    assert ("model", REPO) in member.commits
