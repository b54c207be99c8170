import pytest
import torch

from debride.data.phantom import draw
from debride.errors import DebrideError
from debride.evidence.corruptions import corruptions, register_corruption, rotation

KNOWN = {each.name: each for each in corruptions()}


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    images, _, _ = draw(12, seed=3)
    return torch.from_numpy(images)[:, None].float() / 255


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_severity_changes_images_more(name, channels, pictures):
    images = pictures.expand(-1, channels, -1, -1)
    before = images.clone()
    changes = []
    for level in KNOWN[name].levels:
        changed = KNOWN[name].apply(images, level, torch.Generator().manual_seed(0))
        assert changed.shape == images.shape
        changes.append(float((changed.clamp(0, 1) - images).abs().mean()))
    assert torch.equal(images, before)
    assert changes[0] > 0.001
    assert changes == sorted(changes)
    assert changes[-1] > 1.5 * changes[0]


@pytest.mark.parametrize("name", [n for n, each in KNOWN.items() if each.volumes is None])
def test_volumes_are_changed_too(name):
    volume = torch.rand(2, 1, 5, 24, 28, generator=torch.Generator().manual_seed(1))
    changed = KNOWN[name].apply(volume, KNOWN[name].levels[-1], torch.Generator().manual_seed(0))
    assert changed.shape == volume.shape
    assert float((changed - volume).abs().mean()) > 0.01


def test_a_grey_image_stays_grey(pictures):
    images = pictures.expand(-1, 3, -1, -1)
    for each in KNOWN.values():
        changed = each.apply(images, each.levels[2], torch.Generator().manual_seed(0))
        spread = (changed - changed.mean(1, keepdim=True)).abs().max()
        assert spread < 0.02, each.name  # JPEG rounds colours


def test_a_rotation_turns_and_keeps_the_aspect():
    image = torch.zeros(1, 1, 41, 81)
    image[0, 0, 20, 60] = 1.0  # 20 pixels right of the centre
    turned = rotation(image, 90, torch.Generator())
    row, column = divmod(int(turned.flatten().argmax()), 81)
    assert abs(row - 20) == 20
    assert column == 40
    volume = image[:, :, None].expand(1, 1, 3, 41, 81)
    assert torch.allclose(rotation(volume, 90, torch.Generator())[:, :, 1], turned, atol=1e-6)


def test_five_levels_are_asked_for():
    with pytest.raises(DebrideError, match="3 levels: give 5"):
        register_corruption("fog", levels=(1.0, 2.0, 3.0), unit="density")
