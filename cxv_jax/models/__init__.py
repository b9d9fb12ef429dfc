"""Every model by name: ``create("cpv", num_classes=10, depth=3)``."""

import dataclasses
import inspect
from functools import partial
from typing import Any, Literal, get_args, get_origin

import flax.linen as nn
import jax.numpy as jnp

from cxv_jax.errors import InputError, nearest
from cxv_jax.models.cct import CCT
from cxv_jax.models.conv_mixer import ConvMixer
from cxv_jax.models.cvt import CvT
from cxv_jax.models.cxv import CXV
from cxv_jax.models.cxv_pyramid import CXVPyramid
from cxv_jax.models.fnet import FNet
from cxv_jax.models.mlp_mixer import MlpMixer
from cxv_jax.models.resnet import ResNet
from cxv_jax.models.vit import ViT

# Other words for some models.
MEANINGS = {
    **{"performer": "cpv", "nystrom": "cnv", "nystromformer": "cnv", "linear": "cltv"},
    **{"cxv": "cxv_base", "pyramid": "cxv_base", "transformer": "vit", "mixer": "mlp_mixer"},
    **{"resnet": "resnet18", "linformer": "vil", "cct": "cct_7_3x1"},
}
# A name is a module class with the arguments that make it what it is: sizes and dropout rates are
# those that docs/sources.md traces to papers and code for CIFAR-10.
MODELS: dict[str, partial[Any]] = {
    "cpv": partial(CXV, mixer="performer", attention_dropout=0.5),
    "cnv": partial(CXV, mixer="nystrom", attention_dropout=0.5),
    "cltv": partial(CXV, mixer="linear"),
    "cxv_base": partial(CXVPyramid),
    "cxv_small": partial(
        CXVPyramid, stem_dims=(16, 32), embed_dims=(48, 96), depths=(1, 2), num_heads=(2, 4)
    ),
    "cxv_nano": partial(
        CXVPyramid,
        stem_dims=(12, 24),
        stem_strides=(1, 2),
        embed_dims=(32, 64),
        strides=(1, 2),
        depths=(1, 2),
        num_heads=(1, 2),
    ),
    "vit": partial(ViT, mixer="softmax", dropout=0.25),
    "vit_rope": partial(ViT, mixer="softmax", rope=True),
    "hybrid_vit": partial(ViT, mixer="softmax", hybrid=True),
    "hybrid_vit_rope": partial(ViT, mixer="softmax", hybrid=True, rope=True),
    "vil": partial(ViT, mixer="linformer", one_kv_head=True),
    "vil_rope": partial(ViT, mixer="linformer", rope=True),
    "hybrid_vil": partial(ViT, mixer="linformer", hybrid=True),
    "hybrid_vil_rope": partial(ViT, mixer="linformer", hybrid=True, rope=True),
    "vin": partial(ViT, mixer="nystrom", dropout=0.25),
    "vin_rope": partial(ViT, mixer="nystrom", rope=True, embed_dropout=0.5),
    "hybrid_vin": partial(ViT, mixer="nystrom", hybrid=True, dropout=0.25),
    "hybrid_vin_rope": partial(
        ViT, mixer="nystrom", hybrid=True, rope=True, dropout=0.5, embed_dropout=0.5
    ),
    "vip": partial(ViT, mixer="performer"),
    "vip_rope": partial(ViT, mixer="performer", rope=True),
    "hybrid_vip": partial(ViT, mixer="performer", hybrid=True),
    "hybrid_vip_rope": partial(ViT, mixer="performer", hybrid=True, rope=True),
    "fnet": partial(FNet),
    "hybrid_fnet": partial(FNet, hybrid=True),
    "mlp_mixer": partial(MlpMixer),
    "mlp_mixer_nano": partial(MlpMixer, patch_size=4, depth=8, tokens_dim=64, channels_dim=512),
    "hybrid_mlp_mixer": partial(MlpMixer, hybrid=True),
    "resnet18": partial(ResNet),
    "resnet34": partial(ResNet, depths=(3, 4, 6, 3)),
    "resnet50": partial(ResNet, depths=(3, 4, 6, 3), bottleneck=True),
    "convmixer": partial(ConvMixer),
    "convmixer_k9p1": partial(ConvMixer, kernel_size=9, patch_size=1),
    "cct_7_3x1": partial(CCT),
    "cct_7_3x1_sine": partial(CCT, positions="sine"),
    "cct_4_3x2": partial(
        CCT, embed_dim=128, depth=4, num_heads=2, mlp_ratio=1, num_convs=2, conv_strides=(1, 1)
    ),
    "cct_2_3x2": partial(
        CCT, embed_dim=128, depth=2, num_heads=2, mlp_ratio=1, num_convs=2, conv_strides=(1, 1)
    ),
    "cct_128_4": partial(
        CCT,
        embed_dim=128,
        depth=4,
        mlp_ratio=4,
        num_convs=3,
        conv_strides=(1, 1, 1),
        pool_stride=1,
    ),
    "cvt": partial(CvT),
    "cvt_ms": partial(
        CvT,
        original=True,
        embed_dims=(64, 128, 256),
        embed_strides=(1, 2, 2),
        depths=(1, 2, 4),
        num_heads=(1, 2, 4),
        head_dim=0,
        mlp_ratios=(4, 4, 4),
        kv_strides=(2, 2, 2),
        drop_path=0.1,
    ),
}

# Fields that say which model this is, or that Flax adds; and a mixer where the name fixes it.
IDENTITY = {"hybrid", "rope", "bottleneck", "original", "num_classes", "parent", "name"}


def create(name: str, num_classes: int = 10, **overrides: Any) -> nn.Module:
    """Build a model by name.

    Args:
      name: a key of ``MODELS``.
      num_classes: outputs of the head.
      **overrides: fields of the model's class, see its docstring; ``dtype`` may be a string.

    Returns:
      A Flax module; ``apply(variables, images, train=False)`` takes float NHWC images and returns
      float32 logits ``[batch, num_classes]``. With ``mutable=["intermediates"]`` it returns also
      ``{"intermediates": {"features": (x,)}}``: what the last block has made, a map ``[batch,
      height, width, channels]`` or tokens ``[batch, length, channels]``, before any pooling.

    Raises:
      InputError: (a ``ValueError``) for an unknown model or field, naming the nearest one.

    Example:
      >>> create("cpv", num_classes=100, depth=2).depth
      2
    """
    allowed = defaults(name)
    if num_classes < 1:
        raise InputError(f"num_classes must be at least 1, got {num_classes}")
    for field, value in overrides.items():
        if field not in allowed:
            raise InputError(f"model {name!r} has no field {field!r}{nearest(field, allowed)}")
        _check_choice(name, field, value)
        _check_range(field, value, allowed[field])
        if isinstance(value, list):  # What JSON makes of a tuple; a module must be hashable.
            overrides[field] = tuple(value)
    if "dtype" in overrides:
        overrides["dtype"] = _dtype(overrides["dtype"])
    return MODELS[name](num_classes=num_classes, **overrides)


def defaults(name: str) -> dict[str, Any]:
    """The fields of model ``name`` that :func:`create` lets you override, with their defaults.

    ``dtype`` is given by name, so that the result is plain data.

    Raises:
      InputError: for an unknown model, naming the nearest one.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}{nearest(name, MODELS, MEANINGS)}")
    fixed = IDENTITY | MODELS[name].keywords.keys() & {"mixer"}
    fields = inspect.signature(MODELS[name]).parameters.values()
    overridable = {field.name: field.default for field in fields if field.name not in fixed}
    return {**overridable, "dtype": jnp.dtype(overridable["dtype"]).name}


def choices(name: str, field: str) -> tuple[str, ...]:
    """What a field of model ``name`` may be where its type is a ``Literal``, else nothing."""
    model: Any = MODELS[name].func
    kind = {each.name: each.type for each in dataclasses.fields(model)}.get(field)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _check_choice(name: str, field: str, value: Any) -> None:
    if (allowed := choices(name, field)) and value not in allowed:
        raise InputError(f"model field {field}={value!r} must be one of {', '.join(allowed)}")


def _check_range(field: str, value: Any, default: Any) -> None:
    """Sizes count from 1 (from 0 where that is the default), rates lie in [0, 1)."""
    if "drop" in field:
        if not 0 <= value < 1:
            raise InputError(f"model field {field}={value} must lie in [0, 1)")
        return
    least = 0 if default == 0 or "padding" in field else 1
    for size in value if isinstance(value, tuple | list) else [value]:
        if isinstance(size, int | float) and not isinstance(size, bool) and size < least:
            raise InputError(f"model field {field}={value} must be at least {least}")


def _dtype(name: Any) -> Any:
    try:
        return jnp.dtype(name)
    except TypeError:
        raise InputError(f"unknown dtype {name!r}; choose float32 or bfloat16") from None
