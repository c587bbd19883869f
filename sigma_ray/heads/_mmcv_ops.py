"""MMSegmentation without compiled operators: what its heads import from `mmcv._ext`, in torch and torchvision.

`mmcv-lite` is the pure-Python mmcv. MMSegmentation's and MMDetection's model packages import `mmcv.ops`,
which wants the compiled extension `mmcv._ext` as soon as it is imported, although the heads used here need
next to nothing of it: non-maximum suppression (torchvision has it) and multi-scale deformable attention (mmcv
carries a version in plain torch, which its CPU path uses anyway). `install` puts a module of that name in
place; an operator that is not provided raises when it is called. With a compiled mmcv installed, `install`
does nothing.
"""

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

import torch


class _Extension(types.ModuleType):
    """Stands for `mmcv._ext`: known operators work, others say what they need."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: object, **kwargs: object) -> None:
            raise RuntimeError(f"mmcv's operator {name!r} needs a compiled mmcv; install mmcv in place of mmcv-lite.")

        return missing


class _Loader:
    """Makes the module's `__spec__` complete; there is nothing to load."""

    @staticmethod
    def create_module(spec: importlib.machinery.ModuleSpec) -> None:
        return None

    @staticmethod
    def exec_module(module: types.ModuleType) -> None:
        return None


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float, offset: int = 0) -> torch.Tensor:
    """Non-maximum suppression; `offset` 1 counts the border pixel, as in Detectron's first version."""
    import torchvision

    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    return torchvision.ops.nms(boxes, scores, iou_threshold)


def install() -> bool:
    """Provide `mmcv._ext` where it is missing; call it before importing mmseg or mmdet.

    Returns:
        Whether the pure-Python module is in use.
    """
    import mmcv

    if "mmcv._ext" in sys.modules:
        return isinstance(sys.modules["mmcv._ext"], _Extension)
    if importlib.util.find_spec("mmcv._ext") is not None:
        return False
    extension: Any = _Extension("mmcv._ext")
    extension.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", _Loader)  # type: ignore[arg-type]
    extension.__loader__ = _Loader
    extension.nms = _nms
    sys.modules["mmcv._ext"] = extension
    mmcv._ext = extension  # type: ignore[attr-defined]
    from mmcv.ops import multi_scale_deform_attn

    # The compiled CUDA kernel is missing too: tensors on a GPU take the same plain-torch path.
    multi_scale_deform_attn.IS_CUDA_AVAILABLE = False
    return True
