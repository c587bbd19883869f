"""How many parameters does each method train, and does the count agree with the published one?

Run:     python -m studies.parameter_table              (--json for machines, --backbone NAME for another one)
Cost:    seconds; the backbone is instantiated without weights.
Decides: whether an implementation is the method that the paper counted.
"""

from trainables.parameters import Published, main

PUBLISHED = (
    Published("sigma", 0.72, {"bottleneck_dim": 16}, "SIGMA Table 5"),
    Published("sigma", 1.48, {"bottleneck_dim": 32}, "SIGMA Tables 1 and 5"),
    Published("sigma", 3.25, {"bottleneck_dim": 64}, "SIGMA Table 5"),
    Published("sigma", 7.82, {"bottleneck_dim": 128}, "SIGMA Table 5"),
    Published("lora", 2.36, {}, "SIGMA Table 1"),
    Published("adapter", 2.38, {}, "SIGMA Table 1"),
    Published("fixed", 0.0, {}, "SIGMA Table 1"),
    Published("full", 85.70, {}, "SIGMA Table 1; timm's DINOv2 keeps a 518 px position embedding and LayerScale"),
)

if __name__ == "__main__":
    main(PUBLISHED)
