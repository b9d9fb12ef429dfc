"""Commands as a user runs them: exit codes, one-line errors, resumption after signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DIGITS = "--config=experiments/configs/digits.py:"
TINY = [
    "--config.model.embed_dim=8",
    "--config.model.depth=1",
    "--config.model.num_heads=1",
    "--config.model.head_dim=4",
    "--config.data.subset_per_class=30",
    "--config.phase1.epochs=2",
    "--config.phase2.epochs=2",
]


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", *args]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.smoke
def test_train_is_interrupted_resumed_finished_and_not_repeated(tmp_path: Path) -> None:
    args = ["experiments.train", DIGITS + "cltv", *TINY, f"--workdir={tmp_path}"]
    process = subprocess.Popen(
        command(*args), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch   1"):
            break
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "Traceback" not in errors
    assert "run the same command to continue" in errors

    resumed = run(*args)
    assert resumed.returncode == 0, resumed.stderr
    assert f"resuming {tmp_path}" in resumed.stdout
    assert resumed.stdout.count("handoff") == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert resumed.stdout.splitlines()[-1].startswith(
        f"test top-1 {100 * summary['test_top1']:.2f} %"
    )
    assert set(summary["phases"]) == {"phase1", "phase2"}
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")

    again = run(*args)
    assert again.returncode == 0
    assert "already finished" in again.stdout
    assert json.loads((tmp_path / "summary.json").read_text()) == summary

    damaged = max(tmp_path.glob("checkpoints/*/checksums.sha256"))
    victim = next(p for p in damaged.parent.rglob("*") if p.is_file() and p.stat().st_size > 100)
    victim.write_bytes(victim.read_bytes()[:-1] + b"\0")
    (tmp_path / "summary.json").unlink()
    fallen_back = run(*args)
    assert fallen_back.returncode == 0, fallen_back.stderr
    assert str(victim.name) in fallen_back.stdout
    assert f"set aside as {damaged.parent.name}.damaged" in fallen_back.stdout


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2 and one line on stderr with these words."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--config.modle.depth=3"], ["modle.depth", "model.depth"]),
        (["--config.model.dpeth=3"], ["model.dpeth", "model.depth"]),
        (["--config.batch_size=many"], ["batch_size", "many"]),
        (["--confg=x"], ["confg"]),
        (["--config.data.source=folder:/nowhere"], ["/nowhere"]),
        (["--config.model.num_heads=0"], ["num_heads"]),
        (["stray"], ["--config"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_a_mistake_is_one_line_and_exit_code_2(
    args: list[str], words: list[str], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    refused(run("experiments.train", DIGITS + "cpv", *args, f"--workdir={workdir}"), *words)
    assert not workdir.exists()


def test_what_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run" / "config.json").mkdir(parents=True)
    args = ["experiments.train", DIGITS + "cltv", *TINY]
    refused(run(*args, f"--workdir={tmp_path}/file/run"), "file/run: Not a directory")
    refused(run(*args, "--workdir=/proc/run"), "/proc/run: No such file")
    refused(run(*args, f"--workdir={tmp_path}/run"), "config.json: Is a directory")


def test_unknown_variants_and_files_are_named(tmp_path: Path) -> None:
    refused(run("experiments.train", DIGITS + "cpw"), "cpw", "cpv")
    refused(run("experiments.train", "--config=absent.py"), "absent.py")
    refused(run("experiments.train"), "--config")


def test_help_is_quick_and_complete() -> None:
    result = run("experiments.train", "--help")
    assert result.returncode == 0
    for flag in ("--config", "--workdir", "--fork", "--quiet"):
        assert flag in result.stdout


PAUSE = """
import sys, time
from pathlib import Path
from experiments.configs import digits

def pause():
    Path({mark!r}).touch()
    time.sleep(300)

class AtImport:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "cxv_jax.train":
            pause()

def get_config():
    if {moment!r} == "config":
        pause()
    sys.meta_path.insert(0, AtImport)
    return digits.get_config("cpv")
"""


@pytest.mark.parametrize("moment", ["config", "import"])
def test_an_early_signal_leaves_nothing_behind(tmp_path: Path, moment: str) -> None:
    """While the config file loads, and within an import, which could swallow an exception."""
    workdir, mark, config = tmp_path / "run", tmp_path / "mark", tmp_path / "pause.py"
    config.write_text(PAUSE.format(mark=str(mark), moment=moment))
    process = subprocess.Popen(
        command("experiments.train", f"--config={config}", f"--workdir={workdir}"),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not mark.exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT, errors
    assert errors == "\ninterrupted\n"
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"mark", "pause.py"}


def test_compiled_programs_are_kept_for_the_next_process(tmp_path: Path) -> None:
    """Also where a config file has imported JAX before the command began."""
    code = (
        f"import sys; sys.argv = ['train', '{DIGITS}cpv']\n"
        "from cxv_jax.launch import command\n"
        "from experiments import train\n"
        "def show(argv):\n"
        "    import jax\n"
        "    print(jax.config.jax_compilation_cache_dir)\n"
        "command.run(show)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert shown.stdout.strip() == str(tmp_path / "cxv_jax" / "xla"), shown.stderr
