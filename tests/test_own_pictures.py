"""What is chosen for a stranger's pictures, and that it can be set otherwise."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cxv_jax.config import check_config
from cxv_jax.data import image_files
from cxv_jax.errors import InputError
from experiments import own_pictures
from experiments.configs import own
from experiments.own_pictures import Look, choose, look, told

ROOT = Path(__file__).parents[1]


def put(folder: Path, number: int, level: int, size: tuple[int, int] = (90, 70)) -> None:
    folder.mkdir(parents=True)
    for i in range(number):
        Image.new("RGB", size, (level, 255 - level, (10 * i) % 256)).save(folder / f"{i}.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put(tmp_path / "pictures" / "cat", 40, 200)
    put(tmp_path / "pictures" / "dog", 10, 100)
    return tmp_path / "pictures"


def seen(number: int, ratio: int = 1, recipe: str = "") -> Look:
    counts = (number * ratio // (1 + ratio), number - number * ratio // (1 + ratio))
    recipe = recipe or own_pictures.recipe_for(number)
    return Look("folder:x", "", number, counts, 48, 48, recipe, (0.5,) * 3, (0.25,) * 3)


def test_class_folders_are_measured_on_the_training_images_alone(folder: Path) -> None:
    found = look(str(folder))
    assert (found.source, found.layout) == (f"folder:{folder}", "class folders")
    assert (found.counts, found.side, found.image_size) == ((32, 8), 70, 64)  # A fifth is test.
    config = own.get_config(f",,{folder}")
    check_config(config)
    assert (config.model.name, config.data.image_size) == ("cxv_nano", 64)
    assert (config.class_weights, config.select_by) == ("balanced", "balanced_accuracy")
    assert (config.selection, config.data.val_fraction, config.phase2.epochs) == ("last", 0, 0)
    from cxv_jax.data.sources import load

    train = load(found.source, image_size=64, val_fraction=0.0).split("train")
    pixels = np.asarray(train.images, float).reshape(-1, 3) / 255
    np.testing.assert_allclose(config.data.mean, pixels.mean(0), atol=1e-4)
    np.testing.assert_allclose(config.data.std, pixels.std(0), atol=1e-4)
    # One level a class: (32 · 200 + 8 · 100) / 40 / 255, and a deviation of 40 levels.
    np.testing.assert_allclose(
        [config.data.mean[0], config.data.std[0]], [180 / 255, 40 / 255], atol=1e-4
    )


def test_split_folders_and_npz_files_are_recognised(tmp_path: Path) -> None:
    for split, number in (("train", 6), ("Valid", 2), ("test", 2)):
        for level, name in ((50, "a"), (150, "b")):
            put(tmp_path / "split" / split / name, number, level, (20, 30))
    found = look(str(tmp_path / "split"))
    assert found.layout == "split folders Valid, test, train"
    assert (found.counts, found.image_size) == ((6, 6), 20)
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 36, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(40) % 2)
    found = look(str(tmp_path / "a.npz"))
    assert (found.source, found.image_size, found.side) == (f"npz:{tmp_path}/a.npz", 0, 28)
    np.savez(
        tmp_path / "b.npz", images=np.repeat(images, 3, 1).repeat(3, 2), labels=np.arange(40) % 2
    )
    assert look(str(tmp_path / "b.npz")).image_size == 64


@pytest.mark.parametrize(
    ("number", "model", "recipe", "batch", "epochs"),
    [
        (12, "cxv_nano", "small", 8, 200),
        (280, "cxv_nano", "small", 32, 200),
        (2500, "cxv_small", "small", 64, 102),  # 4,000 steps of 64 images.
        (3000, "cxv_small", "strong", 128, 200),
        (50_000, "cxv_small", "strong", 128, 51),  # 20,000 steps of 128 images.
    ],
)
def test_model_recipe_and_schedule_follow_the_number_of_images(
    number: int, model: str, recipe: str, batch: int, epochs: int
) -> None:
    config = choose(seen(number))
    check_config(config)
    assert (config.model.name, seen(number).recipe) == (model, recipe)
    assert (config.batch_size, config.phase1.epochs) == (batch, epochs)
    assert config.phase2.epochs == (0 if recipe == "small" else epochs // 2)
    assert config.selection == ("last" if recipe == "small" else "val")
    assert config.phase1.warmup_epochs < epochs


@pytest.mark.parametrize(("ratio", "weights"), [(3, "none"), (4, "balanced")])
def test_classes_are_weighed_where_one_has_over_three_times_another(
    ratio: int, weights: str
) -> None:
    assert choose(seen(600, ratio)).class_weights == weights


def test_five_lines_tell_what_and_why_and_what_the_user_set() -> None:
    found = seen(600, 4, "strong")
    config = choose(found, "cpv")
    config.phase1.epochs = 7
    lines = told(found, config)
    assert len(lines) == 5
    assert lines[0] == "data: folder:x, , 600 pictures to train on in 2 classes (120 to 480 each)"
    assert lines[2].startswith("model: cpv (set by you)")
    assert "recipe strong (set by you), batches of 64, 7 (set by you) + 100 epochs" in lines[3]
    assert "weights balanced: the largest has 4 times" in lines[4]
    assert "recipe small, as there are fewer than 3,000" in told(seen(600), choose(seen(600)))[3]


def test_broken_pictures_and_classes_of_one_do_not_stop_the_look(folder: Path) -> None:
    (folder / "cat" / "broken.png").write_bytes(b"x")
    put(folder / "gnu", 1, 30)
    found = look(str(folder))
    assert (found.counts, found.small_classes) == ((32, 8, 1), "train")
    assert choose(found).data.small_classes == "train"
    assert choose(found).data.on_bad_image == "refuse"  # Whoever wants them skipped says so.


def test_every_picture_is_decoded_once_and_hidden_ones_never(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder / "cat" / "@eaDir", 60, 100, (20, 20))
    put(folder / ".thumbnails", 60, 100, (20, 20))
    decoded: list[Path] = []
    attempt = image_files._attempt

    def counted(file: Path, **options: Any) -> Any:
        decoded.append(file)
        return attempt(file, **options)

    monkeypatch.setattr(image_files, "_attempt", counted)
    found = look(str(folder), "strong")  # Which holds validation images out.
    assert (found.side, found.pictures, sum(found.counts)) == (70, 40, 36)
    assert sorted(decoded) == sorted([*(folder / "cat").glob("*.png"), *(folder / "dog").iterdir()])


@pytest.mark.parametrize("data", ["/nowhere", "cifar10", __file__])
def test_what_is_no_source_is_refused(data: str) -> None:
    with pytest.raises(InputError, match="expected a folder of pictures"):
        look(data)


def train(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.train", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.smoke
def test_one_line_trains_and_the_same_line_repeats_nothing(folder: Path, tmp_path: Path) -> None:
    args = ["--data", str(folder), "--model=cltv", f"--workdir={tmp_path}/run"]
    args += ["--config.model.depth=1", "--config.model.embed_dim=8", "--config.model.num_heads=1"]
    args += ["--config.phase1.epochs=1", "--config.data.image_size=8"]
    result = train(*args)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    starts = [line.partition(":")[0] for line in lines[:5]]
    assert starts == ["data", "images", "model", "training", "classes"]
    assert "8 (set by you) pixels a side" in lines[1]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["data"]["image_size"], config["class_weights"]) == (8, "balanced")
    assert len(set(config["data"]["mean"])) == 3
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "--data" in summary["command"]
    assert summary["test_count"] == 10
    assert "already finished" in train(*args).stdout


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--data=/nowhere"], "data=/nowhere: expected a folder"),
        (["--data={folder}", "--config.phase1.epoch=1"], "'phase1.epoch'"),
        (["--data={folder}", "--model=cpw"], "cpw"),
        (["--data={folder}", "--config=experiments/configs/digits.py:cpv"], "in place of --config"),
        (["--model=cpv", "--config=experiments/configs/digits.py:cpv"], "for --data alone"),
        ([], "expected one of --data=PICTURES, --config"),
    ],
)
def test_a_mistake_is_one_line(args: list[str], words: str, folder: Path) -> None:
    result = train(*(arg.format(folder=folder) for arg in args))
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1, result.stderr
    assert words in result.stderr
