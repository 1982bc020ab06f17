"""A stage runs on exactly what it declares, and its outputs appear whole or not at all."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch

from pipeline.params import ParamsError
from pipeline.runtime.errors import BenchmarkError
from pipeline.runtime.imports import import_closure
from pipeline.runtime.stage import ChangedWhileRunning, Job, Stage
from stages.merge import STAGE as MERGE
from stages.prepare import STAGE as PREPARE

NAMES = {"suite": "nano-3", "method": "ties"}
OUTPUT = Path("data/merges/nano-3/ties")
RECORD = Path("data/runs/merge-nano-3-ties.json")
PAIR = Stage(
    name="merge",
    arguments=("suite",),
    params=("rho", "merge.ties"),
    inputs=("data/suites/{suite}",),
    outputs=("data/first/{suite}.txt", "data/second/{suite}"),
)


def write(job: Job) -> None:
    """Write a folder with one file."""
    job.outputs[0].mkdir()
    (job.outputs[0] / "result.txt").write_text("new")


def write_both(job: Job) -> None:
    """Write a file and a folder."""
    job.outputs[0].write_text("new")
    job.outputs[1].mkdir()
    (job.outputs[1] / "result.txt").write_text("new")


def visible_files() -> set[str]:
    """List the files of data/, scratch files apart."""
    files = (path for path in Path("data").rglob("*") if path.is_file())
    return {path.as_posix() for path in files if not path.as_posix().startswith("data/.partial")}


@pytest.fixture
def checkout(workspace: Path) -> Path:
    """A checkout with a suite of one file."""
    folder = workspace / "data/suites/nano-3"
    folder.mkdir(parents=True)
    (folder / "base.txt").write_text("base")
    return workspace


def test_a_stage_receives_what_it_declares(checkout: Path):
    jobs: list[Job] = []

    def record(job: Job) -> None:
        jobs.append(job)
        write(job)

    MERGE.run(record, NAMES)
    (job,) = jobs
    assert job.names == NAMES
    assert {*job.params} == {"merge.{method}"}
    assert job.params["merge.{method}"].keep == 0.2
    assert job.inputs == (Path("data/suites/nano-3"),)
    assert [path.name for path in job.outputs] == ["ties"]
    assert not job.outputs[0].is_relative_to("data/merges")


def test_outputs_and_the_record_appear(checkout: Path):
    MERGE.run(write, NAMES)
    assert (OUTPUT / "result.txt").read_text() == "new"
    record = json.loads(RECORD.read_text())
    assert record["stage"] == "merge"
    assert record["arguments"] == NAMES
    assert record["params"]["merge.ties"]["keep"] == 0.2
    assert record["seconds"] >= 0
    assert record["peak_mib"] > 0
    assert record["packages"]["torch"]
    assert visible_files() == {"data/suites/nano-3/base.txt", str(OUTPUT / "result.txt"), str(RECORD)}
    assert not [*Path("data/.partial").iterdir()]


def test_a_stage_without_a_record_writes_none(checkout: Path):
    Stage("merge", ("suite",), (), (), ("data/x/{suite}.txt",), recorded=False).run(
        lambda job: job.outputs[0].write_text("x"), {"suite": "nano-3"}
    )
    assert visible_files() == {"data/suites/nano-3/base.txt", "data/x/nano-3.txt"}


def test_old_outputs_are_replaced_whole(checkout: Path):
    OUTPUT.mkdir(parents=True)
    (OUTPUT / "stale.txt").write_text("old")
    MERGE.run(write, NAMES)
    assert [path.name for path in OUTPUT.iterdir()] == ["result.txt"]
    PAIR.run(write_both, {"suite": "nano-3"})
    PAIR.run(write_both, {"suite": "nano-3"})
    assert Path("data/first/nano-3.txt").read_text() == "new"
    assert Path("data/second/nano-3/result.txt").read_text() == "new"


@pytest.mark.parametrize("error", [BenchmarkError("no"), RuntimeError("no"), KeyboardInterrupt()])
def test_a_stage_that_fails_leaves_what_was_there(checkout: Path, error: BaseException):
    PAIR.run(write_both, {"suite": "nano-3"})
    Path("data/first/nano-3.txt").write_text("old")
    before = visible_files()

    def fail(job: Job) -> None:
        job.outputs[0].write_text("half of the n")
        raise error

    with pytest.raises(type(error)):
        PAIR.run(fail, {"suite": "nano-3"})
    assert visible_files() == before
    assert Path("data/first/nano-3.txt").read_text() == "old"
    PAIR.run(write_both, {"suite": "nano-3"})
    assert Path("data/first/nano-3.txt").read_text() == "new"


def edit_code() -> None:
    """Edit a file that the stage runs."""
    path = Path("pipeline/models/task_vectors.py")
    path.write_text(path.read_text() + "# edited\n")


def delete_code() -> None:
    """Delete a file that the stage runs."""
    Path("pipeline/models/task_vectors.py").unlink()


def edit_method() -> None:
    """Edit the method's file."""
    path = Path("pipeline/methods/ties.py")
    path.write_text(path.read_text() + "# edited\n")


def edit_parameter() -> None:
    """Set a declared parameter to another value."""
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("    keep: 0.2\n", "    keep: 0.3\n"))


def edit_input() -> None:
    """Change a file of the input."""
    Path("data/suites/nano-3/base.txt").write_text("other")


def add_input() -> None:
    """Add a file to the input."""
    Path("data/suites/nano-3/more.txt").write_text("more")


def delete_input() -> None:
    """Delete the input."""
    shutil.rmtree("data/suites/nano-3")


DURING: dict[str, tuple[Callable[[], None], str]] = {
    "code edited": (edit_code, "code pipeline/models/task_vectors.py"),
    "code deleted": (delete_code, "code pipeline/models/task_vectors.py"),
    "method edited": (edit_method, "code pipeline/methods/ties.py"),
    "parameter edited": (edit_parameter, "parameter merge.{method}"),
    "input edited": (edit_input, "input data/suites/nano-3/base.txt"),
    "input added": (add_input, "input data/suites/nano-3/more.txt"),
    "input deleted": (delete_input, "input data/suites/nano-3/base.txt"),
}


@pytest.mark.parametrize(("change", "named"), DURING.values(), ids=DURING)
def test_a_change_while_a_stage_runs_fails_it(checkout: Path, change: Callable[[], None], named: str):
    def changing(job: Job) -> None:
        write(job)
        change()

    with pytest.raises(ChangedWhileRunning) as caught:
        MERGE.run(changing, NAMES)
    assert str(caught.value) == f"changed while the stage ran: {named}; run it again"
    assert not OUTPUT.exists()
    assert not RECORD.exists()


def edit_other_parameter() -> None:
    """Set a parameter that the stage does not declare."""
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("\nrho: 0.07\n", "\nrho: 0.5\n"))


def edit_other_method() -> None:
    """Edit the file of another method."""
    path = Path("pipeline/methods/average.py")
    path.write_text(path.read_text() + "# edited\n")


@pytest.mark.parametrize("change", [edit_other_parameter, edit_other_method])
def test_what_a_stage_does_not_declare_may_change(checkout: Path, change: Callable[[], None]):
    before = Path("params.yaml").read_text() + Path("pipeline/methods/average.py").read_text()

    def changing(job: Job) -> None:
        write(job)
        change()

    MERGE.run(changing, NAMES)
    assert (OUTPUT / "result.txt").exists()
    assert Path("params.yaml").read_text() + Path("pipeline/methods/average.py").read_text() != before


def test_parameters_are_checked_before_any_work(checkout: Path):
    path = Path("params.yaml")
    path.write_text(path.read_text().replace("\nrho: 0.07\n", "\nrho: -1\n"))
    with pytest.raises(ParamsError, match="rho = -1"):
        MERGE.run(write, NAMES)
    assert visible_files() == {"data/suites/nano-3/base.txt"}


@pytest.mark.parametrize(
    ("names", "message"), [({"method": "tis"}, "did you mean 'ties'"), ({"suite": "x"}, "data/suites/x is missing")]
)
def test_wrong_arguments_are_named(checkout: Path, names: dict[str, str], message: str):
    with pytest.raises(BenchmarkError, match=message):
        MERGE.run(write, NAMES | names)


def test_a_missing_input_is_named_with_its_remedy(checkout: Path):
    delete_input()
    message = "^data/suites/nano-3 is missing; `dvc repro` makes it, `dvc checkout` brings it back$"
    with pytest.raises(BenchmarkError, match=message):
        MERGE.run(write, NAMES)


@pytest.fixture
def unbound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests outlive the process that started them."""
    monkeypatch.setattr("pipeline.runtime.stage.die_with_parent", lambda: None)


@pytest.mark.usefixtures("unbound")
@pytest.mark.parametrize("arguments", [[], ["nano-3"], ["nano-3", "ties", "more"]])
def test_wrong_number_of_arguments_shows_the_usage(monkeypatch: pytest.MonkeyPatch, arguments: list[str]):
    monkeypatch.setattr(sys, "argv", ["merge", *arguments])
    with pytest.raises(SystemExit, match=r"^usage: python -m stages\.merge <suite> <method>$"):
        MERGE.main(write)


@pytest.mark.usefixtures("unbound")
def test_ctrl_c_ends_with_a_message_and_its_exit_code(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["merge", "nano-3", "ties"])

    def interrupted(job: Job) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        MERGE.main(interrupted)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "merge: interrupted; `dvc repro` goes on from here\n"


@pytest.mark.usefixtures("unbound")
def test_ctrl_c_that_a_library_turns_into_another_error_is_still_ctrl_c(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["merge", "nano-3", "ties"])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def swallowing(job: Job) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape") from None

    try:
        with pytest.raises(SystemExit) as caught:
            MERGE.main(swallowing)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "merge: interrupted; `dvc repro` goes on from here\n"
    assert not OUTPUT.exists()


@pytest.mark.usefixtures("unbound")
def test_a_full_gpu_is_one_message(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["merge", "nano-3", "ties"])

    def fill(job: Job) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")

    with pytest.raises(SystemExit, match=r"^merge: the GPU's memory is full; .*SAMERGING_DEVICE=cpu.*allocate 3 GiB$"):
        MERGE.main(fill)
    assert not OUTPUT.exists()


def test_a_second_run_of_the_same_stage_is_refused(checkout: Path):
    def again(job: Job) -> None:
        with pytest.raises(BenchmarkError, match="another process does the same work"):
            MERGE.run(write, NAMES)
        MERGE.run(write, NAMES | {"method": "average"})
        write(job)

    MERGE.run(again, NAMES)
    assert (OUTPUT / "result.txt").read_text() == "new"


def test_a_refused_second_run_with_other_inputs_leaves_the_pieces_of_the_first(checkout: Path):
    base = Path("data/suites/nano-3/base.txt")

    def again(job: Job) -> None:
        assert job.work.run(abs, [(-1,)], "pieces") == [1]
        (kept,) = job.work.folder.iterdir()
        base.write_text("another base")
        with pytest.raises(BenchmarkError, match="another process does the same work"):
            MERGE.run(write, NAMES)
        assert kept.exists()
        write(job)

    with pytest.raises(ChangedWhileRunning, match="input data/suites"):
        MERGE.run(again, NAMES)


def test_pieces_elsewhere_get_the_inputs_and_what_the_stage_wrote_for_them(checkout: Path):
    def prepare(job: Job) -> None:
        written = job.outputs[0].parent / "teachers.npy"
        written.write_text("logits")
        for path in (*job.inputs, written):
            assert any(path.is_relative_to(shipped) for shipped in job.work.inputs)
        write(job)

    MERGE.run(prepare, NAMES)


@pytest.mark.parametrize("change", ["torch", "SAMERGING_DEVICE"])
def test_pieces_of_another_environment_are_computed_again(checkout: Path, monkeypatch: pytest.MonkeyPatch, change: str):
    folders: list[Path] = []

    def stop(job: Job) -> None:
        assert job.work.run(abs, [(-1,)], "pieces") == [1]
        folders.append(job.work.folder)
        raise BenchmarkError("stop")

    for _ in range(2):
        with pytest.raises(BenchmarkError, match="stop"):
            MERGE.run(stop, NAMES)
    installed = metadata.version
    if change == "torch":
        monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name == change else installed(name))
    else:
        monkeypatch.setenv(change, "cpu:0")
    with pytest.raises(BenchmarkError, match="stop"):
        MERGE.run(stop, NAMES)
    first, second, third = folders
    assert first == second != third
    assert not first.exists()
    assert third.exists()


@pytest.mark.usefixtures("unbound")
def test_errors_of_the_user_end_with_their_message(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["merge", "nano-3", "ties"])

    def fail(job: Job) -> None:
        raise BenchmarkError("this is wrong")

    with pytest.raises(SystemExit, match=r"^merge: this is wrong$"):
        MERGE.main(fail)


def test_the_real_script_runs_on_a_real_suite(workspace: Path, pristine_suite: Path):
    shutil.copytree(pristine_suite, workspace / "data/suites/tiny")
    done = subprocess.run(
        [sys.executable, "-B", "-m", "stages.merge", "tiny", "average"],
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path("data/merges/tiny/average/coefficients.safetensors").is_file()
    assert json.loads(Path("data/merges/tiny/average/merge.json").read_text())["form"] == "coefficients"
    assert json.loads(Path("data/runs/merge-tiny-average.json").read_text())["device"] == "cpu"


def test_code_is_the_import_closure(workspace: Path):
    code = {path.as_posix() for path in MERGE.code(NAMES)}
    assert {
        "stages/merge.py",
        "pipeline/methods/ties.py",
        "pipeline/models/task_vectors.py",
        "pipeline/methods/__init__.py",
    } <= code
    assert code.isdisjoint(
        {"pipeline/methods/average.py", "pipeline/calibration/descent.py", "pipeline/params.py", "pipeline/__init__.py"}
    )
    prepare_code = {path.as_posix() for path in PREPARE.code({"suite": "nano-3"})}
    assert {path.as_posix() for path in Path("pipeline/suites").glob("*.py")} <= prepare_code


def test_closure_follows_every_form_of_import(tmp_path: Path):
    for name, text in {
        "a/__init__.py": '"""A map."""\n',
        "a/one.py": "import a.two\nfrom a import three\nimport os.path\n",
        "a/two.py": "def late():\n    from a.deep.four import x\n",
        "a/three.py": "import a.one\n",
        "a/deep/__init__.py": '"""A map."""\ny = 2\n',
        "a/deep/four.py": "x = 1\n",
        "a/unused.py": "z = 3\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    closure = {path.as_posix() for path in import_closure(["a.one"], tmp_path)}
    assert closure == {"a/one.py", "a/two.py", "a/three.py", "a/deep/__init__.py", "a/deep/four.py"}


@pytest.mark.parametrize("name", ["check", "render", "studies.collect", "studies.context", "studies.render"])
def test_a_stage_that_computes_nothing_starts_without_torch(at_root: Path, name: str):
    code = f"import sys, stages.{name}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=at_root)
    modules = done.stdout.split()
    assert "pipeline.runtime.stage" in modules
    assert "torch" not in modules


def test_stages_start_without_slow_imports(at_root: Path):
    names = sorted(path.stem for path in (at_root / "stages").glob("[!_]*.py"))
    code = f"import sys, {', '.join(f'stages.{name}' for name in names)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=at_root)
    assert "torch" in done.stdout.split()
    assert {"open_clip", "torchvision", "transformers", "torch._dynamo"}.isdisjoint(done.stdout.split())
