"""The pure-Python stand-in for mmcv's compiled operators."""

import subprocess
import sys

import pytest
import torch
import torchvision

from sigma_ray.heads._mmcv_ops import install

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def extension():
    assert install()
    assert install(), "a second call changes nothing"
    return sys.modules["mmcv._ext"]


def test_a_compiled_mmcv_is_left_alone(tmp_path):
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_ext.py").write_text("nms = 'compiled'\n")
    code = (
        "from sigma_ray.heads._mmcv_ops import install\n"
        "assert install() is False\n"
        "import mmcv._ext\n"
        "assert mmcv._ext.nms == 'compiled' and install() is False\n"
        "print(mmcv.__file__)"
    )
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert str(tmp_path) in run.stdout


def test_an_operator_that_is_missing_says_what_it_needs(extension):
    with pytest.raises(RuntimeError, match=r"'roi_align_forward' needs a compiled mmcv"):
        extension.roi_align_forward(torch.zeros(1))
    assert not hasattr(extension, "__wrapped__")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("offset", [0, 1])
def test_nms_is_torchvisions(extension, seed, offset):
    from mmcv.ops import nms

    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(40, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + torch.rand(40, 2, generator=generator) * 10], 1)
    scores = torch.rand(40, generator=generator)
    kept = nms(boxes, scores, 0.4, offset=offset)[1]
    grown = boxes + torch.tensor([0, 0, offset, offset])
    assert torch.equal(kept, torchvision.ops.nms(grown, scores, 0.4))
    assert 0 < len(kept) < 40
