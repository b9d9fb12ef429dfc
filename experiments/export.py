"""Take a trained model away, in a form that other programs read.

python -m experiments.export --workdir=runs/digits-cpv
python -m experiments.export --workdir=runs/digits-cpv --format=safetensors --output=FOLDER

stablehlo: one program with its weights for CPU, CUDA and TPU; JAX alone reads and runs it.
safetensors: weights, config.json and a model card, as model hubs lay them out.
onnx: for onnxruntime and others; needs jax2onnx.
A program is compared with predict before it is written.
"""

from pathlib import Path

from absl import flags

from cxv_jax.launch import command

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_FORMAT = flags.DEFINE_enum("format", "stablehlo", ["stablehlo", "safetensors", "onnx"], "Form.")
_OUTPUT = flags.DEFINE_string("output", "", "Folder to write into (default: WORKDIR/export).")


def main(argv: list[str]) -> None:
    """Export ``--workdir``."""
    if not _WORKDIR.value or argv:
        command.fail("expected --workdir=FOLDER and nothing besides flags; see --help")
    from cxv_jax import export, inference  # Late: --help must not wait for JAX.

    run = inference.load_run(_WORKDIR.value)
    folder = Path(_OUTPUT.value or Path(_WORKDIR.value) / "export")
    for path in export.FORMATS[_FORMAT.value](run, folder):
        command.say(f"{path} ({-(-path.stat().st_size // 1000):,} kB)")


if __name__ == "__main__":
    command.run(main)
