"""Vision transformers' and hybrids' weights in the naming of torchvision, timm and big_vision or vision_transformer.

They are for networks with `scan=False`; `vision.models.transformer.stack_blocks` makes the others' parameters.
"""

from vision.models.vit import ViT
from vision.weights import resnet
from vision.weights.rules import (
    CONV,
    DENSE,
    FROM_HEADS,
    SAME,
    TO_HEADS,
    TO_HEADS_BIAS,
    Kind,
    Rule,
    layer,
    leading,
    part,
)


def _norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(rf"{theirs}\.weight", f"params/{ours}/scale"), Rule(rf"{theirs}\.bias", f"params/{ours}/bias"))


def _projections(weight: str, bias: str, ours: str, names: tuple[str, ...]) -> tuple[Rule, ...]:
    """The rules of one dense layer of theirs that gives what several of ours give."""
    rules = ()
    for index, name in enumerate(names):
        rules += (
            Rule(weight, f"params/{ours}/{name}/kernel", part(index, len(names), TO_HEADS)),
            Rule(bias, f"params/{ours}/{name}/bias", part(index, len(names), TO_HEADS_BIAS)),
        )
    return rules


_LAYER = r"encoder\.layers\.encoder_layer_(\d+)"
_QUERY_KEY_VALUE = ("query", "key", "value")

TORCHVISION: tuple[Rule, ...] = (
    Rule("class_token", "params/class_token", leading(2)),
    Rule(r"encoder\.pos_embedding", "params/positions", leading(1)),
    *layer("conv_proj", "patch_embedding", CONV),
    *_norm(rf"{_LAYER}\.ln_(\d)", "block_<1+1>/norm_<2>"),
    *_projections(
        rf"{_LAYER}\.self_attention\.in_proj_weight",
        rf"{_LAYER}\.self_attention\.in_proj_bias",
        "block_<1+1>/attention",
        _QUERY_KEY_VALUE,
    ),
    *layer(rf"{_LAYER}\.self_attention\.out_proj", "block_<1+1>/attention/out", FROM_HEADS),
    # The published files name the layers, later ones number them.
    *layer(rf"{_LAYER}\.mlp\.(?:0|linear_1)", "block_<1+1>/mlp/dense_1", DENSE),
    *layer(rf"{_LAYER}\.mlp\.(?:3|linear_2)", "block_<1+1>/mlp/dense_2", DENSE),
    *_norm(r"encoder\.ln", "norm"),
    *layer(r"heads\.head", "head", DENSE),
)

_TIMM: tuple[Rule, ...] = (
    Rule("cls_token", "params/class_token", leading(2)),
    Rule("pos_embed", "params/positions", leading(1)),
    *layer(r"patch_embed\.proj", "patch_embedding", CONV),
    *_norm(r"blocks\.(\d+)\.norm(\d)", "block_<1+1>/norm_<2>"),
    *_projections(
        r"blocks\.(\d+)\.attn\.qkv\.weight",
        r"blocks\.(\d+)\.attn\.qkv\.bias",
        "block_<1+1>/attention",
        _QUERY_KEY_VALUE,
    ),
    *layer(r"blocks\.(\d+)\.attn\.proj", "block_<1+1>/attention/out", FROM_HEADS),
    *layer(r"blocks\.(\d+)\.mlp\.fc(\d)", "block_<1+1>/mlp/dense_<2>", DENSE),
    *_norm("norm", "norm"),
    Rule(r"attn_pool\.latent", "params/pool/query"),
    *_projections(r"attn_pool\.q\.weight", r"attn_pool\.q\.bias", "pool/attention", ("query",)),
    *_projections(r"attn_pool\.kv\.weight", r"attn_pool\.kv\.bias", "pool/attention", ("key", "value")),
    *layer(r"attn_pool\.proj", "pool/attention/out", FROM_HEADS),
    *_norm(r"attn_pool\.norm", "pool/norm"),
    *layer(r"attn_pool\.mlp\.fc(\d)", "pool/mlp/dense_<1>", DENSE),
    *layer("head", "head", DENSE),
)


def timm(model: ViT) -> tuple[Rule, ...]:
    """The rules for a ViT, or for a hybrid: timm names a root that is a stem alone differently from a longer one."""
    if model.root_stages is None:
        return _TIMM
    backbone = r"patch_embed\.backbone\."
    stem = rf"{backbone}stem\." if model.root_stages else backbone
    return (
        *_TIMM,
        Rule(rf"{stem}conv\.weight", "params/root/stem_conv/kernel", CONV),
        *_norm(rf"{stem}norm", "root/stem_norm"),
        *resnet.stages(backbone, "root/"),
    )


def _flax(theirs: str, ours: str, *names: str, kind: Kind = SAME) -> tuple[Rule, ...]:
    return tuple(Rule(f"{_PREFIX}{theirs}/{name}", f"params/{ours}/{name}", kind) for name in names)


_PREFIX = "(?:params/)?"
_DENSE, _SCALE = ("kernel", "bias"), ("scale", "bias")
_BLOCK = r"Transformer/encoderblock_(\d+)"
_PROJECTION = "query|key|value|out"
_UNIT = r"block(\d)/unit(\d+)"
_FLAT = Kind(lambda x: x.reshape(-1), lambda x: x[None, None, None])  # group norms are (1, 1, 1, channels)

# Both projects' .npz files: vision_transformer counts the layers of a block through (LayerNorm_0,
# MultiHeadDotProductAttention_1, ...), big_vision each kind for itself.
BIG_VISION: tuple[Rule, ...] = (
    Rule(f"{_PREFIX}cls", "params/class_token", leading(2)),
    Rule(rf"{_PREFIX}(?:Transformer/posembed_input/)?pos_embedding", "params/positions", leading(1)),
    *_flax("embedding", "patch_embedding", *_DENSE),
    *_flax(rf"{_BLOCK}/LayerNorm_0", "block_<1+1>/norm_1", *_SCALE),
    *_flax(rf"{_BLOCK}/MultiHeadDotProductAttention_(?:1|0)/({_PROJECTION})", "block_<1+1>/attention/<2>", *_DENSE),
    *_flax(rf"{_BLOCK}/LayerNorm_(?:2|1)", "block_<1+1>/norm_2", *_SCALE),
    *_flax(rf"{_BLOCK}/MlpBlock_(?:3|0)/Dense_(\d)", "block_<1+1>/mlp/dense_<2+1>", *_DENSE),
    *_flax("Transformer/encoder_norm", "norm", *_SCALE),
    Rule(f"{_PREFIX}MAPHead_0/probe", "params/pool/query"),
    *_flax(f"MAPHead_0/MultiHeadDotProductAttention_0/({_PROJECTION})", "pool/attention/<1>", *_DENSE),
    *_flax("MAPHead_0/LayerNorm_0", "pool/norm", *_SCALE),
    *_flax(r"MAPHead_0/MlpBlock_0/Dense_(\d)", "pool/mlp/dense_<1+1>", *_DENSE),
    *_flax("conv_root", "root/stem_conv", "kernel"),
    *_flax("gn_root", "root/stem_norm", *_SCALE, kind=_FLAT),
    *_flax(rf"{_UNIT}/conv(\d)", "root/stage_<1>/block_<2>/conv_<3>", "kernel"),
    *_flax(rf"{_UNIT}/gn(\d)", "root/stage_<1>/block_<2>/norm_<3>", *_SCALE, kind=_FLAT),
    *_flax(rf"{_UNIT}/conv_proj", "root/stage_<1>/block_<2>/shortcut_conv", "kernel"),
    *_flax(rf"{_UNIT}/gn_proj", "root/stage_<1>/block_<2>/shortcut_norm", *_SCALE, kind=_FLAT),
    *_flax("head", "head", *_DENSE),
)
