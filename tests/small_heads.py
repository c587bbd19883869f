"""Options that make heads small enough for tests."""

SMALL = {
    "upernet": {"channels": 32, "pyramid_channels": 16, "auxiliary_channels": 32},
    "segformer": {"channels": 32},
    "mask2former": {
        "channels": 64,
        "num_queries": 20,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "num_points": 512,
    },
    "atss": {"channels": 32, "scales": (2, 1, 0.5), "stacked_convs": 1},
    "detr": {
        "channels": 32,
        "scales": (2, 1, 0.5),
        "num_queries": 20,
        "decoder_layers": 2,
        "feedforward": 64,
        "num_denoising": 10,
    },
    "mask_rcnn": {
        "channels": 32,
        "scales": (2, 1, 0.5),
        "anchor_size": 4,
        "representation": 64,
        "mask_convs": 1,
        "num_proposals": 50,
        "num_samples": 32,
    },
    "solo": {"channels": 32, "scales": (2, 1, 0.5), "num_grids": (12, 10, 8), "stacked_convs": 2, "finest_size": 16},
    "dpt": {"channels": 16, "neck_channels": (8, 8, 16, 16)},
    "linear_depth": {"num_bins": 16, "upsample": 2},
}
