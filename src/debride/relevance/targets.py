"""What is explained: a class, a region of a segmentation, or a function of the output."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from debride.errors import DebrideError
from debride.models.outputs import first_tensor, logits


@dataclass(frozen=True)
class Region:
    """The summed logits of one class inside a mask, for networks that segment.

    Attributes
    ----------
    mask : Tensor or None
        (B, *spatial) or (*spatial), true (or a weight) where the logits count; None stands for
        where the network predicts the class. An image without any such place explains 0.
    label : int
        The class. A network with a single map explains it for class 1 and its negative for 0.

    Examples
    --------
    >>> from debride import attribute
    >>> network = nn.Conv2d(1, 2, 1, bias=False)
    >>> attribute(network, torch.ones(1, 1, 4, 4), Region(torch.eye(4), 1)).input.shape
    torch.Size([1, 1, 4, 4])
    """

    mask: Tensor | None
    label: int


Target = Tensor | Sequence[int] | int | Region | Callable[[Any], Tensor] | None
"""One class for all images or one for each, the predicted class (None), a region, a function."""

ALL = slice(None)


@dataclass(frozen=True)
class Goal:
    """A target decided once, on the clean images, and held at every other point.

    Attributes
    ----------
    count : int
        Images in the batch.
    held : Tensor, Region or callable
        (B,) classes, a region with a (B, *spatial) mask, or the caller's function.
    """

    count: int
    held: Tensor | Region | Callable[[Any], Tensor]

    @property
    def whole(self) -> bool:
        """Whether the target must see whole batches: a function may know the images' order."""
        return callable(self.held)

    def __call__(self, output: Any, which: slice = ALL, repeats: int = 1) -> Tensor:
        """Return the values to explain, (repeats · n,).

        Parameters
        ----------
        output : Any
            Of the network, for the images `which` (n of them) repeated in step-major order: all
            images at the first point, then all at the second. A function sees one point's whole
            batch at a time, in its original order.
        """
        if isinstance(self.held, Tensor):
            return _class_scores(_logits(output), self.held[which].repeat(repeats))
        if isinstance(self.held, Region):
            mask = self.held.mask
            assert mask is not None
            mask = mask[which].repeat(repeats, *[1] * (mask.ndim - 1))
            return (_class_map(output, self.held.label) * mask).flatten(1).sum(1)
        if repeats == 1:
            return self._ask(self.held, output)
        total = self.count * repeats
        parts = [
            part_of_output(output, slice(i * self.count, (i + 1) * self.count), total)
            for i in range(repeats)
        ]
        return torch.cat([self._ask(self.held, part) for part in parts])

    def _ask(self, function: Callable[[Any], Tensor], output: Any) -> Tensor:
        values = function(output)
        if values.numel() != self.count:
            raise DebrideError(
                f"the target function returned shape {tuple(values.shape)} for {self.count} "
                "images: return one value for each image, (B,)"
            )
        return values.reshape(self.count)


def decide(output: Any, target: Target, count: int) -> Goal:
    """Fix what is explained, from the network's output for the clean images.

    Raises
    ------
    DebrideError
        For classes that the network does not have, and outputs that are not the target's kind.

    Examples
    --------
    >>> decide(torch.tensor([[1.0, 3.0], [2.0, 0.0]]), None, 2).held
    tensor([1, 0])
    """
    if isinstance(target, Region):
        return Goal(count, _held_region(output, target, count))
    if callable(target) and not isinstance(target, Tensor):
        return Goal(count, target)
    scores = _logits(output)
    if scores.shape[0] != count:
        raise DebrideError(f"the network gives {scores.shape[0]} outputs for {count} images")
    classes = scores.shape[1]
    if target is None:
        chosen = (scores[:, 0] > 0).long() if classes == 1 else scores.detach().argmax(1)
        return Goal(count, chosen)
    chosen = torch.as_tensor(target, device=scores.device).reshape(-1)
    if chosen.is_floating_point():
        raise DebrideError("targets are classes: give whole numbers, or a function of the output")
    if chosen.numel() == 1:
        chosen = chosen.expand(count)
    if chosen.numel() != count:
        raise DebrideError(f"{chosen.numel()} targets were given for {count} images")
    _in_range(chosen, classes)
    return Goal(count, chosen.long())


def part_of(target: Target, which: slice, spatial: int) -> Target:
    """Return the target of a slice of a batch whose images have so many spatial dimensions."""
    if isinstance(target, Region):
        if target.mask is None or target.mask.ndim == spatial:
            return target
        return Region(target.mask[which], target.label)
    if isinstance(target, int) or target is None or callable(target):
        return target
    chosen = torch.as_tensor(target).reshape(-1)
    return chosen if chosen.numel() == 1 else chosen[which]


def check_images(images: Tensor) -> Tensor:
    """Return the images as a plain tensor, or say what is wrong with them."""
    if not isinstance(images, Tensor) or images.ndim < 2 or images.shape[0] == 0:
        raise DebrideError("images must be a tensor of shape (B, C, *spatial) with B of 1 or more")
    if not images.is_floating_point():
        raise DebrideError(f"images are {images.dtype}: give preprocessed floating-point values")
    return images.as_subclass(Tensor)  # MONAI's MetaTensor answers torch functions itself


def check_finite(values: Tensor, model: nn.Module, images: Tensor) -> None:
    """Raise a sentence that names the first module whose output is NaN or infinite.

    A second forward looks for it, only where a value to explain is not finite.
    """
    if bool(torch.isfinite(values).all()):
        return
    if not bool(torch.isfinite(images).all()):
        raise DebrideError("the images hold NaN or infinite values: look at how they are prepared")
    found: list[str] = []

    def look(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if not found and tensor is not None and not bool(torch.isfinite(tensor).all()):
                found.append(f"'{name}' ({type(module).__name__})" if name else "the network")

        return hook

    handles = [m.register_forward_hook(look(n, m)) for n, m in model.named_modules()]
    try:
        with torch.no_grad():
            model(images.detach().clone())
    finally:
        for handle in handles:
            handle.remove()
    raise DebrideError(
        "the value to explain is NaN or infinite: the first module whose output is not finite is "
        f"{found[0]}"
        if found
        else "the value to explain is NaN or infinite, though every module's output is finite: "
        "look at the target function"
    )


def _logits(output: Any) -> Tensor:
    tensor = first_tensor(output)
    shape = () if tensor is None else tuple(tensor.shape)
    if len(shape) > 2 and math.prod(shape[2:]) > 1:
        raise DebrideError(
            f"the network's output has shape {shape}, not (B, classes): give target=Region(mask, "
            "label), or a function from the output to the (B,) values to explain"
        )
    return logits(output)


def _class_scores(scores: Tensor, chosen: Tensor) -> Tensor:
    if scores.shape[1] == 1:
        return scores[:, 0] * (chosen * 2 - 1)
    return scores.gather(1, chosen[:, None])[:, 0]


def _class_map(output: Any, label: int) -> Tensor:
    maps = first_tensor(output)
    if maps is None or maps.ndim < 3:
        raise DebrideError(
            "a Region needs a network whose output is (B, classes, *spatial), not "
            f"{None if maps is None else tuple(maps.shape)}"
        )
    if maps.shape[1] == 1:
        return maps[:, 0] * (2 * label - 1)
    return maps[:, label]


def _held_region(output: Any, region: Region, count: int) -> Region:
    maps = first_tensor(output)
    if maps is not None and maps.ndim > 2:
        _in_range(torch.tensor(region.label), maps.shape[1])
    scores = _class_map(output, region.label).detach()
    if region.mask is None:
        assert maps is not None
        predicted = scores > 0 if maps.shape[1] == 1 else maps.argmax(1) == region.label
        return Region(predicted, region.label)
    mask = region.mask.as_subclass(Tensor).to(scores.device)
    if mask.shape == scores.shape[1:]:
        mask = mask.expand_as(scores)
    if mask.shape != scores.shape or len(scores) != count:
        raise DebrideError(
            f"the mask has shape {tuple(region.mask.shape)} where the network's maps have "
            f"{tuple(scores.shape)}: give (B, *spatial) or (*spatial)"
        )
    return Region(mask, region.label)


def _in_range(chosen: Tensor, classes: int) -> None:
    top = 2 if classes == 1 else classes
    if int(chosen.min()) < 0 or int(chosen.max()) >= top:
        raise DebrideError(f"targets must lie between 0 and {top - 1}")


def part_of_output(output: Any, which: slice, total: int) -> Any:
    """Return one batch out of an output for several, in the container that it came in."""
    if isinstance(output, Tensor):
        return output[which] if output.ndim and output.shape[0] == total else output
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(part_of_output(item, which, total) for item in output))
    if isinstance(output, tuple | list):
        return type(output)(part_of_output(item, which, total) for item in output)
    if isinstance(output, MutableMapping):
        same: Any = copy.copy(output)
        for key, value in output.items():
            same[key] = part_of_output(value, which, total)
        return same
    if isinstance(output, Mapping):
        return {key: part_of_output(value, which, total) for key, value in output.items()}
    if hasattr(output, "__dict__"):
        same = copy.copy(output)
        for key, value in vars(output).items():
            object.__setattr__(same, key, part_of_output(value, which, total))
        return same
    return output
