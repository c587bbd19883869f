"""Published trainable parameters, in millions, as the papers print them, and what reproduces each (none of it trained).

SIGMA: arXiv 2605.27893, Tables 1 and 5. ViT-Split: its repository's table, head included. VFM-Adapter: AAAI 2025,
Tables 1 and 4, whose totals include neck and head; rows below subtract the `Fix` row, so that they carry its rounding.
"""

from trainables.parameters import Published

DINO, SIGLIP, SAM, HUGE = "dinov2_base", "siglip2_base", "sam_base", "sam_huge"
DYNAMIC3, CONCAT = {"modulation": "dynamic3"}, {"modulation": "dynamic4", "pw_input": "concat"}
DYNAMIC4 = {"modulation": "dynamic4"}
WIDTHS = ((16, 0.72), (32, 1.48), (64, 3.25), (128, 7.82))

TIMM = "timm's DINOv2 keeps a 518 px position embedding"
NOT_SAM = "the published number is a plain ViT-B/16's, not SAM's encoder"
LITERAL = "r -> 8r modulation, the literal prose, costs 9 r^2 where the published counts allow 7 r^2"


def _sigma(options: dict, reason: str = "") -> list[Published]:
    source = "SIGMA Table 5"
    return [Published("sigma", m, {"bottleneck_dim": r} | options, source, reason=reason) for r, m in WIDTHS]


def _full() -> list[Published]:
    table = "SIGMA Table 1"
    bare = {"image_size": (224, 224), "without": ("ls1.", "ls2.", "norm.weight", "norm.bias")}
    return [
        Published("full", 85.70, {}, table, reason=TIMM),
        Published("full", 85.70, {}, f"{table}; 224 px, no LayerScale, no final norm (one of several fits)", **bare),
        Published("full", 86.43, {}, table, backbone=SIGLIP),
        Published("full", 85.80, {}, table, backbone=SAM, reason=NOT_SAM),
        Published("full", 85.80, {}, f"{table} (its SAM row)", backbone="vit_base_patch16_224"),
    ]


def _sigma_paper() -> list[Published]:
    table = "SIGMA Table 1"
    rel_pos = "timm's last SAM block has a relative-position table"
    return [
        Published("fixed", 0.0, {}, table),
        *(Published("bitfit", 0.10, {}, table, backbone=name) for name in (DINO, SIGLIP, SAM)),
        *(Published("partial", 7.09, {}, table, backbone=name) for name in (DINO, SIGLIP)),
        Published("partial", 7.09, {}, table, backbone=SAM, reason=rel_pos),
        *_sigma({}),
        *_sigma(DYNAMIC3),
        *_sigma(CONCAT),
        *_sigma(DYNAMIC4, LITERAL),
        Published("lora", 2.36, {}, table),
        Published("lora", 2.36, {"targets": ("qkv",)}, table),
        Published("lora", 2.36, {"rank": 32, "targets": ("q", "k", "v", "proj")}, table),
        Published("adapter", 2.38, {}, table),
        Published("adaptformer", 1.19, {}, table),
        Published("lorand", 3.59, {}, table),
        Published("lorand", 3.59, {"num_branches": 8, "kernel_dim": 8, "shared_kernel": False}, table),
        Published("lorand", 3.59, {"shared_kernel": False}, table, reason="kernels not shared by down and up"),
        Published("vfm_adapter", 2.78, {}, table),
    ]


def _vit_split() -> list[Published]:
    rows = (("dinov2_small", 10.2, 3, 4), ("dinov2_base", 40.5, 3, 4), ("dinov2_large", 88.6, 4, 8))
    return [
        Published(
            "vit_split",
            count,
            {"num_task_blocks": task, "num_prior_blocks": prior},
            "ViT-Split, ADE20K",
            backbone=name,
            head="deconv",
            digits=1,
        )
        for name, count, task, prior in rows
    ]


def _vfm_paper() -> list[Published]:
    ffn, wide = {"rank": 8, "targets": ("fc1", "fc2")}, {"bottleneck_dim": 192}
    base = [("bitfit", {}, 0.10, 0.10), ("lora", ffn, 0.73, 0.74), ("ssf", {}, 0.20, 0.21)]
    base += [("arc", {"bottleneck_dim": 128}, 0.22, 0.23), ("vfm_adapter", {}, 2.78, 2.78)]
    huge = [("bitfit", {}, 0.5), ("lora", ffn | {"rank": 80}, 32.8), ("ssf", {}, 0.9)]
    huge += [("lorand", {"num_branches": 8, "kernel_dim": 32, "bottleneck_dim": 320}, 53.1)]
    huge += [("arc", {"bottleneck_dim": 512}, 1.4), ("vfm_adapter", {"bottleneck_dim": 128}, 27.8)]
    table = "VFM-Adapter Table 1, less Fix"
    rows = [Published("fixed", 9.15, {}, "VFM-Adapter Table 1, Fix", head="atss")]
    rows += [Published("fixed", 7.64, {}, "VFM-Adapter Table 1, Fix", backbone=SAM, head="atss")]
    for method, options, dino, sam in base:
        rows += [Published(method, dino, options, table, difference=True)]
        rows += [Published(method, sam, options, table, backbone=SAM, difference=True)]
    rows += [Published("lorand", 3.00, wide, table, difference=True)]
    rows += [Published("lorand", 3.04, wide | {"norms": True}, table, backbone=SAM, difference=True)]
    source = "VFM-Adapter Table 4, less Fix"
    return rows + [Published(m, n, o, source, backbone=HUGE, digits=1, difference=True) for m, o, n in huge]


PUBLISHED = (*_full(), *_sigma_paper(), *_vit_split(), *_vfm_paper())
