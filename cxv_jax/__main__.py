"""``python -m cxv_jax`` is the command ``cxv``, which stands beside the package."""

import runpy

if __name__ == "__main__":
    runpy.run_module("experiments", run_name="__main__", alter_sys=True)
