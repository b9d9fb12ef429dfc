"""What a model costs: parameters."""

import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import numpy as np

# torchsummary prints the weights and biases of PyTorch's own layers. It misses what the reference
# models hold as bare parameters: class tokens, learned positions, Linformer's projections and the
# channel norms of CXV (norm_<i>) and of vit-pytorch's CvT.
UNPRINTED = r"(.*/)?(cls_token|pos_embedding|projection)|norm_\d+/\w+"
ALSO_UNPRINTED = {"cvt": r"embed_norm_\d+/\w+|.*/norm_(mix|mlp)/\w+"}


def count_parameters(variables: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Count the trainable parameters in two ways.

    Args:
      variables: what ``model.init`` returns, as arrays or (``jax.eval_shape``) shapes; only the
        collection ``params`` counts.
      name: of the model.

    Returns:
      ``(trainable, torchsummary)``: all of them, and the number the tool ``torchsummary`` prints
      for the PyTorch original, as most published tables have it: it leaves out class tokens,
      learned positions, Linformer's projections and channel norms. Where the published counts
      stand: docs/sources.md.

    Example:
      >>> import jax
      >>> from cxv_jax import models
      >>> image = jax.ShapeDtypeStruct((1, 32, 32, 3), "float32")
      >>> variables = jax.eval_shape(models.create("cpv").init, jax.random.key(0), image)
      >>> count_parameters(variables, "cpv")
      (1345994, 1344714)
    """
    leaves = flax.traverse_util.flatten_dict(variables["params"], sep="/")
    sizes = {path: int(np.prod(leaf.shape)) for path, leaf in leaves.items()}
    missed = re.compile("|".join(filter(None, (UNPRINTED, ALSO_UNPRINTED.get(name)))))
    unprinted = sum(size for path, size in sizes.items() if missed.fullmatch(path))
    return sum(sizes.values()), sum(sizes.values()) - unprinted
