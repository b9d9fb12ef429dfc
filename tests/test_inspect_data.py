"""inspect_data, run as a command inside this process, against numbers counted by NumPy."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags
from PIL import Image

from cxv_jax import plots
from cxv_jax.data.statistics import pixel_statistics
from cxv_jax.errors import InputError

ROOT = Path(__file__).parents[1]
CONFIG = f"--config={ROOT}/experiments/configs/digits.py:cpv"
SIDE, SCALE = 8, 8  # An image of 8 pixels is drawn at 64.


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``python -m experiments.inspect_data ARGS``, with the flags of this command alone."""

    def run(*args: Any) -> None:
        for flag in list(flags.FLAGS):
            definer = flags.FLAGS.find_module_defining_flag(flag) or ""
            if definer.startswith("experiments.") or flag.startswith("config."):
                delattr(flags.FLAGS, flag)
        sys.modules.pop("experiments.inspect_data", None)
        module = importlib.import_module("experiments.inspect_data")
        monkeypatch.setattr(sys, "argv", ["inspect_data", *map(str, args)])
        module.main(flags.FLAGS(sys.argv)[1:])

    return run


def write_set(path: Path, train: list[int], seed: int = 0) -> dict[str, Any]:
    """So many random images of each class, and 3 and 2 of each for val and test."""
    random = np.random.default_rng(seed)
    classes = len(train)
    arrays: dict[str, Any] = {}
    for prefix, counts in (("", train), ("val_", [3] * classes), ("test_", [2] * classes)):
        labels = random.permutation(np.repeat(np.arange(classes), counts))
        shape = (len(labels), SIDE, SIDE, 3)
        arrays |= {f"{prefix}images": random.integers(0, 200, shape, np.uint8)}
        arrays |= {f"{prefix}labels": labels}
    arrays["images"][..., 0] //= 2  # So that the channels differ.
    arrays["class_names"] = np.array([f"kind {chr(97 + c % 26)}{c}" for c in range(classes)])
    np.savez(path, **arrays)
    return arrays


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, np.ndarray], list[str]]]:
    """What is handed over for drawing; it is drawn as well."""
    drawn: list[tuple[dict[str, np.ndarray], list[str]]] = []
    draw = plots.contact_sheet

    def spy(blocks: dict[str, np.ndarray], row_names: list[str], path: Path) -> None:
        drawn.append((blocks, row_names))
        draw(blocks, row_names, path)

    monkeypatch.setattr(plots, "contact_sheet", spy)
    return drawn


def rows_of(printed: str) -> dict[str, list[str]]:
    """Lines of a table by their first cell; cells stand two spaces apart."""
    cells = [[c.strip() for c in line.split("  ") if c.strip()] for line in printed.splitlines()]
    return {first: rest for first, *rest in filter(None, cells)}


def found_at(picture: np.ndarray, image: np.ndarray) -> list[tuple[int, int]]:
    """Where (y, x) an image stands in a picture, enlarged, every pixel exact."""
    large = np.kron(image, np.ones((SCALE, SCALE, 1), np.uint8))
    height, width, _ = large.shape
    corners = np.argwhere((picture == large[0, 0]).all(-1)).tolist()
    return [
        (y, x) for y, x in corners if np.array_equal(picture[y : y + height, x : x + width], large)
    ]


def test_counts_pixels_and_loading_are_those_of_the_files(
    inspect: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = [20, 31, 26]
    arrays = write_set(tmp_path / "set.npz", train)
    pixels = arrays["images"].reshape(-1, 3) / 255
    near = pixels.mean(0) + np.array([0.019, 0, -0.019])
    far = pixels.std(0) + np.array([0, 0.021, 0])
    inspect(
        CONFIG,
        f"--config.data.source=npz:{tmp_path}/set.npz",
        f"--config.data.mean={tuple(near.tolist())}",
        f"--config.data.std={tuple(far.tolist())}",
        f"--config.data.memory_share={1e-9}",
        f"--out={tmp_path / 'deep' / 'out'}",
    )
    printed = capsys.readouterr().out
    rows = rows_of(printed)
    assert "3 classes, 8x8 RGB" in printed
    assert rows["all classes"] == ["77", "9", "6"]
    assert [rows[name] for name in arrays["class_names"]] == [[str(n), "3", "2"] for n in train]
    assert rows["mean of train"] == [f"{m:.4f}" for m in pixels.mean(0)]
    assert rows["std of train"] == [f"{s:.4f}" for s in pixels.std(0)]
    assert rows["config.data.mean"] == [f"{m:.4f}" for m in near]
    assert printed.count("warning: ") == 1
    better = ",".join(rows["std of train"])
    assert f"--config.data.std='({better})'" in printed
    assert rows["memory"][0].startswith(f"train {77 * 192 / 1e6:.1f} MB")
    assert rows["loader"] == ["streaming"]
    assert rows["batches"][0].startswith("2 of 32 an epoch, 13 of 77 images left out")
    assert rows["phase1 (adamw): crop_padding=1"] == []
    assert (tmp_path / "deep" / "out" / "contact_sheet.png").is_file()


@pytest.mark.parametrize(
    ("asked", "told"), [("auto", "resident"), ("streaming", "streaming; auto: resident")]
)
def test_auto_keeps_a_small_set_resident_and_another_choice_is_told_apart(
    inspect: Callable[..., None],
    asked: str,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    inspect(CONFIG, f"--config.data.loader={asked}", f"--out={tmp_path}")
    printed = capsys.readouterr().out
    assert rows_of(printed)["loader"] == [told]
    assert "warning" not in printed


def test_many_classes_are_summarised_and_only_outliers_listed(
    inspect: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = [4] * 30
    train[7], train[11], train[20] = 1, 9, 8  # Below half, above twice, exactly twice.
    arrays = write_set(tmp_path / "set.npz", train)
    inspect(CONFIG, f"--config.data.source=npz:{tmp_path}/set.npz", f"--out={tmp_path}")
    rows = rows_of(capsys.readouterr().out)
    assert rows["least of a class"] == ["1", "3", "2"]
    assert rows["median of a class"] == ["4", "3", "2"]
    assert rows["most of a class"] == ["9", "3", "2"]
    assert [name for name in arrays["class_names"] if name in rows] == ["kind h7", "kind l11"]
    assert rows["kind l11"] == ["9", "3", "2"]


def test_the_sheet_shows_images_of_its_rows_before_and_after_each_phase(
    inspect: Callable[..., None], tmp_path: Path, sheets: list
) -> None:
    arrays = write_set(tmp_path / "set.npz", [7] * 11)
    inspect(
        CONFIG,
        f"--config.data.source=npz:{tmp_path}/set.npz",
        f"--out={tmp_path}",
        "--config.phase1.augment.crop_padding=0",
        "--config.phase1.augment.flip=True",
        "--config.phase2.augment.crop_padding=0",
    )
    (blocks, names) = sheets[0]
    assert len(names) == 8
    assert list(blocks) == ["as stored", "phase1 (adamw)", "phase2 (sgd)"]
    picture = np.asarray(Image.open(tmp_path / "contact_sheet.png").convert("RGB"))
    ys, flipped = [], 0
    for row, name in zip(blocks["as stored"], names, strict=True):
        members = arrays["images"][arrays["class_names"][arrays["labels"]] == name]
        assert all(any(np.array_equal(image, member) for member in members) for image in row)
        for image in row:
            plain, mirrored = found_at(picture, image), found_at(picture, image[:, ::-1])
            assert len({y for y, _ in plain + mirrored}) == 1
            first, second, third = sorted(x for _, x in plain + mirrored)
            assert third - second == second - first  # One in each block.
            assert first in {x for _, x in plain}
            assert third in {x for _, x in plain}
            flipped += len(mirrored)
        ys.append(plain[0][0])
    assert np.unique(np.diff(ys)).tolist() == [64 + 2 * plots.GAP]  # Top to bottom.
    assert 10 < flipped < 38  # Of 48, half on average.


def test_equal_images_of_two_splits_or_classes_are_named(
    inspect: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = write_set(tmp_path / "a.npz", [20, 20])
    source = f"--config.data.source=npz:{tmp_path}/a.npz"
    inspect(CONFIG, source, f"--out={tmp_path}")
    assert "duplicates  none" in capsys.readouterr().out
    arrays["test_images"][1] = arrays["images"][7]
    arrays["test_labels"][1] = arrays["labels"][7]
    first, second = np.argsort(arrays["labels"], kind="stable")[[0, -1]]  # Of both classes.
    arrays["images"][first] = arrays["images"][second]
    np.savez(tmp_path / "a.npz", **arrays)
    inspect(CONFIG, source, f"--out={tmp_path}")
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("warning: ")]
    twice, torn, both = [line for line in lines if " images stand" in line]
    assert twice.startswith("warning: 1 images stand in two splits")
    assert twice.endswith("train/7 = test/1")
    assert torn.startswith("warning: 1 images stand in two classes")
    assert torn.endswith(f"train/{min(first, second)} = train/{max(first, second)}")
    assert both.startswith("warning: 2 images stand twice")


def test_mixed_images_are_what_the_title_says(
    inspect: Callable[..., None], tmp_path: Path, sheets: list
) -> None:
    write_set(tmp_path / "set.npz", [7] * 8)
    inspect(
        CONFIG,
        f"--config.data.source=npz:{tmp_path}/set.npz",
        f"--out={tmp_path}",
        "--config.phase1.augment.crop_padding=0",
        "--config.phase1.augment.mixup_alpha=1.0",
        "--config.phase2.epochs=0",
    )
    stored, (title, mixed) = sheets[0][0]["as stored"], list(sheets[0][0].items())[1]
    assert len(sheets[0][0]) == 2  # A phase without epochs is not shown.
    shares = [int(part.rstrip("%")) / 100 for part in title.split("own label ")[1].split(", ")]
    share = np.array(shares).reshape(1, -1, 1, 1, 1)
    expected = share * stored + (1 - share) * stored[::-1]
    np.testing.assert_allclose(mixed, expected, atol=0.5 + 0.005 * 200)
    assert len(set(shares)) > 1  # A batch a column.


def test_pixel_statistics_read_lazy_images_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxv_jax.data.statistics.CHUNK", 3)
    images = np.random.default_rng(0).integers(0, 256, (11, 5, 7, 3), np.uint8)
    images[-1] = 255  # The last, partial chunk matters.
    found = pixel_statistics(images)
    np.testing.assert_allclose(found.mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, (images / 255).std((0, 1, 2)), rtol=1e-12)


def test_a_deviation_of_0_is_told_and_never_advised(
    inspect: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = write_set(tmp_path / "set.npz", [20] * 3)
    arrays["images"][..., 1] = 9
    np.savez(tmp_path / "set.npz", **arrays)
    inspect(CONFIG, f"--config.data.source=npz:{tmp_path}/set.npz", f"--out={tmp_path}")
    printed = capsys.readouterr().out
    assert "--config.data.std" not in printed
    assert "a channel of train is constant" in printed


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--config.data.source=npz:/nowhere.npz"], "/nowhere.npz: no such file"),
        (["--config.data.val_fraction=0"], "no val split"),
        (["--config.data.loader=magic"], "data.loader: expected auto"),
        (["--config.batch_size=1600"], "larger than"),
        (["--config.phase2.augment.policy=trivail"], "did you mean 'trivial'"),
        (["--config.phase1.patience=0"], "phase1.patience"),
        (["--config.data.std=(0.5,0.0,0.5)"], "config.data.std = .* above 0 in every channel"),
    ],
)
def test_what_training_would_refuse_is_refused(
    inspect: Callable[..., None], args: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        inspect(CONFIG, *args, f"--out={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "experiments.inspect_data", CONFIG, f"--out={tmp_path}/file"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2
    assert result.stderr.startswith("error: --out=")
    assert result.stderr.count("\n") == 1
