"""Methods of one pass back: relevance propagation, gradient × input, and its smoothed form."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from debride.errors import DebrideError
from debride.relevance.memory import plan_batches
from debride.relevance.methods import Request, register_method
from debride.relevance.result import Relevance, from_maps, joined
from debride.relevance.rules import RuleSet, rule_set
from debride.relevance.targets import part_of
from debride.relevance.tracing import Sums, gradients, new_pass, relevance_of, wide


@register_method("lrp", title="LRP", rules=lambda rules, **_: rule_set(rules))
def lrp(request: Request, *, memory: float | None = None) -> Relevance:
    """Layer-wise relevance propagation by `request.rules`; batches are split only by `memory`."""
    return one_pass(request, request.rules, memory)


@register_method("gradient", "gradient_x_input", title="Gradient × input")
def gradient(request: Request, *, memory: float | None = None) -> Relevance:
    """Gradient × input (Shrikumar et al. 2016); batches are split only by `memory`."""
    return one_pass(request, None, memory)


def one_pass(request: Request, rules: str | RuleSet | None, memory: float | None) -> Relevance:
    """Run one pass back with these rules, or plain gradients; `memory` in GiB splits the batch."""
    model, images, target = request.model, request.images, request.target
    slices: Iterable[slice] = [slice(None)]
    if memory is not None:
        plan = plan_batches(
            model, images, memory=memory, taps=request.taps, whole=callable(target),
            through=new_pass(model, rules),
        )  # fmt: skip
        slices = plan.slices()
    parts = []
    for which in slices:
        sums = Sums()
        found = relevance_of(
            model, images[which], part_of(target, which, images.ndim - 2),
            new_pass(model, rules, strict=request.strict, images=images),
            request.taps, sums.relevance,
        )  # fmt: skip
        parts.append(Relevance(**{**vars(found), "taps": sums.found}))
    return joined(parts)


@register_method("smoothgrad", title="SmoothGrad")
def smoothgrad(
    request: Request,
    *,
    n_samples: int = 20,
    noise: float = 0.15,
    seed: int = 0,
    squared: bool = False,
    times_input: bool = True,
    memory: float | None = None,
) -> Relevance:
    """Average the gradient over noisy copies of each image (Smilkov et al. 2017, 1706.03825).

    The predicted class is that of the clean image. A tap's gradient is averaged times its
    activation at each noisy point.

    Parameters
    ----------
    n_samples : int
        Noisy copies of each image.
    noise : float
        Standard deviation of the noise, in parts of each image's range of values.
    seed : int
        Of the method's own generator; the global one is left alone.
    squared : bool
        Average the squared gradient (Hooker et al. 2019).
    times_input : bool
        Multiply by the input, as everywhere else; False is the paper's own map.
    memory : float, optional
        Limit in GiB; a quarter of what is free where absent.

    Examples
    --------
    >>> from debride import attribute
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> attribute(model, torch.rand(1, 1, 2, 2), method="smoothgrad", n_samples=3).input.shape
    torch.Size([1, 1, 2, 2])
    """
    if n_samples < 1 or noise < 0:
        raise DebrideError("smoothgrad needs n_samples of 1 or more and noise of 0 or more")
    model, images = request.model, request.images
    goal, output = request.decide()
    through = new_pass(model)
    plan = plan_batches(
        model, images, memory=memory, through=through, taps=request.taps, whole=goal.whole
    )
    flat = images.flatten(1)
    spread = (noise * (flat.amax(1) - flat.amin(1))).view(-1, *[1] * (images.ndim - 1))
    # Each sample has a seed of its own, so that it does not matter how samples are batched.
    generator = torch.Generator(images.device)
    first = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**62, (n_samples,), generator=first).tolist()

    def noisy(sample: int) -> Tensor:
        generator.manual_seed(seeds[sample])
        drawn = torch.randn(
            images.shape, generator=generator, dtype=images.dtype, device=images.device
        )
        return images + spread * drawn

    def power(c: Tensor) -> Tensor:
        return wide(c).square() if squared else wide(c)

    def averaged(c: Tensor, repeats: int) -> Tensor:
        return c.view(repeats, c.shape[0] // repeats, *c.shape[1:]).sum(0) / n_samples

    parts = []
    for which in plan.slices():
        sums, total = Sums(), torch.zeros_like(wide(images[which]))
        for samples in plan.chunks(n_samples):
            repeats = len(samples)

            def visit(
                name: str, activation: Tensor, c: Tensor, repeats: int = repeats, sums: Sums = sums
            ) -> None:
                found = power(c) * activation if times_input else power(c)
                sums.add(name, averaged(found, repeats))

            _, c = gradients(
                model,
                torch.cat([noisy(sample)[which] for sample in samples]),
                partial(goal, which=which, repeats=repeats),
                through=new_pass(model, strict=request.strict),
                taps=request.taps,
                visit=visit,
            )
            total += averaged(power(c), repeats)
        relevance = (total * images[which] if times_input else total).to(images.dtype)
        parts.append(from_maps(relevance, output[which], taps=sums.found, unknown=through.unknown))
    return joined(parts)
