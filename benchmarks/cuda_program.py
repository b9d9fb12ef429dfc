"""What the train step hands to XLA for CUDA, read off its text; no GPU is needed and none is used.

python -m benchmarks.cuda_program --models=cpv,cnv,cltv,cxv_base --dtype=bfloat16

The text is StableHLO, before XLA's own passes: it tells the types and shapes of products, host
callbacks and transposes that we ask for, not the kernels and layout copies that XLA will choose.
"""

from absl import flags

from cxv_jax.launch import command

_MODELS = flags.DEFINE_list("models", ["cpv", "cnv", "cltv", "cxv_base"], "At published sizes.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Images of a step.", lower_bound=1)
_DTYPE = flags.DEFINE_string("dtype", "bfloat16", "float32 or bfloat16.")


def main(argv: list[str]) -> None:
    """Print a row a model, then the products that a tensor core takes badly."""
    if argv:
        command.fail("expected nothing besides flags; see --help")
    from benchmarks import program_text  # Late: --help must not wait for JAX.
    from cxv_jax.tables import markdown

    found = {}
    for name in _MODELS.value:
        text = program_text.lowered({"name": name, "dtype": _DTYPE.value}, _BATCH_SIZE.value)
        found[name] = program_text.read(text)
    cells = [[name, *program_text.cells(each)] for name, each in found.items()]
    print("\n".join(markdown(["model", *program_text.TITLES], cells)))
    for name, each in found.items():
        print(f"\n{name}:", *program_text.notes(each), sep="\n- ")


if __name__ == "__main__":
    command.run(main)
