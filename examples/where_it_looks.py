"""Explain one decision, and account for where the relevance of the logit went.

Run it: ``python examples/where_it_looks.py``. It takes seconds and needs no files.
"""

import torch

import debride
from debride.models.spec import ModelSpec, build


def main() -> None:
    """Print the shares of the explained output."""
    spec = ModelSpec(source="torchvision:resnet18", outputs=2, channels=3, spatial=(64, 64))
    model = build(spec, seed=0).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    relevance = debride.attribute(model, images, target=1)
    print("relevance, one number per pixel and channel:", tuple(relevance.input.shape))
    for name, share in relevance.shares.items():
        print(f"  {name:10} {share:8.3f}")
    print(
        f"  explained  {float(relevance.output.sum()):8.3f}  (unaccounted: {relevance.delta:.1e})"
    )


if __name__ == "__main__":
    main()
