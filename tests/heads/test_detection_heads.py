"""What every detection head must keep to; a new one in `sigma_ray/heads/` is tested at once."""

import pytest
import torch
from safetensors.torch import save
from small_heads import SMALL

from sigma_ray import components, heads
from sigma_ray.data import Info
from sigma_ray.tasks import detection

NAMES = [name for name in heads.names() if components.config_class("head", name).task == "detection"]
CLASSES, STRIDE = 3, 8.0
SIZE = (40, 56)  # 5 x 7 cells: levels that do not halve evenly


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def build(name, seed=0, size=SIZE, in_channels=(16,), **options):
    module = heads.load(name)
    torch.manual_seed(seed)
    info = Info(image_size=size, num_classes=CLASSES)
    config = module.Config(**(SMALL.get(name, {}) | options))
    return module.build(config, in_channels=in_channels, strides=(STRIDE,), info=info)


def features(batch=2, size=SIZE):
    shape = (batch, 16, round(size[0] / STRIDE), round(size[1] / STRIDE))
    return [torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()]


def targets(batch=2):
    """Two objects in the first image, one in the others, beside a crowd and a padding row."""
    boxes = torch.tensor([[4.0, 4, 20, 16], [0, 0, 30, 30], [30, 10, 50, 34], [0, 0, 0, 0]]).repeat(batch, 1, 1)
    labels = torch.tensor([0, 1, 2, -1]).repeat(batch, 1)
    labels[1:, 2] = -1
    return with_masks({"boxes": boxes, "labels": labels, "crowd": torch.tensor([[False, True, False, False]] * batch)})


def with_masks(target, size=SIZE):
    """Masks that fill their boxes."""
    x0, y0, x1, y1 = target["boxes"][..., None, None].unbind(2)
    y, x = torch.arange(size[0])[:, None] + 0.5, torch.arange(size[1]) + 0.5
    return target | {"masks": (x > x0) & (x < x1) & (y > y0) & (y < y1)}


def loss_of(head, maps, target, size=SIZE):
    torch.manual_seed(5)  # denoising and sampling of proposals draw numbers
    return head.loss(maps, target, size)


def test_the_four_heads_are_found():
    assert set(NAMES) >= {"atss", "detr", "mask_rcnn", "solo"}


def test_the_gradient_reaches_features_and_every_parameter(name):
    head, maps = build(name).train(), features()
    loss = loss_of(head, maps, targets())
    assert loss.shape == () and loss.dtype == torch.float32 and loss.isfinite()
    loss.backward()
    assert maps[-1].grad.abs().sum() > 0 and maps[-1].grad.isfinite().all()
    # A parameter without a gradient would stop DistributedDataParallel at its second step.
    missed = [key for key, p in head.named_parameters() if p.requires_grad and p.grad is None]
    assert missed == []


def empty(batch=2):
    target = {"boxes": torch.zeros(batch, 4, 4), "labels": torch.full((batch, 4), -1)}
    return with_masks(target)


def test_images_without_objects_are_harmless(name):
    head, maps = build(name).train(), features()
    loss = loss_of(head, maps, empty())
    loss.backward()
    assert loss.isfinite() and maps[-1].grad.isfinite().all()
    missed = [key for key, p in head.named_parameters() if p.requires_grad and p.grad is None]
    assert missed == []
    one = {key: torch.cat([targets()[key][:1], values[:1]]) for key, values in empty().items()}
    assert loss_of(head, maps, one).isfinite()
    no_rows = {key: values[:, :0] for key, values in empty().items()}
    torch.testing.assert_close(loss_of(head, maps, no_rows), loss, rtol=1e-5, atol=1e-6)


def test_padding_rows_crowds_and_empty_boxes_change_nothing(name):
    head, maps, target = build(name).train(), features(), targets()
    order = torch.tensor([3, 0, 3, 2, 3])  # padding before, between and after; the crowd is gone
    padded = {key: values[:, order] for key, values in target.items()}
    padded["boxes"][:, 0] = torch.tensor([1.0, 2, 3, 4])  # what a padding row holds is of no account
    padded["boxes"][:, 4] = torch.tensor([9.0, 5, 9, 20])  # a box without width is no object
    padded["labels"][:, 4] = 1
    assert not padded["crowd"].any()
    with torch.no_grad():
        wanted = loss_of(head, maps, target)
        assert torch.equal(loss_of(head, maps, padded), wanted)
        other = {key: values[:, [0]] for key, values in target.items()}
        assert not torch.equal(loss_of(head, maps, other), wanted)


def test_predictions_lie_within_the_image(name):
    head = build(name).eval()
    with torch.no_grad():
        found = head.predict(features(), SIZE)
    assert len(found) == 2
    with_masks = components.config_class("head", name).with_masks
    for image in found:
        count = len(image["scores"])
        assert count <= 100
        assert image["boxes"].shape == (count, 4) and image["boxes"].dtype == torch.float32
        assert image["labels"].shape == (count,) and image["labels"].dtype == torch.int64
        assert image["scores"].dtype == torch.float32 and (image["scores"].diff() <= 0).all()
        assert ((image["labels"] >= 0) & (image["labels"] < CLASSES)).all()
        x0, y0, x1, y1 = image["boxes"].T
        assert (x0 >= 0).all() and (x0 <= x1).all() and (x1 <= SIZE[1]).all()
        assert (y0 >= 0).all() and (y0 <= y1).all() and (y1 <= SIZE[0]).all()
        assert ("masks" in image) == with_masks
        if with_masks:
            assert image["masks"].shape == (count, *SIZE) and image["masks"].dtype == torch.bool


def test_bfloat16_autocast(name):
    head, maps = build(name).train(), features()
    exact = loss_of(head, maps, targets())
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(head, maps, targets())
        found = head.eval().predict([maps[0].detach()], SIZE)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=0.2)
    assert maps[-1].grad.isfinite().all()
    assert all(values.dtype != torch.bfloat16 for image in found for values in image.values())


def test_the_same_seed_gives_the_same_head_and_loss(name):
    first, second, third = (build(name, seed).train() for seed in (0, 0, 1))
    states = [head.state_dict() for head in (first, second, third)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])
    assert torch.equal(loss_of(first, features(), targets()), loss_of(second, features(), targets()))
    assert save({key: value.contiguous() for key, value in states[0].items()})


OVERFIT = {"atss": (1e-2, 60), "detr": (2e-3, 150), "mask_rcnn": (3e-3, 100), "solo": (1e-2, 100)}


def scene(seed, size):
    """Rectangles on a grid, so that none overlap, painted into maps: class and corner offsets show in the channels."""
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for row in range(2):
        for column in range(2):
            x, y = (torch.randint(0, 9, (2,), generator=generator) + torch.tensor([48 * column, 36 * row])).tolist()
            w, h = torch.randint(12, 23, (2,), generator=generator).tolist()
            boxes.append([x, y, x + w, y + h])
            labels.append(int(torch.randint(0, CLASSES, (1,), generator=generator)))
    boxes, labels = torch.tensor(boxes).float(), torch.tensor(labels)
    labels[0] = -1 if seed % 2 else labels[0]
    image = torch.zeros(CLASSES + 1, *size)
    for (x0, y0, x1, y1), label in zip(boxes.int().tolist(), labels.tolist(), strict=True):
        if label >= 0:
            image[label, y0:y1, x0:x1] = 1
    cells = torch.nn.functional.pixel_unshuffle(torch.nn.functional.avg_pool2d(image, 2), 4)
    return cells, boxes, labels


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "detr" else name for name in sorted(OVERFIT)]
)
def test_it_learns_a_handful_of_images(name):
    size, (rate, steps) = (72, 88), OVERFIT[name]  # 9 x 11 cells: wrong strides or extents would cost precision
    cells, boxes, labels = (torch.stack(parts) for parts in zip(*(scene(i, size) for i in range(4)), strict=True))
    target = with_masks({"boxes": boxes, "labels": labels}, size)
    options = {"num_queries": 20} if name == "detr" else {}
    head = build(name, size=size, in_channels=(cells.shape[1],), **options).train()
    before, after = average_precision(head, cells, target, size), None
    optimiser = torch.optim.AdamW(head.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for _ in range(steps):
        optimiser.zero_grad()
        head.loss([cells], target, size).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    after = average_precision(head, cells, target, size)
    assert before["ap50"] < 0.2 and after["ap50"] > 0.8, (before, after)
    if components.config_class("head", name).with_masks:
        assert after["mask_ap50"] > 0.8


def average_precision(head, cells, target, size):
    metric = detection.Metric(Info(image_size=size, num_classes=CLASSES), torch.device("cpu"))
    head.eval()
    with torch.no_grad():
        metric.update(head.predict([cells], size), target)
    head.train()
    return metric.compute()


def test_the_stages_of_a_hierarchical_backbone_serve_as_well(name):
    size, channels, strides = (64, 96), (8, 12, 16, 20), (4.0, 8.0, 16.0, 32.0)
    shapes = [(2, d, int(size[0] / s), int(size[1] / s)) for d, s in zip(channels, strides, strict=True)]
    maps = [torch.randn(shape, generator=torch.Generator().manual_seed(3)).requires_grad_() for shape in shapes]
    module = heads.load(name)
    info = Info(image_size=size, num_classes=CLASSES)
    head = module.build(module.Config(**SMALL[name]), in_channels=channels, strides=strides, info=info).train()
    loss_of(head, maps, with_masks(targets(), size), size).backward()
    assert all(level.grad.isfinite().all() and level.grad.any() for level in maps[1:])
    assert [key for key, p in head.named_parameters() if p.requires_grad and p.grad is None] == []
    assert len(head.eval().predict(maps, size)) == 2


def test_d_fine_is_a_variant_of_detr():
    head, maps = build("detr", variant="d_fine").train(), features()
    loss_of(head, maps, targets()).backward()
    assert maps[0].grad.any()
    assert [key for key, p in head.named_parameters() if p.requires_grad and p.grad is None] == []
    assert type(head.detector).__name__ == "DFineForObjectDetection"
    assert save({key: value.contiguous() for key, value in head.state_dict().items()})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("detr", {"channels": 20}, "multiple of 8"),
        ("detr", {"scales": (2, 0.5)}, "fall by halves"),
        ("detr", {"num_queries": 1000}, r"at most the number of cells of all levels \(.*40 x 56.* but got 1000"),
        ("atss", {"scales": ()}, "one level at least"),
        ("mask_rcnn", {"scales": ()}, "one level at least"),
        ("solo", {"scales": (2, 1), "num_grids": (4, 4)}, "three at least"),
        ("solo", {"num_grids": (4, 4)}, "one positive number for each of the 3"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_the_focal_loss_needs_no_compiled_operator():
    """MMDetection's loss on one-hot targets takes the same path on every device; its value is torchvision's."""
    from torchvision.ops import sigmoid_focal_loss

    head = build("atss").head
    logits = torch.randn(12, CLASSES, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(12) % (CLASSES + 1)  # the last label is the background
    ones = torch.nn.functional.one_hot(labels, CLASSES + 1)[:, :-1].float()
    expected = sigmoid_focal_loss(logits, ones, alpha=0.25, gamma=2.0, reduction="sum") / 5
    torch.testing.assert_close(head.loss_cls(logits, labels, torch.ones(12), avg_factor=5), expected)
