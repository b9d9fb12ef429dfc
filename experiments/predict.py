"""Classify image files of any size and mode with a trained run.

python -m experiments.predict --workdir=runs/digits-cpv image.png other.jpg
python -m experiments.predict --workdir=runs/digits-cpv --json --top=3 image.png
"""

import json
from typing import Any

import numpy as np
from absl import flags

from cxv_jax.launch import command

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_TOP = flags.DEFINE_integer("top", 5, "How many classes to print of each image.", lower_bound=1)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON list instead, for machines.")


def main(argv: list[str]) -> None:
    """Classify the files in ``argv``."""
    if not _WORKDIR.value or not argv:
        command.fail("expected --workdir=FOLDER and one or more image files; see --help")
    from cxv_jax import inference  # Late: --help must not wait for JAX.
    from cxv_jax.errors import InputError

    run = inference.load_run(_WORKDIR.value)
    height, width, _ = run.image_shape
    if height != width:
        raise InputError(f"the run has {height}x{width} images; files are read as squares only")
    images = np.stack([inference.load_image(file, height, run.meta.dataset.white) for file in argv])
    probabilities = inference.predict(run, images)
    results = [
        {"file": file, "predictions": ranked(row, run.class_names)}
        for file, row in zip(argv, probabilities, strict=True)
    ]
    print(json.dumps(results, indent=2) if _JSON.value else "\n".join(map(text, results)))


def ranked(probabilities: np.ndarray, class_names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The ``--top`` most probable classes, best first."""
    best = np.argsort(-probabilities, kind="stable")[: _TOP.value]
    return [
        {"class": class_names[i], "index": int(i), "probability": float(probabilities[i])}
        for i in best
    ]


def text(result: dict[str, Any]) -> str:
    """One file's classes for a person."""
    lines = [f"{100 * p['probability']:7.2f} %  {p['class']}" for p in result["predictions"]]
    return "\n".join([result["file"], *lines])


if __name__ == "__main__":
    command.run(main)
