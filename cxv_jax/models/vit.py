"""Vision transformer and the (hybrid) X-formers ViL, ViN, ViP, with learned or rotary positions.

A hybrid ViN differs from a ViT in two fields: ``hybrid=True`` replaces the patches by three
convolutions, ``mixer="nystrom"`` replaces softmax attention; ``rope=True`` replaces the learned
positions by rotary ones. Everything else is :class:`~cxv_jax.models.trunk.TokenTrunk`.
"""

from functools import partial
from typing import Literal

from cxv_jax.mixers import (
    InSequence,
    LinformerAttention,
    MultiHeadAttention,
    Nystrom,
    Performer,
    Softmax,
)
from cxv_jax.models.trunk import Mixer, TokenTrunk


class ViT(TokenTrunk):
    """ViT and its X-formers: attention by name, everything else from the trunk.

    Source: pranavphoenix/VisionXformer, ``Models/ViT.py``, ``ViL.py``, ``ViN.py``, ``ViP.py`` and
    their hybrid and RoPE forms (docs/sources.md). Differences: the plain ViN takes its number of
    heads from ``num_heads``; the output projection is there even for one head as wide as the
    token; ViL has no dropout of attention weights (its rate was 0); ``stabilizer="example"`` keeps
    the images of a batch independent; the rotary models do not carry the position embedding that
    some of them own and never use.

    Attributes:
      mixer: ``"softmax"`` (ViT), ``"linformer"`` (ViL), ``"nystrom"`` (ViN) or ``"performer"``
        (ViP).
      rope: rotary positions instead of learned ones.
      num_heads: attention heads.
      head_dim: width of a head, independent of ``embed_dim``.
      num_projected: tokens that keys and values are projected to (ViL).
      one_kv_head: all heads share one key and value (ViL).
      num_landmarks: landmarks (ViN).
      pinv_iterations: pseudo-inverse steps (ViN).
      residual_kernel: taps of the values' depthwise convolution (ViN).
      num_features: random features (ViP); 0: ``int(head_dim ln head_dim)``.
      stabilizer: ``"example"``, or ``"batch"`` as in the reference (ViN, ViP).
    """

    mixer: Literal["softmax", "linformer", "nystrom", "performer"] = "softmax"
    rope: bool = False
    num_heads: int = 4
    head_dim: int = 32
    num_projected: int = 64
    one_kv_head: bool = False
    num_landmarks: int = 64
    pinv_iterations: int = 6
    residual_kernel: int = 33
    num_features: int = 0
    stabilizer: Literal["example", "batch"] = "example"

    @property
    def learned_positions(self) -> bool:
        """Rotary positions replace the learned ones."""
        return not self.rope

    @property
    def any_size(self) -> bool:
        """Learned positions and Linformer's projection fit one number of tokens."""
        return self.rope and self.mixer != "linformer"

    def _mixer(self) -> Mixer:
        """What makes the four models different."""
        heads = partial(
            MultiHeadAttention,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            dtype=self.dtype,
        )
        if self.mixer == "linformer":
            return partial(
                LinformerAttention,
                num_heads=self.num_heads,
                head_dim=self.head_dim,
                num_projected=self.num_projected,
                one_kv_head=self.one_kv_head,
                rope=self.rope,
                dtype=self.dtype,
            )
        if self.mixer == "performer":
            performer = partial(Performer, self.num_features, self.stabilizer)
            return partial(heads, attend=partial(InSequence, performer, self.rope))
        if self.mixer == "nystrom":
            nystrom = partial(
                Nystrom,
                self.num_landmarks,
                self.pinv_iterations,
                self.residual_kernel,
                self.stabilizer,
            )
            attend = partial(InSequence, nystrom, self.rope, self.num_landmarks)
            return partial(heads, attend=attend, qkv_bias=False)
        attend = partial(InSequence, Softmax, self.rope)
        return partial(heads, attend=attend, qkv_bias=False, dropout=self.dropout)
