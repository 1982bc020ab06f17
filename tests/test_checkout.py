"""A checkout has the bytes that DVC hashed, whatever Git's settings are."""

import subprocess
from pathlib import Path

from tests.support import toy


def test_a_clone_that_converts_line_endings_has_the_same_bytes(tmp_path: Path):
    settings = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    subprocess.run(["git", "clone", "-q", *settings, toy.ROOT, tmp_path / "clone"], check=True)
    listed = ["git", "-C", tmp_path / "clone", "ls-files", "--eol"]
    lines = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) > 300
    assert [line for line in lines if "w/crlf" in line or "w/mixed" in line] == []
