"""FNet: a Fourier transform in place of attention."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from cxv_jax.models.trunk import Mixer, TokenTrunk


class FourierMix(nn.Module):
    """``Re(F_tokens x F_channels)``: the real part of the 2-D Fourier transform, no parameters.

    Source: Lee-Thorp et al. 2021 (arXiv 2105.03824), eq. 3. Cost: ``O(length log length)``.
    Computed in float32 whatever the input type.
    """

    def __call__(
        self, x: Float[Array, "batch tokens channels"], *, train: bool
    ) -> Float[Array, "batch tokens channels"]:
        """Apply to ``[batch, tokens, channels]``."""
        return jnp.fft.fft2(x.astype(jnp.float32)).real.astype(x.dtype)


class FNet(TokenTrunk):
    """:class:`~cxv_jax.models.trunk.TokenTrunk` with :class:`FourierMix` between the tokens."""

    def _mixer(self) -> Mixer:
        return FourierMix
