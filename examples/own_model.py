"""Prune a module of your own, on a DataLoader of your own, without the command line.

Run it: ``python examples/own_model.py``. It takes seconds and needs no files.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import debride


def images(count: int, seed: int) -> DataLoader:
    """Noise, half of it with a bright bar: the class is whether there is one."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(count, 1, 16, 16, generator=generator)
    y = torch.arange(count) % 2
    x[y == 1, :, 6:9] += 0.7
    return DataLoader(TensorDataset(x, y), batch_size=32)


def trained_network() -> nn.Module:
    """A stand-in for the network that you have."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2),
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(5):
            for x, y in images(128, seed=1):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
    return model.eval()


def main() -> None:
    """Cut the network to half of its multiply-accumulates and measure it."""
    model = trained_network()
    reference, validation, test = images(40, seed=1), images(64, seed=2), images(64, seed=3)

    pruned = debride.prune(model, reference, validation, criterion="lrp", macs=0.5, steps=4)
    print(f"kept {pruned.plan.macs_kept:.1%} of the multiply-accumulates")

    evidence = debride.evaluate(pruned.model, test, original=model, explain=8, speed=False)
    before, after = evidence.performance["original"], evidence.performance["model"]
    print(f"accuracy {before['accuracy']:.3f} before, {after['accuracy']:.3f} after")

    debride.save(pruned, "runs/own_model")
    again = debride.load("runs/own_model", model)
    x, _ = next(iter(test))
    print("the same outputs after loading:", torch.equal(again(x), pruned.model(x)))


if __name__ == "__main__":
    main()
