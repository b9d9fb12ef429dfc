"""Which PyTorch keys each Flax leaf is made of, one table a model family."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from cxv_jax.errors import InputError


class Rule(NamedTuple):
    """Which PyTorch keys a Flax leaf is made of.

    ``path`` is a regular expression for the whole Flax path, ``keys`` are templates for
    ``Match.expand``; several keys are joined on the output axis.
    """

    path: str
    keys: tuple[str, ...]


def keys_of(path: str, rules: tuple[Rule, ...]) -> tuple[str, ...]:
    """The PyTorch keys of one Flax leaf: those of the first rule that fits its path."""
    for rule in rules:
        if match := re.fullmatch(rule.path, path):
            return tuple(_torch_leaf(match.expand(key), path) for key in rule.keys)
    raise AssertionError(f"no rule names the PyTorch key of {path}")


def _torch_leaf(key: str, path: str) -> str:
    """A template that ends in a dot gets PyTorch's name of this kind of leaf."""
    names = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
    leaf = path.rsplit("/", 1)[1]
    return key + names.get(leaf, leaf) if key.endswith(".") else key


def rules_of(model: Any) -> tuple[Rule, ...]:
    """The rules for this instance.

    Raises:
      InputError: for a module that is none of this library's models.
    """
    name = type(model).__name__
    if name not in RULES:
        raise InputError(f"no PyTorch key names are known for {name}: use a model from create()")
    return RULES[name](model)


def is_unused(key: str, model: Any) -> bool:
    """What PyTorch saves and nothing reads: step counters and tables that are computed here."""
    unused = r".*\.num_batches_tracked"
    if getattr(model, "rope", False):
        unused += r"|pos_embedding|layer_pos_emb\.emb"
    if getattr(model, "positions", "learned") == "sine":
        unused += r"|classifier\.positional_emb"
    return re.fullmatch(unused, key) is not None


def _cxv_rules(model: Any) -> tuple[Rule, ...]:
    attend = r"layers.\1.2.layers.0.0."
    mlp = r"layers.\1.2.layers.0.1.net."
    fused = model.mixer == "nystrom"
    qkv = ("to_qkv.",) if fused else ("to_q.", "to_k.", "to_v.")
    return (
        Rule(r"params/stem_(\d)/\w+", (r"conv.\1.",)),
        Rule(r"params/embed_(\d+)/\w+", (r"layers.\1.0.",)),
        Rule(r"params/norm_(\d+)/scale", (r"layers.\1.1.g",)),
        Rule(r"params/norm_(\d+)/bias", (r"layers.\1.1.b",)),
        Rule(r"params/attention_(\d+)/qkv/\w+", tuple(attend + key for key in qkv)),
        Rule(r"params/attention_(\d+)/out/\w+", (attend + ("to_out.0." if fused else "to_out."),)),
        Rule(r"params/attention_(\d+)/attend/residual", (attend + "res_conv.weight",)),
        Rule(
            r"constants/attention_(\d+)/attend/projection",
            (attend + "fast_attention.projection_matrix",),
        ),
        Rule(r"params/mlp_(\d+)/fc1/\w+", (mlp + "0.",)),
        Rule(r"params/mlp_(\d+)/fc2/\w+", (mlp + "3.",)),
        Rule(r"params/head/\w+", ("head.2.",)),
    )


def _trunk_rules(model: Any) -> tuple[Rule, ...]:
    layer = r"transformer.layers.\1."
    return (
        Rule(r"params/(cls_token|pos_embedding)", (r"\1",)),
        Rule(r"params/embed/patches/\w+", ("to_patch_embedding.1.",)),
        Rule(r"params/embed/conv_(\d+)/\w+", (r"to_patch_embedding.\1.",)),
        Rule(r"params/block_(\d+)/norm_mix/\w+", (layer + "0.norm.",)),
        Rule(r"params/block_(\d+)/norm_mlp/\w+", (layer + "1.norm.",)),
        Rule(r"params/block_(\d+)/mlp/fc1/\w+", (layer + "1.fn.net.0.",)),
        Rule(r"params/block_(\d+)/mlp/fc2/\w+", (layer + "1.fn.net.3.",)),
        Rule(r"params/head_norm/\w+", ("mlp_head.0.",)),
        Rule(r"params/head/\w+", ("mlp_head.1.",)),
    )


def _vit_rules(model: Any) -> tuple[Rule, ...]:
    attend, mix = r"transformer.layers.\1.0.fn.", r"block_(\d+)/mix"
    fused = model.mixer in ("softmax", "nystrom")
    qkv = ("to_qkv.",) if fused else ("to_q.", "to_k.", "to_v.")
    return (
        *_trunk_rules(model),
        Rule(rf"params/{mix}/qkv/\w+", tuple(attend + key for key in qkv)),
        Rule(rf"params/{mix}/query/\w+", (attend + "to_q.",)),
        Rule(rf"params/{mix}/key/\w+", (attend + "to_k.",)),
        Rule(rf"params/{mix}/projection", (attend + "proj_k",)),
        Rule(rf"params/{mix}/attend/attend/residual", (attend + "res_conv.weight",)),
        Rule(
            rf"constants/{mix}/attend/attend/projection",
            (attend + "fast_attention.projection_matrix",),
        ),
        Rule(rf"params/{mix}/out/\w+", (attend + ("to_out.0." if fused else "to_out."),)),
    )


def _mixer_rules(model: Any) -> tuple[Rule, ...]:
    """The reference is one flat sequence: 2 (hybrid: 4) layers, the blocks, norm, pooling, head."""
    first = 4 if model.hybrid else 2
    rules = [
        Rule(r"params/embed/patches/\w+", ("1.",)),
        Rule(r"params/embed/conv_(\d+)/\w+", (r"\1.",)),
        Rule(r"params/head_norm/\w+", (f"{first + model.depth}.",)),
        Rule(r"params/head/\w+", (f"{first + model.depth + 2}.",)),
    ]
    for i in range(model.depth):
        block, layer = f"params/block_{i}", first + i
        rules += [
            Rule(rf"{block}/norm_mix/\w+", (f"{layer}.0.norm.",)),
            Rule(rf"{block}/mix/mlp/fc1/\w+", (f"{layer}.0.fn.0.",)),
            Rule(rf"{block}/mix/mlp/fc2/\w+", (f"{layer}.0.fn.3.",)),
            Rule(rf"{block}/norm_mlp/\w+", (f"{layer}.1.norm.",)),
            Rule(rf"{block}/mlp/fc1/\w+", (f"{layer}.1.fn.0.",)),
            Rule(rf"{block}/mlp/fc2/\w+", (f"{layer}.1.fn.3.",)),
        ]
    return tuple(rules)


def _conv_mixer_rules(model: Any) -> tuple[Rule, ...]:
    rules = [
        Rule(r"\w+/stem/\w+", ("0.",)),
        Rule(r"\w+/stem_norm/\w+", ("2.",)),
        Rule(r"\w+/head/\w+", (f"{5 + model.depth}.",)),
    ]
    for i in range(model.depth):
        rules += [
            Rule(rf"\w+/depthwise_{i}/\w+", (f"{3 + i}.0.fn.0.",)),
            Rule(rf"\w+/depthwise_norm_{i}/\w+", (f"{3 + i}.0.fn.2.",)),
            Rule(rf"\w+/dense_{i}/\w+", (f"{3 + i}.1.",)),
            Rule(rf"\w+/dense_norm_{i}/\w+", (f"{3 + i}.3.",)),
        ]
    return tuple(rules)


def _resnet_rules(model: Any) -> tuple[Rule, ...]:
    rules = [
        Rule(r"\w+/stem/\w+", ("conv1.",)),
        Rule(r"\w+/stem_norm/\w+", ("bn1.",)),
        Rule(r"\w+/head/\w+", ("linear.",)),
    ]
    for stage in range(len(model.depths)):
        block, layer = rf"\w+/stage_{stage}_block_(\d+)", rf"layer{stage + 1}.\1."
        rules += [
            Rule(rf"{block}/shortcut/\w+", (layer + "shortcut.0.",)),
            Rule(rf"{block}/shortcut_norm/\w+", (layer + "shortcut.1.",)),
        ]
        for i in range(3):
            rules += [
                Rule(rf"{block}/conv_{i}/\w+", (f"{layer}conv{i + 1}.",)),
                Rule(rf"{block}/conv_{i}_norm/\w+", (f"{layer}bn{i + 1}.",)),
            ]
    return tuple(rules)


def _cct_rules(model: Any) -> tuple[Rule, ...]:
    block, layer = r"params/block_(\d+)", r"classifier.blocks.\1."
    return (
        Rule(r"params/tokenizer/conv_(\d+)/kernel", (r"tokenizer.conv_layers.\1.0.weight",)),
        Rule(r"params/pos_embedding", ("classifier.positional_emb",)),
        Rule(r"params/pool/\w+", ("classifier.attention_pool.",)),
        Rule(rf"{block}/norm_mix/\w+", (layer + "pre_norm.",)),
        Rule(rf"{block}/mix/qkv/\w+", (layer + "self_attn.qkv.",)),
        Rule(rf"{block}/mix/out/\w+", (layer + "self_attn.proj.",)),
        Rule(rf"{block}/norm_mlp/\w+", (layer + "norm1.",)),
        Rule(rf"{block}/mlp/fc1/\w+", (layer + "linear1.",)),
        Rule(rf"{block}/mlp/fc2/\w+", (layer + "linear2.",)),
        Rule(r"params/head_norm/\w+", ("classifier.norm.",)),
        Rule(r"params/head/\w+", ("classifier.fc.",)),
    )


def _cvt_rules(model: Any) -> tuple[Rule, ...]:
    if model.original:
        return _original_cvt_rules(model)
    block, layer = r"\w+/stage_(\d+)_block_(\d+)", r"layers.\1.2.layers.\2."
    names = {"query": "to_q", "key_value": "to_kv"}
    of = {name: f"{layer}0.{torch}.net." for name, torch in names.items()}
    return (
        Rule(r"params/embed_(\d+)/\w+", (r"layers.\1.0.",)),
        Rule(r"params/embed_norm_(\d+)/scale", (r"layers.\1.1.g",)),
        Rule(r"params/embed_norm_(\d+)/bias", (r"layers.\1.1.b",)),
        Rule(rf"{block}/norm_mix/scale", (layer + "0.norm.g",)),
        Rule(rf"{block}/norm_mix/bias", (layer + "0.norm.b",)),
        Rule(rf"{block}/norm_mlp/scale", (layer + "1.net.0.g",)),
        Rule(rf"{block}/norm_mlp/bias", (layer + "1.net.0.b",)),
        *(Rule(rf"{block}/mix/{name}_conv/\w+", (of[name] + "0.",)) for name in of),
        *(Rule(rf"{block}/mix/{name}_norm/\w+", (of[name] + "1.",)) for name in of),
        *(Rule(rf"{block}/mix/{name}/\w+", (of[name] + "2.",)) for name in of),
        Rule(rf"{block}/mix/out/\w+", (layer + "0.to_out.0.",)),
        Rule(rf"{block}/mlp/fc1/\w+", (layer + "1.net.1.",)),
        Rule(rf"{block}/mlp/fc2/\w+", (layer + "1.net.4.",)),
        Rule(r"params/head/\w+", ("to_logits.2.",)),
    )


def _original_cvt_rules(model: Any) -> tuple[Rule, ...]:
    block, layer = r"\w+/stage_(\d+)_block_(\d+)", r"stage\1.blocks.\2."
    names = {"query": "q", "key": "k", "value": "v"}
    return (
        Rule(r"params/embed_(\d+)/\w+", (r"stage\1.patch_embed.proj.",)),
        Rule(r"params/embed_norm_(\d+)/\w+", (r"stage\1.patch_embed.norm.",)),
        Rule(r"params/cls_token", (f"stage{len(model.depths) - 1}.cls_token",)),
        Rule(rf"{block}/norm_mix/\w+", (layer + "norm1.",)),
        Rule(rf"{block}/norm_mlp/\w+", (layer + "norm2.",)),
        *(
            Rule(rf"{block}/mix/{name}_{kind}/\w+", (f"{layer}attn.conv_proj_{q}.{torch}.",))
            for name, q in names.items()
            for kind, torch in [("conv", "conv"), ("norm", "bn")]
        ),
        *(
            Rule(rf"{block}/mix/{name}/\w+", (f"{layer}attn.proj_{q}.",))
            for name, q in names.items()
        ),
        Rule(rf"{block}/mix/out/\w+", (layer + "attn.proj.",)),
        Rule(rf"{block}/mlp/(fc\d)/\w+", (layer + r"mlp.\3.",)),
        Rule(r"params/head_norm/\w+", ("norm.",)),
        Rule(r"params/head/\w+", ("head.",)),
    )


# One entry a family: the class's name, and its rules for this instance.
RULES: dict[str, Callable[[Any], tuple[Rule, ...]]] = {
    "CXV": _cxv_rules,
    "ViT": _vit_rules,
    "FNet": _trunk_rules,
    "MlpMixer": _mixer_rules,
    "ConvMixer": _conv_mixer_rules,
    "ResNet": _resnet_rules,
    "CCT": _cct_rules,
    "CvT": _cvt_rules,
}
