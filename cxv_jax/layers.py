"""The layers that more than one model is made of."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError
from jax import Array
from jaxtyping import Float

from cxv_jax.errors import InputError
from cxv_jax.kernels import channel_norm, conv_3x3, depthwise_convolution, dropout, gelu

# PyTorch's settings. The running variance is the batch's own, PyTorch's is n / (n - 1) times it.
LayerNorm = partial(nn.LayerNorm, epsilon=1e-5, use_fast_variance=False)
BatchNorm = partial(nn.BatchNorm, momentum=0.9, epsilon=1e-5)

# PyTorch's default: U(-a, a) with a = fan_in^(-1/2), for kernels and biases alike.
kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def bias_init(fan_in: int) -> nn.initializers.Initializer:
    """PyTorch's default for biases: ``U(-a, a)``, ``a = fan_in^(-1/2)``."""

    def init(rng: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(rng, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return init


class Dense(nn.Module):
    """``y = x W + b`` over the last axis, initialised as PyTorch's ``Linear``.

    With ``init_std`` the kernel is drawn from ``N(0, init_std^2)`` and the bias is 0.
    """

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    init_std: float | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch features"]:
        """Apply to ``[..., channels]``."""
        kernel, bias = kernel_init, bias_init(x.shape[-1])
        if self.init_std is not None:
            kernel, bias = nn.initializers.normal(self.init_std), nn.initializers.zeros
        layer = nn.Dense(
            self.features, self.use_bias, dtype=self.dtype, kernel_init=kernel, bias_init=bias
        )
        nn.share_scope(self, layer)
        # In two dimensions, or the gradient that JAX derives makes XLA's CPU backend transpose what
        # flows back (computing it twice), for a product in a layout that it is slow in.
        return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.features)


class Conv(nn.Module):
    """2-D cross-correlation with symmetric zero padding, initialised as PyTorch's ``Conv2d``."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | None = None  # None: kernel_size // 2.
    groups: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer = kernel_init

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width features"]:
        """Apply to ``[batch, height, width, channels]``."""
        pad = self.kernel_size // 2 if self.padding is None else self.padding
        usual = (self.kernel_size, self.stride, pad, self.groups) == (3, 1, 1, 1)
        layer = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            (self.stride, self.stride),
            padding=((pad, pad), (pad, pad)),
            feature_group_count=self.groups,
            use_bias=self.use_bias,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            bias_init=bias_init(x.shape[-1] // self.groups * self.kernel_size**2),
            conv_general_dilated=_conv_3x3 if usual else None,
        )
        nn.share_scope(self, layer)
        return layer(x)


def _conv_3x3(x: Array, kernel: Array, *args: Any, **kwargs: Any) -> Array:
    """What Flax calls in place of ``lax.conv_general_dilated``; :class:`Conv` has checked it."""
    return conv_3x3(x, kernel)


class DepthwiseConv(nn.Module):
    """One square kernel a channel, padded by ``kernel_size // 2``, initialised as :class:`Conv`.

    The parameters are those of :class:`Conv` with one group a channel.
    """

    kernel_size: int
    stride: int = 1
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch out_height out_width channels"]:
        """Apply to ``[batch, height, width, channels]``."""
        k, channels = self.kernel_size, x.shape[-1]
        kernel = self.param("kernel", kernel_init, (k, k, 1, channels))
        out = depthwise_convolution(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        if self.use_bias:
            bias = self.param("bias", bias_init(k * k), (channels,))
            out = out + bias.astype(self.dtype)[None, None, None]
        return out


class ChannelNorm(nn.Module):
    """CXV's normalisation of every pixel over its channels; see :func:`channel_norm`."""

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        """Apply to ``[..., channels]``."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return channel_norm(x, scale, bias)


class Dropout(nn.Module):
    """Zero each element with probability ``rate``, scale the others by ``1 / (1 - rate)``.

    See :func:`kernels.dropout` for the random bits it draws.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"], *, train: bool) -> Float[Array, "*shape"]:
        """Apply where ``train``, with the ``dropout`` random stream."""
        if not train or self.rate == 0:
            return x
        return dropout(x, _dropout_key(self), self.rate)


class DropPath(nn.Module):
    """Zero a whole example with probability ``rate``, scale the others by ``1 / (1 - rate)``.

    Stochastic depth (Huang et al. 2016, arXiv 1603.09382) for the branch of a residual block.
    """

    rate: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *rest"], *, train: bool
    ) -> Float[Array, "batch *rest"]:
        """Apply where ``train``, with the ``dropout`` random stream."""
        if not train or self.rate == 0:
            return x
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        keep = jax.random.bernoulli(_dropout_key(self), 1 - self.rate, shape)
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


def _dropout_key(module: nn.Module) -> Array:
    try:
        return module.make_rng("dropout")
    except InvalidRngError:
        raise InputError(
            "train=True needs a random key for dropout: apply(..., rngs={'dropout': key})"
        ) from None


class Mlp(nn.Module):
    """``W2 gelu(W1 x + b1) + b2`` over the last axis, with dropout after each product."""

    hidden: int
    dropout: float = 0.0
    dtype: Any = jnp.float32
    activation: Callable[[Array], Array] = gelu
    init_std: float | None = None  # As in Dense.

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch channels"], *, train: bool
    ) -> Float[Array, "*batch channels"]:
        """Apply to ``[..., channels]``."""
        dense = partial(Dense, dtype=self.dtype, init_std=self.init_std)
        h = self.activation(dense(self.hidden, name="fc1")(x))
        h = Dropout(self.dropout)(h, train=train)
        h = dense(x.shape[-1], name="fc2")(h)
        return Dropout(self.dropout)(h, train=train)
