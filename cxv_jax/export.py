"""Take a trained model away: one StableHLO program, safetensors for a hub, or ONNX."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from cxv_jax import inference
from cxv_jax.errors import InputError, reason
from cxv_jax.files import replace
from cxv_jax.inference import Run
from cxv_jax.kernels.dispatch import without_choice
from cxv_jax.version import __version__

PLATFORMS = ("cpu", "cuda", "tpu")
RESOLUTION_FREE = ("cltv", "cxv_base", "cxv_small", "cxv_nano")  # Any height and width.
TOLERANCE = {"stablehlo": 1e-5, "onnx": 1e-4}  # Of a probability, against ``inference.predict``.
Predict = Callable[[np.ndarray], np.ndarray]


def stablehlo(run: Run, folder: Path) -> list[Path]:
    """``model.stablehlo``, one program for CPU, CUDA and TPU with its weights, and its metadata.

    uint8 ``[batch, height, width, 3]`` -> float32 probabilities ``[batch, classes]`` for any batch
    size, and for any height and width where the model is of that kind (metadata: ``any_size``).
    ``jax.export.deserialize(file.read_bytes()).call(images)`` needs JAX alone.

    Raises:
      InputError: the program does not give what ``inference.predict`` gives, or flatbuffers is
        missing.
    """
    height, width, channels = run.image_shape
    size = "height, width" if takes_any_size(run) else f"{height}, {width}"
    shape = jax.export.symbolic_shape(f"batch, {size}, {channels}")
    spec = jax.ShapeDtypeStruct(shape, np.uint8)
    exported = jax.export.export(jax.jit(classify(run)), platforms=PLATFORMS)(spec)
    try:
        data = bytes(exported.serialize())
    except ImportError as error:
        raise InputError(
            f"StableHLO files need flatbuffers ({error}): pip install 'cxv_jax[export]'"
        ) from error
    reloaded = jax.export.deserialize(bytearray(data))
    check(run, lambda images: np.asarray(reloaded.call(images)), "stablehlo")
    return [_write(folder / "model.stablehlo", data), _describe(run, folder)]


def safetensors(run: Run, folder: Path) -> list[Path]:
    """``model.safetensors`` with ``config.json`` and a model card, the layout of model hubs.

    Arrays have our names with dots (``params.head.kernel``), bit for bit; ``config.init_from``
    reads the file.
    """
    from safetensors.numpy import save

    flat = flax.traverse_util.flatten_dict(jax.device_get(run.variables), sep=".")
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in flat.items()}
    return [
        _write(folder / "model.safetensors", save(arrays, {"format": "flax"})),
        _describe(run, folder, "config.json"),
        _write(folder / "README.md", card(run).encode()),
    ]


def onnx(run: Run, folder: Path) -> list[Path]:
    """``model.onnx`` by jax2onnx for any number of images of the run's size, and its metadata.

    ``images`` (uint8) -> ``probabilities``; the metadata are inside the file too.

    Raises:
      InputError: jax2onnx or onnxruntime is missing, the one cannot convert the model, or the
        program gives other probabilities.
    """
    try:
        import onnxruntime
        from jax2onnx import to_onnx
    except ImportError as error:
        raise InputError(
            f"ONNX needs jax2onnx and onnxruntime ({error}). jax2onnx asks for an older Orbax than "
            "ours: pip install onnx onnx-ir onnxruntime equinox dm-pix, then "
            "pip install --no-deps jax2onnx"
        ) from error
    spec = jax.ShapeDtypeStruct(("batch", *run.image_shape), np.uint8)
    names: Any = dict(input_names=["images"], output_names=["probabilities"])
    program = classify(run)
    try:
        with without_choice(), _quiet():
            model = to_onnx(program, [spec], model_name=run.config.model.name, **names)
    except Exception as error:  # What it has no rule for comes as nearly anything.
        raise InputError(
            f"jax2onnx cannot convert {run.config.model.name}: {reason(error)}"
        ) from error
    for key, value in metadata(run, any_size=False).items():
        model.metadata_props.add(key=key, value=value if type(value) is str else json.dumps(value))
    data, options = model.SerializeToString(), onnxruntime.SessionOptions()
    options.log_severity_level = 3  # Errors, not that it simplifies the program.
    session = onnxruntime.InferenceSession(data, options)
    check(run, lambda images: session.run(None, {"images": images})[0], "onnx")
    return [_write(folder / "model.onnx", data), _describe(run, folder, any_size=False)]


FORMATS = {"stablehlo": stablehlo, "safetensors": safetensors, "onnx": onnx}


def classify(run: Run) -> Callable[[Any], Any]:
    """``images -> probabilities`` with the weights inside."""
    variables = jax.tree.map(jnp.asarray, jax.device_get(run.variables))  # Of one device.
    apply = partial(inference.probabilities, run.model, *run.scaling, variables)
    return partial(apply, temperature=run.temperature)


def takes_any_size(run: Run) -> bool:
    """Whether the model takes images of any height and width."""
    return run.config.model.name in RESOLUTION_FREE


def check(run: Run, predict: Predict, form: str) -> None:
    """Compare with ``inference.predict``, on 1 and 7 random images of every size it shall take.

    Raises:
      InputError: they differ by more than ``TOLERANCE``.
    """
    height, width, channels = run.image_shape
    sizes = [
        (height, width),
        *([(height + 4, width + 7)] if form != "onnx" and takes_any_size(run) else []),
    ]
    draw = np.random.default_rng(0)
    for size in sizes:
        for count in (1, 7):
            images = draw.integers(0, 256, (count, *size, channels), dtype=np.uint8)
            gap = float(np.abs(predict(images) - inference.predict(run, images)).max())
            if not gap <= TOLERANCE[form]:
                raise InputError(
                    f"the {form} program differs from predict by {gap:.1e} in a probability "
                    f"({count} images of {size}; at most {TOLERANCE[form]:g}): nothing was written"
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what jax2onnx and its parts say of their own doings."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def metadata(run: Run, *, any_size: bool | None = None) -> dict[str, Any]:
    """What a user of an exported model has to know, as plain data."""
    mean, std = run.scaling
    return {
        "library": f"cxv_jax {__version__}",
        "input": "uint8 RGB [batch, height, width, 3]",
        "output": "float32 class probabilities [batch, classes]",
        "classes": list(run.class_names),
        "image_shape": list(run.image_shape),
        "any_size": takes_any_size(run) if any_size is None else any_size,
        "mean": list(mean),
        "std": list(std),
        "temperature": run.temperature,
        "model": json.loads(run.config.model.to_json()),
        "step": run.step,
    }


def card(run: Run) -> str:
    """A model card; its snippet runs beside the files."""
    facts = metadata(run)
    height, width, _ = run.image_shape
    classes = "\n".join(f"- {name}" for name in run.class_names)
    return f"""---
library_name: cxv_jax
pipeline_tag: image-classification
tags: [jax, flax, image-classification]
---

# {run.config.model.name}

An image classifier for {height}x{width} RGB images, trained with {facts["library"]}. The weights
are in `model.safetensors`; the model's fields, the pixels' mean and deviation, the temperature that
divides the logits and the classes in `config.json`. To train from them:
`--config.init_from=model.safetensors`. To use them:

```python
import json
from pathlib import Path
import flax.traverse_util
import jax, jax.numpy as jnp
from safetensors.flax import load_file
import cxv_jax

facts = json.loads(Path("config.json").read_text())
model = cxv_jax.create(num_classes=len(facts["classes"]), **facts["model"])
variables = flax.traverse_util.unflatten_dict(load_file("model.safetensors"), sep=".")
images = jnp.zeros((1, *facts["image_shape"]))  # Yours, 0 to 255.
scaled = (images / 255 - jnp.array(facts["mean"])) / jnp.array(facts["std"])
probabilities = jax.nn.softmax(model.apply(variables, scaled) / facts["temperature"])
```

## Classes

{classes}
"""


def _describe(run: Run, folder: Path, name: str = "metadata.json", **facts: Any) -> Path:
    return _write(folder / name, (json.dumps(metadata(run, **facts), indent=2) + "\n").encode())


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, lambda temporary: temporary.write_bytes(data))
    return path
