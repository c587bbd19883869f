"""RT-DETR and D-FINE over workers."""

import pytest
import torch
import torch.distributed as dist

from sigma_ray import heads
from sigma_ray.config import component
from sigma_ray.data import Info

SIZE = (128, 128)


def losses(rows):
    """The loss of a seeded head on some rows of a batch: one object in the first image, six in the second."""
    torch.manual_seed(0)
    config = component("head", "detr", channels=64, num_queries=10, decoder_layers=1, feedforward=32, num_denoising=0)
    info = Info(image_size=SIZE, num_classes=3, class_names=("a", "b", "c"))
    head = heads.load("detr").build(config, in_channels=(32,), strides=(16.0,), info=info)
    features, labels = torch.randn(2, 32, 8, 8), torch.tensor([[1, -1, -1, -1, -1, -1], [0, 1, 2, 0, 1, 2]])
    corners = torch.rand(2, 6, 2) * 60
    boxes = torch.cat([corners, corners + 20 + torch.rand(2, 6, 2) * 40], dim=-1)
    return head.loss([features[rows]], {"boxes": boxes[rows], "labels": labels[rows]}, SIZE)


def run_rank(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(losses(slice(rank, rank + 1)).detach(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_the_mean_over_two_workers_is_the_loss_of_the_whole_batch(tmp_path):
    torch.multiprocessing.start_processes(run_rank, (2, str(tmp_path)), nprocs=2, start_method="spawn")
    parts = torch.stack([torch.load(tmp_path / f"{rank}.pt") for rank in range(2)])
    torch.testing.assert_close(parts.mean(), losses(slice(None)).detach(), rtol=1e-4, atol=1e-4)
