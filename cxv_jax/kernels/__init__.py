"""Operations whose formulation decides speed and memory; each says why it is written as it is.

Every one has a plain equivalent that the tests compare it with. The choices were made on a CPU;
``python -m benchmarks.against_torch`` measures the whole step. On a GPU they are unmeasured.
"""

from cxv_jax.kernels.depthwise import depthwise_convolution
from cxv_jax.kernels.divide import divide
from cxv_jax.kernels.elementwise import channel_norm, dropout, gelu
from cxv_jax.kernels.product import MASKED, heads_first, product, softmax, softmax_product
from cxv_jax.kernels.recompute import checkpoint
from cxv_jax.kernels.token_convolution import token_convolution
from cxv_jax.kernels.winograd import conv_3x3

__all__ = [
    "MASKED",
    "channel_norm",
    "checkpoint",
    "conv_3x3",
    "depthwise_convolution",
    "divide",
    "dropout",
    "gelu",
    "heads_first",
    "product",
    "softmax",
    "softmax_product",
    "token_convolution",
]
