"""Draw what a run looks at in images, or its most confident mistakes on the test split.

python -m experiments.explain --workdir=runs/mine image.jpg other.jpg
python -m experiments.explain --workdir=runs/mine

Beside each image: Grad-CAM, the places that speak for the class; and, for models with attention,
what each token of the last attention weighs. Writes explanation.png (of images) or mistakes.png
into the run's folder, or --out=FILE.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from cxv_jax.launch import command

if TYPE_CHECKING:
    from cxv_jax.inference import Run

MOST = 48  # Images of a sheet.

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_OUT = flags.DEFINE_string("out", None, "The picture to write (default: in the run's folder).")
_MOST = flags.DEFINE_integer("most", 12, "Mistakes to draw.", lower_bound=1, upper_bound=MOST)


def main(argv: list[str]) -> None:
    """Explain the images in ``argv``, or the mistakes on test."""
    if not _WORKDIR.value or len(argv) > MOST:
        command.fail(f"expected --workdir=FOLDER and up to {MOST} image files; see --help")
    from cxv_jax import explain, inference, plots  # Late: --help must not wait for JAX.

    run = inference.load_run(_WORKDIR.value)
    images, lines, name = of_files(run, argv) if argv else of_mistakes(run, _MOST.value)
    path = Path(_OUT.value or Path(_WORKDIR.value) / name)
    if not len(images):
        command.say("every image of test was recognised: there is no mistake to draw")
        return
    found = explain.explain(run, images)
    said = [
        f"{run.class_names[c]} {100 * p:.0f} %"
        for c, p in zip(found.classes, found.probabilities, strict=True)
    ]
    overlays = {"Grad-CAM": found.grad_cam}
    if found.tokens is not None:
        overlays["token weights"] = found.tokens
    titles = [(first, f"taken for {second}") for first, second in zip(lines, said, strict=True)]
    plots.explanations(images, overlays, titles, path)
    command.say("\n".join([*(", ".join(title) for title in titles), f"written: {path}"]))


def of_files(run: "Run", names: list[str]) -> tuple[np.ndarray, list[str], str]:
    """The images in files, what stands above each, and the name of the picture."""
    from cxv_jax import inference

    height, width, _ = run.image_shape
    white = run.meta.dataset.white
    images = [inference.load_image(name, (height, width), white) for name in names]
    return np.stack(images), [Path(name).name for name in names], "explanation.png"


def of_mistakes(run: "Run", most: int) -> tuple[np.ndarray, list[str], str]:
    """The same of the most confident mistakes on the run's test split."""
    from cxv_jax import explain, inference
    from cxv_jax.errors import InputError

    if not run.config.data.source:
        raise InputError("this run names no data (it was imported): name image files")
    split = inference.own_dataset(run, run.config, "test").split("test")
    found = explain.mistakes(run, split, most)
    images = np.asarray(split.images[np.array([x.row for x in found], int)])
    return images, [run.class_names[x.true] for x in found], "mistakes.png"


if __name__ == "__main__":
    command.run(main)
