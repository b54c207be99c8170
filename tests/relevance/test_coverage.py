"""Common networks, none of which Debride has a line for: the rows of docs/relevance_coverage.md."""

import pytest

from common_networks import Entry, networks
from relevance_coverage import check, verdict

QUICK = {
    ("torchvision", "resnet18"), ("torchvision", "densenet121"), ("torchvision", "swin_t"),
    ("torchvision", "mobilenet_v3_large"), ("timm", "mobilevit_xxs"), ("MONAI 2-D", "ViT"),
    ("MONAI 2-D", "EfficientNetBN"), ("MONAI 2-D", "AttentionUnet"), ("MONAI 2-D", "SwinUNETR"),
    ("MONAI 3-D", "UNet"),
}  # fmt: skip


def case(entry: Entry):
    quick = (entry.family, entry.name) in QUICK
    return pytest.param(
        entry, id=f"{entry.family} {entry.name}", marks=() if quick else pytest.mark.slow
    )


@pytest.mark.parametrize("entry", [case(entry) for entry in networks()])
def test_every_rule_set_explains_it_and_conserves(entry: Entry) -> None:
    assert verdict(check(entry)) == ""
