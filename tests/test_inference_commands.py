"""evaluate, predict and import_torch, run as commands inside this process."""

import dataclasses
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from absl import flags
from PIL import Image
from scipy.stats import binomtest

from cxv_jax import inference, train
from cxv_jax.data import sources
from cxv_jax.data.splits import Split
from cxv_jax.errors import InputError
from experiments.configs import digits

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "cxv"


def run_command(name: str, *args: Any) -> int | None:
    """``python -m experiments.NAME ARGS``, with the flags of this command alone."""
    for flag in list(flags.FLAGS):
        if (flags.FLAGS.find_module_defining_flag(flag) or "").startswith("experiments."):
            delattr(flags.FLAGS, flag)
    sys.modules.pop(f"experiments.{name}", None)
    module = importlib.import_module(f"experiments.{name}")
    return module.main(flags.FLAGS([name, *map(str, args)])[1:])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    config = digits.get_config("cpv")
    config.model.update(embed_dim=8, depth=1, num_heads=1, head_dim=4)
    config.phase1.epochs, config.phase2.epochs = 2, 1
    workdir = tmp_path_factory.mktemp("runs") / "trained"
    return SimpleNamespace(workdir=workdir, summary=train.train_and_evaluate(config, workdir))


def test_evaluate_repeats_what_training_measured(
    trained: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("evaluate", f"--workdir={trained.workdir}")
    found = json.loads((trained.workdir / "evaluation.json").read_text())
    assert (found["split"], found["count"]) == ("test", 359)
    assert found["top1"] == trained.summary.test_top1
    assert found["top5"] == trained.summary.test_top5
    assert found["loss"] == pytest.approx(trained.summary.phases["phase2"].test_loss)
    labels = sources.load("digits").split("test").labels
    assert [row["count"] for row in found["per_class"]] == np.bincount(labels).tolist()
    hits = sum(row["hits"] for row in found["per_class"])
    assert hits == round(359 * found["top1"]) == np.trace(found["confusion"])
    printed = capsys.readouterr().out
    low, high = binomtest(hits, 359).proportion_ci(0.95, method="wilson")
    between = f"{100 * low:.0f} to {100 * high:.0f} %"
    assert f"test top-1 {100 * hits / 359:.2f} % (359 images: {between}), top-5" in printed
    assert found["between"] == pytest.approx([low, high])
    truth, guess = (
        np.repeat(x.ravel(), np.ravel(found["confusion"])) for x in np.indices((10, 10))
    )
    balanced = sklearn.metrics.balanced_accuracy_score(truth, guess)
    assert found["balanced_accuracy"] == pytest.approx(balanced)
    f1 = sklearn.metrics.f1_score(truth, guess, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(f1)
    assert f"test balanced accuracy {100 * balanced:.2f} %, macro-F1 {100 * f1:.2f} %" in printed
    assert found["balanced_accuracy"] == trained.summary.phases["phase2"].test_balanced_accuracy
    assert trained.summary.test_count == 359
    three = found["per_class"][3]
    row = ["3", str(three["count"]), str(three["hits"])]
    share = f"{100 * three['hits'] / three['count']:.2f}"
    lines = [line.split() for line in printed.splitlines()]
    end = [share, "%", f"{three['auroc']:.4f}"]
    assert end in [line[-3:] for line in lines if line[:3] == row]
    for name in ("confusion.png", "reliability.png"):
        with Image.open(trained.workdir / name) as picture:
            picture.load()
    fitted = trained.summary.calibration
    assert fitted.images == 144
    assert found["ece"] == pytest.approx(fitted.ece)
    assert found["temperature"] == fitted.temperature
    assert found["calibrated_ece"] == pytest.approx(fitted.calibrated_ece)
    assert f"at the temperature of the run, {fitted.temperature:.3f}" in printed
    assert found["auroc"] == pytest.approx(trained.summary.phases["phase2"].test_auroc)


def test_evaluate_keeps_to_the_images_that_were_held_out(
    trained: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, parts = sources._digits()
    train = parts["train"]
    images, labels = (np.concatenate([x, x[:300]]) for x in (train.images, train.labels))
    more = Split(images, labels)
    monkeypatch.setattr(sources, "_digits", lambda: (names, {"train": more}))
    run_command("evaluate", f"--workdir={trained.workdir}")
    found = json.loads((trained.workdir / "evaluation.json").read_text())
    assert (found["count"], found["top1"]) == (359, trained.summary.test_top1)

    shutil.copytree(trained.workdir / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(InputError, match="digits: images or labels have changed"):
        run_command("evaluate", f"--workdir={tmp_path}")
    kept = json.loads((trained.workdir / "data.json").read_text())
    kept["names"]["test"].pop()
    (tmp_path / "data.json").write_text(json.dumps(kept))
    with pytest.raises(InputError, match="data.json has other splits"):
        run_command("evaluate", f"--workdir={tmp_path}")
    (tmp_path / "data.json").write_text("[]")
    with pytest.raises(InputError, match="data.json is damaged"):
        run_command("evaluate", f"--workdir={tmp_path}")


def test_evaluate_says_when_weights_were_selected_on_the_split(
    trained: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("evaluate", f"--workdir={trained.workdir}", "--split=val")
    assert "selected on val: these figures are not held out" in capsys.readouterr().out
    run_command("evaluate", f"--workdir={trained.workdir}", "--split=test")
    assert "not held out" not in capsys.readouterr().out


def pictures(folder: Path) -> list[Path]:
    """Test image 0 as grey, RGBA and palette, and test image 1."""
    images = sources.load("digits").split("test").images
    first, second = Image.fromarray(images[0]), Image.fromarray(images[1])
    saved = {
        "grey.png": first.convert("L"),
        "rgba.png": first.convert("RGBA"),
        "palette.png": first.convert("L").convert("P"),
        "second.png": second,
    }
    for name, image in saved.items():
        image.save(folder / name)
    return [folder / name for name in saved]


def test_predict_ranks_the_probabilities_of_each_file(
    trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = pictures(tmp_path)
    run_command("predict", f"--workdir={trained.workdir}", "--json", "--top=3", *files)
    results = json.loads(capsys.readouterr().out)
    assert [result["file"] for result in results] == list(map(str, files))
    run = inference.load_run(trained.workdir)
    images = sources.load("digits").split("test").images[[0, 0, 0, 1]]
    for result, row in zip(results, inference.predict(run, images), strict=True):
        order = np.argsort(-row, kind="stable")[:3].tolist()
        assert [p["index"] for p in result["predictions"]] == order
        assert [p["class"] for p in result["predictions"]] == [str(i) for i in order]
        given = [p["probability"] for p in result["predictions"]]
        np.testing.assert_allclose(given, row[order], rtol=1e-6)


def test_predict_prints_percentages_for_a_person(
    trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = pictures(tmp_path)[0]
    run_command("predict", f"--workdir={trained.workdir}", file)
    first, *lines = capsys.readouterr().out.splitlines()
    image = inference.load_image(file, 8)
    row = inference.predict(inference.load_run(trained.workdir), image[None])[0]
    order = np.argsort(-row)[:5]
    assert first == str(file)
    assert [line.split() for line in lines] == [[f"{100 * row[i]:.2f}", "%", str(i)] for i in order]


def test_predict_names_bad_files_and_classifies_the_others(
    trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    first, *others = pictures(tmp_path / "deep" / "er")
    (tmp_path / "deep" / "a bad one.png").write_text("text")
    (tmp_path / "deep" / "notes.txt").write_text("text")
    for hidden in ("__MACOSX", "@eaDir", ".thumbnails"):
        (tmp_path / "deep" / hidden).mkdir()
        (tmp_path / "deep" / hidden / "x.png").write_text("no picture")
    names = [tmp_path / "absent.png", first, tmp_path / "empty", tmp_path / "deep"]
    arguments = [f"--workdir={trained.workdir}", "--json", *names]
    assert run_command("predict", *arguments) == 1
    out, err = capsys.readouterr()
    files = [result["file"] for result in json.loads(out)]
    assert files == list(map(str, [first, *sorted([first, *others])]))
    faults = err.splitlines()
    assert len(faults) == 3
    for name in ("absent.png: no such file", "empty: no pictures", "a bad one.png: not a readable"):
        assert [name in fault for fault in faults].count(True) == 1
    assert run_command("predict", f"--workdir={trained.workdir}", first) == 0


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, **changed: np.ndarray | None) -> Path:
        golden = np.load(GOLDEN / f"{name}.npz")
        arrays = {k[6:]: golden[k] for k in golden.files if k.startswith("param:")} | changed
        np.savez(tmp_path / "weights.npz", **{k: v for k, v in arrays.items() if v is not None})
        return tmp_path / "weights.npz"

    return write


@pytest.mark.parametrize("name", ["cpv", "cnv", "cltv"])
def test_imported_weights_give_the_logits_of_the_authors_code(
    name: str, weights: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "run"
    stabilizer = [] if name == "cltv" else ["--set=stabilizer=batch"]
    run_command("import_torch", weights(name), f"--model={name}", f"--out={out}", *stabilizer)
    golden = np.load(GOLDEN / f"{name}.npz")
    run = inference.load_run(out)
    logits: Any = run.model.apply(run.variables, jnp.asarray(golden["x"].transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(
        logits, golden["logits"], rtol=0, atol=2e-5 * np.abs(golden["logits"]).max()
    )
    assert [path.name for path in out.parent.iterdir()] == ["run"]


def test_an_imported_run_is_evaluated_and_predicts(
    weights: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, mean, std = tmp_path / "run", "0.1,0.2,0.3", "0.4,0.5,0.6"
    options = [f"--out={out}", "--image_size=8", f"--mean={mean}", f"--std={std}"]
    run_command("import_torch", weights("cpv"), "--model=cpv", *options)
    run = inference.load_run(out)
    assert (run.image_shape, run.scaling) == ((8, 8, 3), ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    with pytest.raises(InputError, match="--data"):
        run_command("evaluate", f"--workdir={out}")
    run_command("evaluate", f"--workdir={out}", "--data=digits")
    found = json.loads((out / "evaluation.json").read_text())
    split = sources.load("digits").split("test")
    probabilities = inference.predict(run, split.images)
    assert found["top1"] == np.mean(probabilities.argmax(1) == split.labels)
    capsys.readouterr()
    run_command("predict", f"--workdir={out}", "--top=1", pictures(tmp_path)[0])
    assert capsys.readouterr().out.split()[-2:] == ["class", str(probabilities[0].argmax())]


def test_import_takes_names_and_size_from_the_data(
    weights: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run_command("import_torch", weights("cnv"), "--model=cnv", f"--out={out}", "--data=digits")
    run = inference.load_run(out)
    assert (run.class_names, run.image_shape) == (tuple("0123456789"), (8, 8, 3))
    run_command("evaluate", f"--workdir={out}")


@pytest.mark.parametrize(
    ("options", "changed", "words"),
    [
        (["--class_names=cat,dog"], {}, "2 class names, the weights have 10"),
        ([], {"head.2.bias": None}, "missing: head.2.bias"),
        (["--set=embed_kernel=5"], {}, "misshapen"),
        (["--set=dpeth=5"], {}, "depth"),
        (["--data=nowhere"], {}, "nowhere"),
    ],
)
def test_a_refused_import_leaves_nothing(
    options: list[str],
    changed: dict[str, None],
    words: str,
    weights: Callable[..., Path],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    with pytest.raises(InputError, match=words):
        run_command(
            "import_torch", weights("cpv", **changed), "--model=cpv", f"--out={folder}/a", *options
        )
    assert not list(folder.iterdir())


def test_a_failed_save_leaves_nothing(
    weights: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, *args: Any) -> None:
        raise OSError("no space left")

    folder = tmp_path / "runs"
    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises((OSError, InputError), match="no space left"):
        run_command("import_torch", weights("cpv"), "--model=cpv", f"--out={folder}/a")
    assert not list(folder.iterdir())


def test_import_overwrites_nothing(weights: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "precious").write_text("text")
    with pytest.raises(InputError, match="not an empty folder"):
        run_command("import_torch", weights("cpv"), "--model=cpv", f"--out={out}")
    assert [path.name for path in out.iterdir()] == ["precious"]


def test_evaluate_refuses_data_with_other_classes(trained: SimpleNamespace, tmp_path: Path) -> None:
    images = np.zeros((60, 8, 8, 3), np.uint8)
    for count, words in ((3, "3 classes, the run 10"), (10, "'c0' where the run has '0'")):
        names, labels = [f"c{i}" for i in range(count)], np.arange(60) % count
        np.savez(tmp_path / "other.npz", images=images, labels=labels, class_names=names)
        with pytest.raises(InputError, match=words):
            run_command(
                "evaluate", f"--workdir={trained.workdir}", f"--data=npz:{tmp_path}/other.npz"
            )


@pytest.mark.parametrize("places", [[""], ["test"], ["train", "valid"]])
def test_evaluate_counts_all_pictures_of_an_outside_folder(
    trained: SimpleNamespace, tmp_path: Path, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    split = sources.load("digits").split("test")
    chosen = np.concatenate([np.flatnonzero(split.labels == c)[:3] for c in (2, 5, 7)])
    for place in places:
        for i in chosen:
            folder = tmp_path / place / str(split.labels[i])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(split.images[i]).save(folder / f"{i}.png")
    name = "val" if "valid" in places else "test"
    data = f"--data=folder:{tmp_path}"
    run_command("evaluate", f"--workdir={trained.workdir}", data, f"--split={name}")
    found = json.loads((trained.workdir / "evaluation.json").read_text())
    assert found["count"] == 9
    assert [row["count"] for row in found["per_class"]] == [0, 0, 3, 0, 0, 3, 0, 3, 0, 0]
    run = inference.load_run(trained.workdir)
    right = inference.predict(run, split.images[chosen]).argmax(1) == split.labels[chosen]
    assert found["top1"] == pytest.approx(right.mean())
    assert "selected on" not in capsys.readouterr().out


def test_predict_reads_deep_pictures_by_the_white_of_the_run(
    trained: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = inference.load_run(trained.workdir)
    dataset = dataclasses.replace(run.meta.dataset, white=4095)
    run = dataclasses.replace(run, meta=dataclasses.replace(run.meta, dataset=dataset))
    monkeypatch.setattr(inference, "load_run", lambda workdir: run)
    grey = sources.load("digits").split("test").images[0, ..., 0] // 20  # At most 12.
    Image.fromarray(grey).save(tmp_path / "a.png")
    deep = (grey * (4095 / 255)).round().astype(np.uint16)  # Alone it would pass for 8 bits.
    Image.fromarray(deep).save(tmp_path / "b.png")
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    run_command("predict", f"--workdir={trained.workdir}", "--json", *files)
    first, second = json.loads(capsys.readouterr().out)
    assert first["predictions"] == second["predictions"]


def test_the_runs_own_file_is_never_taken_for_an_outside_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    own = f"folder:{tmp_path}/a"
    assert not sources.is_outside(f"folder:{tmp_path}/./a/", own)
    assert sources.is_outside(f"folder:{tmp_path}/b", own)
    assert not sources.is_outside("", own)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("evaluate", []),
        ("evaluate", ["--workdir=x", "stray"]),
        ("predict", ["--workdir=x"]),
        ("predict", ["image.png"]),
        ("import_torch", ["a.npz", "--model=cpv"]),
        ("import_torch", ["a.npz", "b.npz", "--model=cpv", "--out=x"]),
        ("import_torch", ["a.npz", "--model=cpv", "--out=x", "--set=depth"]),
    ],
)
def test_incomplete_commands_end_with_code_2(
    name: str, args: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **np.load(GOLDEN / "cpv.npz"))
    with pytest.raises((SystemExit, InputError)) as stopped:
        run_command(name, *args)
    if isinstance(stopped.value, SystemExit):
        assert stopped.value.code == 2
        assert capsys.readouterr().err.startswith("error: expected")


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_a_missing_workdir_is_one_line_and_code_2(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"experiments.{name}", f"--workdir={tmp_path}/absent"]
    picture = ["a.png"] if name == "predict" else []
    result = subprocess.run([*command, *picture], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"error: workdir {tmp_path}/absent: no such folder; name the folder of a run"
    ]
    assert not list(tmp_path.iterdir())
