"""A bundle has the same bytes every time, describes each of its files and can be audited by itself."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from pipeline.audit import bundle
from pipeline.audit.__main__ import audit, main
from pipeline.audit.archive import METADATA, unpack_bundle
from pipeline.audit.repository import RepositoryError, gather
from tests.support import small_run

SUITE = "nano-3"
DAY = "2025-12-24"
pytestmark = pytest.mark.usefixtures("rendered_once", "imports_followed_once")


@pytest.fixture(scope="module")
def files(small: Path) -> dict[str, bytes]:
    """The contents of a bundle of the finished run."""
    evidence = gather(small)
    contents = bundle.read_contents(evidence)
    return {METADATA: bundle.describe_contents(evidence, contents, DAY), **contents}


def pack(files: dict[str, bytes], path: Path) -> Path:
    path.write_bytes(bundle.pack_bundle(files))
    return path


def test_a_bundle_is_audited_like_the_repository(small: Path, files, tmp_path: Path):
    whole = {finding.name: finding for finding in audit(gather(small))}
    unpacking = unpack_bundle(pack(files, tmp_path / "b.tar.gz"), tmp_path / "unpacked")
    assert (unpacking.verdict, unpacking.compared) == ("ok", len(files) - 1)
    checks = {finding.name: finding for finding in audit(gather(tmp_path / "unpacked"))}
    assert not [finding.line() for finding in checks.values() if finding.wrong]
    for name in ("scores", "table", "comparisons", "sizes", "seeds", "draws"):
        assert checks[f"{SUITE}: {name}"] == whole[f"{SUITE}: {name}"]
    assert checks["lock: code"] == whole["lock: code"]
    assert checks["environment"] == whole["environment"]
    assert checks["lock: data"].compared > 100
    assert any(name.endswith(f"files of data/suites/{SUITE}") for name in checks["lock: data"].absent)


def test_a_bundle_has_the_same_bytes_wherever_it_is_made(small: Path, files, tmp_path: Path):
    copy = small_run.copy(small, tmp_path / "elsewhere")
    evidence = gather(copy)
    contents = bundle.read_contents(evidence)
    assert bundle.pack_bundle(
        {METADATA: bundle.describe_contents(evidence, contents, DAY), **contents}
    ) == bundle.pack_bundle(files)


def test_a_bundle_has_no_examples_and_no_weights_but_coefficients(files):
    tensors = [name for name in files if name.endswith(".safetensors") and not name.endswith("/draws.safetensors")]
    methods = ("distillation", "individual", "samerging", "surgery-samerging", "zeroshot")
    assert tensors == [f"data/merges/{SUITE}/{name}/coefficients.safetensors" for name in methods]
    assert not [name for name in files if "/images/" in name or name.startswith(("data/teachers", "data/previews"))]
    assert {
        "LICENSE",
        "CITATION.cff",
        "docs/results.md",
        "requirements.lock",
        f"data/scores/{SUITE}/ties.csv",
    } <= files.keys()


def test_the_metadata_cites_the_paper_and_every_data_set_with_its_licence(files):
    graph = {entity["@id"]: entity for entity in json.loads(files[METADATA])["@graph"]}
    root = graph["./"]
    assert root["datePublished"] == DAY
    assert root["license"] == {"@id": "https://spdx.org/licenses/MIT"}
    paper = graph["https://arxiv.org/abs/2512.21288"]
    assert root["citation"] == [{"@id": paper["@id"]}]
    assert paper["author"] == ["Seyed Arshan Dalili", "Mehrdad Mahdavi"]
    assert [mention["@id"] for mention in root["mentions"]] == ["#optdigits", "#textures", "#signs"]
    assert graph["#optdigits"]["license"] == "BSD-3; UCI: CC BY 4.0"
    assert graph["#textures"]["license"] == "CC0"
    assert graph["#signs"]["license"] == "public domain, CC0 or CC BY 2.0"


def test_a_public_suite_names_repositories_and_revisions(small: Path, tmp_path: Path):
    copy = small_run.copy(small, tmp_path / "copy")
    text = (copy / "params.yaml").read_text()
    (copy / "params.yaml").write_text(text.replace("- nano-3", "- ta8-vit-b-32", 1))
    sources = {source["identifier"]: source for source in bundle.cite_sources(gather(copy))}
    examples = sources["https://huggingface.co/datasets/tanganke/sun397"]
    assert (examples["kind"], examples["version"]) == ("Dataset", "9c4afd6174afa3974f209a0ef099dbbe244dfd27")
    assert "https://huggingface.co/tanganke/clip-vit-base-patch32_sun397" in sources
    assert len(sources) == 16


def test_a_suite_of_your_own_names_revisions_and_no_local_places(small: Path, tmp_path: Path):
    copy = small_run.copy(small, tmp_path / "copy")
    text = (copy / "params.yaml").read_text()
    (copy / "params.yaml").write_text(text.replace("- nano-3", "- garden", 1))
    birds = {"name": "birds", "dataset": "~/birds", "expert": "me/birds", "expert_revision": "abc"}
    trees = {"name": "trees", "dataset": "me/trees", "revision": "def", "expert": "./trees"}
    definition = {"family": "clip", "base": "me/base", "tasks": [birds, trees]}
    (copy / "pipeline/suites/garden.yaml").write_text(json.dumps(definition))
    sources = {source["identifier"]: source for source in bundle.cite_sources(gather(copy))}
    hub = {place: source["version"] for place, source in sources.items() if place.startswith("https")}
    assert hub == {
        "https://huggingface.co/me/birds": "abc",
        "https://huggingface.co/datasets/me/trees": "def",
    }
    assert {place for place in sources if place not in hub} == {"#examples-of-birds", "#expert-of-trees"}
    assert not any("~/" in text or "./" in text for source in sources.values() for text in source.values())


def test_the_suite_of_texts_names_repositories_and_revisions(small: Path, tmp_path: Path):
    copy = small_run.copy(small, tmp_path / "copy")
    text = (copy / "params.yaml").read_text()
    (copy / "params.yaml").write_text(text.replace("- nano-3", "- glue7-gpt2", 1))
    sources = {source["identifier"]: source for source in bundle.cite_sources(gather(copy))}
    assert sources["https://huggingface.co/datasets/nyu-mll/glue"]["version"].startswith("bcdcba79")
    assert sources["https://huggingface.co/tanganke/gpt2_rte"]["name"] == "expert of rte"
    assert len(sources) == 8


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("params.yaml", b"suites: []\n", "params.yaml is not as described"),
        ("extra.txt", b"x", "extra.txt is not described"),
        ("LICENSE", None, "LICENSE is not in the bundle"),
        (METADATA, None, f"{METADATA} is missing"),
    ],
)
def test_a_difference_from_the_description_is_named(files, tmp_path: Path, name: str, content: bytes | None, why: str):
    changed = {**files, name: content}
    contents = {path: text for path, text in changed.items() if text is not None}
    assert why in unpack_bundle(pack(contents, tmp_path / "b.tar.gz"), tmp_path / "unpacked").wrong


def test_a_forged_score_in_a_consistent_bundle_contradicts_the_lock(small: Path, files, tmp_path: Path):
    path = f"data/scores/{SUITE}/ties.csv"
    forged = {
        **files,
        path: files[path].replace(b",0,0,", b",0,1,", 1).replace(b"ties,textures,,0,", b"ties,textures,,0,1"),
    }
    contents = {name: content for name, content in forged.items() if name != METADATA}
    forged[METADATA] = bundle.describe_contents(gather(small), contents, DAY)
    assert unpack_bundle(pack(forged, tmp_path / "b.tar.gz"), tmp_path / "unpacked").verdict == "ok"
    checks = {finding.name: finding for finding in audit(gather(tmp_path / "unpacked"))}
    assert f"{path} is not the file of stage evaluate@{SUITE}-ties" in "; ".join(checks["lock: data"].wrong)


def test_the_command_audits_a_bundle(files, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--bundle", str(pack(files, tmp_path / "b.tar.gz"))]) == 0
    assert capsys.readouterr().out.startswith("ok    bundle")
    (tmp_path / "broken.tar.gz").write_bytes(b"no archive")
    with pytest.raises(SystemExit, match=r"audit: .*broken\.tar\.gz: not a bundle of `make bundle`"):
        main(["--bundle", "broken.tar.gz"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../escaped.txt", tarfile.REGTYPE),
        ("inside/../../escaped.txt", tarfile.REGTYPE),
        ("/tmp/escaped.txt", tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("link", tarfile.LNKTYPE),
        ("pipe", tarfile.FIFOTYPE),
        ("device", tarfile.CHRTYPE),
    ],
)
def test_an_archive_with_more_than_files_of_its_folder_is_refused(tmp_path: Path, name: str, kind: bytes):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/hostname"
        member.size = kind == tarfile.REGTYPE
        tar.addfile(member, io.BytesIO(b"x"))
    (tmp_path / "evil.tar.gz").write_bytes(gzip.compress(buffer.getvalue()))
    with pytest.raises(RepositoryError, match=r"evil\.tar\.gz: not a bundle.*is no file of its folder"):
        unpack_bundle(tmp_path / "evil.tar.gz", tmp_path / "unpacked")
    assert not [*tmp_path.rglob("escaped.txt"), *tmp_path.rglob("link"), *tmp_path.rglob("pipe")]


def test_no_bundle_is_made_of_data_that_differs_from_the_lock(small: Path, tmp_path: Path):
    copy = small_run.copy(small, tmp_path / "copy")
    (copy / f"data/merges/{SUITE}/ties/merge.json").write_text("{}")
    with pytest.raises(bundle.BundleError, match=rf"data/merges/{SUITE}/ties is not the directory of stage "):
        bundle.read_contents(gather(copy))
    (copy / "dvc.lock").unlink()
    with pytest.raises(bundle.BundleError, match=r"no dvc\.lock in "):
        bundle.read_contents(gather(copy))


def test_the_date_is_that_of_the_commit_or_of_the_environment(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert bundle.read_date(tmp_path) == "1970-01-01"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(bundle.BundleError, match="no commit to take the date from"):
        bundle.read_date(tmp_path)
