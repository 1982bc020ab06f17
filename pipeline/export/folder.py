"""Write a merged model as a folder, whole or not at all."""

import tempfile
from pathlib import Path

from pipeline.export import images, texts, upload
from pipeline.export.card import Facts, read_facts, write_card
from pipeline.export.origins import list_sources
from pipeline.export.portable import extract
from pipeline.export.selection import Selection, select
from pipeline.runtime import store
from pipeline.runtime.errors import BenchmarkError


def export(suite: str, method: str, out: Path, seed: int | None = None, task: str | None = None, repo: str = "") -> str:
    """Export a merge to the folder `out`, and to the repository `repo` of the hub if it is named.

    seed, task: see `select`. Returns where the model is. Raises BenchmarkError, before any work where it can.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BenchmarkError(f"{out} exists and is not an empty folder; name another, nothing is overwritten")
    selection = select(suite, method, seed, task)
    facts = read_facts(selection)
    with store.writing(out, "make export"):
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.")
    with scratch:
        place = upload.open_repository(repo) if repo else ""
        folder = Path(scratch.name) / "model"
        folder.mkdir()
        write_model(selection, facts, folder)
        with store.writing(out, "make export"):
            folder.replace(out)  # fails if something lies there by now
    return upload.upload(out, place) if place else str(out)


def write_model(selection: Selection, facts: Facts, folder: Path) -> None:
    """Write the files of the selected model into `folder`; the card lists them."""
    suite, portable = selection.suite.suite, extract(selection)
    sources, form = list_sources(suite), texts if suite.encoder().kind == "texts" else images
    guide = form.write_files(selection, portable.encoder, sources, folder)
    card = write_card(selection, facts, portable, sources, guide)
    classes = {task.name: task.classes for task in suite.tasks if task.name in selection.tasks}
    store.write_tensors(folder / "heads.safetensors", portable.heads)
    if portable.extras:
        store.write_tensors(folder / "extras.safetensors", portable.extras)
    store.write_json(folder / "classes.json", classes)
    store.write_text(folder / "README.md", card)
