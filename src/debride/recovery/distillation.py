"""How far a small network is from the one it was cut from: its outputs, features and heatmaps.

All of it is differentiable in the small network's weights.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from debride.models.outputs import Task, logits


def soft_divergence(student: Tensor, teacher: Tensor, task: Task, temperature: float) -> Tensor:
    """Return T² times the mean divergence KL(teacher, student) of outputs softened by T.

    The square keeps the gradient's size when the temperature changes.

    Parameters
    ----------
    student, teacher : Tensor
        (B, K) logits.
    task : str
        Of ``"multiclass"`` the classes are one distribution, otherwise each output is one of its
        own (a sigmoid), and their divergences are summed.
    temperature : float

    References
    ----------
    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2.

    Examples
    --------
    >>> one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> round(float(soft_divergence(one, other, "multiclass", 1.0)), 3)  # 2 · tanh(1)
    1.523
    >>> float(soft_divergence(one, one, "multilabel", 3.0))
    0.0
    """
    student, teacher = student / temperature, teacher / temperature
    if task == "multiclass":
        now, before = student.log_softmax(1), teacher.log_softmax(1)
    else:
        now, before = (torch.stack([F.logsigmoid(v), F.logsigmoid(-v)]) for v in (student, teacher))
    apart = F.kl_div(now, before, reduction="sum", log_target=True) / len(student)
    return temperature**2 * apart


def feature_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared distance of features, as a part of the teacher's squared size.

    Parameters
    ----------
    student, teacher : Tensor
        (B, D); the teacher's at the places that the student kept.

    References
    ----------
    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3, without a regressor: a cut
    network's features are some of the original's.

    Examples
    --------
    >>> float(feature_distance(torch.zeros(2, 3), torch.ones(2, 3)))
    1.0
    """
    size = teacher.square().mean().clamp(min=torch.finfo(teacher.dtype).tiny)
    return (student - teacher).square().mean() / size


def relevance_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 − the mean cosine of two networks' heatmaps.

    Parameters
    ----------
    student, teacher : Tensor
        (B, *spatial).

    Examples
    --------
    >>> heat = torch.tensor([[[1.0, -1.0]]])
    >>> round(float(relevance_distance(2 * heat, heat)), 3), float(relevance_distance(-heat, heat))
    (0.0, 2.0)
    """
    return 1 - F.cosine_similarity(student.flatten(1), teacher.flatten(1), dim=1).mean()


def explained(
    model: nn.Module, images: Tensor, target: Tensor | None = None, *, differentiable: bool
) -> tuple[Tensor, Tensor]:
    """Return a network's logits and the heatmap x ⊙ ∂f/∂x of one logit an image.

    This is what the relevance pass gives under the ε rule for a network of convolutions, batch
    norms, ReLUs and poolings. The pass itself holds weights constant, and so cannot teach them.

    Parameters
    ----------
    model : nn.Module
    images : Tensor
        (B, C, *spatial).
    target : Tensor, optional
        (B,) the logits that are explained; the highest ones by default.
    differentiable : bool
        Whether the heatmap can be gone back through to the weights.

    Returns
    -------
    logits : Tensor
        (B, K).
    heatmap : Tensor
        (B, *spatial), summed over channels.
    """
    images = images.detach().requires_grad_()
    with torch.enable_grad(), _twice(differentiable):
        outputs = logits(model(images))
        chosen = outputs.argmax(1) if target is None else target
        (gradient,) = torch.autograd.grad(
            outputs.gather(1, chosen.unsqueeze(1)).sum(), images, create_graph=differentiable
        )
        heatmap = (images.detach() * gradient).sum(1)
    return outputs, heatmap


def _twice(differentiable: bool) -> AbstractContextManager[None]:
    """Have attention run in the form whose backward has a backward."""
    within: Callable[[SDPBackend], AbstractContextManager[None]] = sdpa_kernel
    return within(SDPBackend.MATH) if differentiable else nullcontext()
