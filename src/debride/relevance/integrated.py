"""Integrated gradients, and the conductance of every tapped module from the same sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from debride.errors import DebrideError
from debride.relevance.baselines import Baseline, baseline_images
from debride.relevance.memory import plan_batches
from debride.relevance.methods import Request, register_method
from debride.relevance.result import Relevance, from_maps, joined
from debride.relevance.targets import check_finite
from debride.relevance.tracing import Sums, gradients, new_pass, wide

RULES = ("trapezoid", "left", "gausslegendre")


@register_method("ig", title="Integrated gradients")
def integrated_gradients(
    request: Request,
    *,
    n_steps: int = 20,
    rule: str = "trapezoid",
    points: Sequence[float] | None = None,
    baseline: Baseline = "zero",
    memory: float | None = None,
) -> Relevance:
    """Integrate the gradient from a baseline to each image (Sundararajan et al. 2017, eq. 1).

    Taps are conductances (Dhamdhere et al. 2018, eq. 3), all from the one sweep: Σ_s ∂F/∂a ⊙
    (a_{s+1} − a_s) along the path. The predicted class is that of the clean image. Input, and
    each layer that separates input and output, sum to F(x) − F(x′) but for `Relevance.delta`.

    Twice the steps halve `delta` where ReLUs and max pools bend the path; at a black baseline the
    windows of a max pool tie, so that the gradient there is not that of its surroundings. Points
    that begin next to 0 (1e-4 of the first step), or gausslegendre, leave a tenth of it.

    Parameters
    ----------
    n_steps : int
        Steps of the sum: n_steps + 1 forward and backward passes, n_steps for gausslegendre.
    rule : str
        ``"trapezoid"`` takes the mean of the gradients at both ends of a step, ``"left"`` that at
        its beginning. ``"gausslegendre"`` weights the gradients at Gauss's n_steps points; there
        a conductance is the left sum between them.
    points : sequence of float, optional
        Own points of trapezoid or left, ascending, 0 for the baseline and 1 for the image,
        instead of n_steps equal steps.
    baseline : str, float or Tensor
        See `debride.relevance.baselines.baseline_images`.
    memory : float, optional
        Limit in GiB; a quarter of what is free where absent.

    Raises
    ------
    DebrideError
        For an unknown rule, a baseline that does not fit, fewer than two points.

    Examples
    --------
    >>> from debride import attribute
    >>> square = lambda out: (out**2).sum(1)
    >>> found = attribute(torch.nn.Identity(), torch.tensor([[3.0, 1.0]]), square, method="ig")
    >>> found.input.round()
    tensor([[9., 1.]])
    """
    alphas, weights = _points(rule, n_steps, points)
    model, images = request.model, request.images
    start = baseline_images(baseline, images)
    goal, output = request.decide()
    with torch.no_grad():
        at_baseline = goal(model(start.clone()))
    check_finite(at_baseline, model, start)
    probe = new_pass(model)
    plan = plan_batches(
        model, images, memory=memory, through=probe, taps=request.taps, whole=goal.whole
    )
    parts = []
    for which in plan.slices():
        begin, way = start[which], images[which] - start[which]
        total = torch.zeros_like(wide(way))
        conductance = _Conductance(trapezoid=rule == "trapezoid")
        for chunk in plan.chunks(len(alphas)):
            conductance.begin(len(chunk))
            _, c = gradients(
                model,
                torch.cat([begin + alphas[step] * way for step in chunk]),
                partial(goal, which=which, repeats=len(chunk)),
                through=new_pass(model, strict=request.strict),
                taps=request.taps,
                visit=conductance.visit,
            )
            for step, gradient in zip(chunk, c.view(len(chunk), *way.shape), strict=True):
                total += weights[step] * gradient
        parts.append(
            from_maps(
                (total * way).to(images.dtype),
                output[which],
                at_baseline=at_baseline[which],
                taps=conductance.sums.found,
                unknown=probe.unknown,
            )
        )
    return joined(parts)


class _Conductance:
    """Adds up gradient ⊙ difference of activations, chunk of steps by chunk of steps.

    The last step of a chunk is kept as the beginning of the next difference.
    """

    def __init__(self, *, trapezoid: bool) -> None:
        self.sums = Sums()
        self._trapezoid = trapezoid
        self._last: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}
        self.begin(1)

    def begin(self, steps: int) -> None:
        """Announce a chunk of so many steps."""
        self._steps, self._calls = steps, Counter[str]()

    def visit(self, name: str, activation: Tensor, gradient: Tensor) -> None:
        """Meet one call of a tapped module, for all steps of the chunk and all images."""
        call = (name, self._calls[name])
        self._calls[name] += 1
        a, g = (self._by_step(value) for value in (activation, gradient))
        last = self._last.get(call)
        self._last[call] = a[-1].clone(), g[-1].clone()
        if last is not None:
            a, g = torch.cat([last[0][None], a]), torch.cat([last[1][None], g])
        slope = (g[1:] + g[:-1]) / 2 if self._trapezoid else g[:-1]
        self.sums.add(name, (slope * a.diff(dim=0)).sum(0))

    def _by_step(self, value: Tensor) -> Tensor:
        return wide(value).reshape(self._steps, value.shape[0] // self._steps, *value.shape[1:])


def _points(
    rule: str, n_steps: int, points: Sequence[float] | None
) -> tuple[list[float], list[float]]:
    """Return the points between baseline (0) and image (1), and the weight of each gradient."""
    if rule not in RULES:
        raise DebrideError(f"no integration rule '{rule}': known are {', '.join(RULES)}")
    if n_steps < 1:
        raise DebrideError(f"n_steps is {n_steps}: give 1 or more")
    if rule == "gausslegendre":
        if points is not None:
            raise DebrideError("gausslegendre has points of its own: leave out points=")
        import numpy as np

        nodes, weights = np.polynomial.legendre.leggauss(n_steps)
        return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()
    alphas = [step / n_steps for step in range(n_steps + 1)] if points is None else list(points)
    steps = [after - before for before, after in pairwise(alphas)]
    if not steps or min(steps) <= 0:
        raise DebrideError("points must be two or more numbers in ascending order")
    if rule == "left":
        return alphas, [*steps, 0.0]
    return alphas, [(a + b) / 2 for a, b in zip([0.0, *steps], [*steps, 0.0], strict=True)]
