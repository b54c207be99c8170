"""The account of a pass: where the explained output's relevance went."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor


def on_relevance(tensor: Tensor, enter: Callable[[Tensor], None]) -> None:
    """Call `enter` with the tensor's c when the pass back reaches it.

    `enter` must not hold the tensor itself: the two would keep each other alive.
    """

    def meet(c: Tensor | None) -> None:
        # None: one of several outputs, and nothing read it. With gradients on, R itself is moved
        # from the first layer to the image (see `tracing`), which is no part of the account.
        if c is not None and not torch.is_grad_enabled():
            enter(c)

    tensor.register_hook(meet)  # type: ignore[no-untyped-call]


class Tally:
    """Amounts of relevance under the names of the modules that they stayed in.

    They are added up at the end, so that the pass back never waits for a device.
    """

    def __init__(self) -> None:
        self._places: list[str] = []
        self._amounts: list[Tensor] = []

    def enter(self, where: str, amount: Tensor) -> None:
        """Enter one amount, a single number."""
        self._places.append(where)
        self._amounts.append(amount.detach())

    def totals(self) -> dict[str, float]:
        """Return the sum for each name.

        Examples
        --------
        >>> tally = Tally()
        >>> for amount in (1.0, 2.0):
        ...     tally.enter("conv", torch.tensor(amount))
        >>> tally.totals()
        {'conv': 3.0}
        """
        found: dict[str, float] = {}
        if self._amounts:
            device = self._amounts[0].device
            amounts = torch.stack([amount.to(device) for amount in self._amounts]).tolist()
            for where, amount in zip(self._places, amounts, strict=True):
                found[where] = found.get(where, 0.0) + amount
        return found


@dataclass
class Ledger:
    """Sums of relevance by where they ended, over the whole batch.

    Relevance that does not reach the input stays in constants (biases, shifts of a batch norm,
    added or concatenated parameters), in the softmax remainder, or is lost by a rule.
    """

    constants: Tally = field(default_factory=Tally)
    remainders: Tally = field(default_factory=Tally)
    lost: Tally = field(default_factory=Tally)
    leaves: list[tuple[str, Tensor]] = field(default_factory=list)
    reached: dict[str, Tensor] = field(default_factory=dict)
    at_input: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """What the first layer read and its R, where that cannot travel as c (flat, w², z^B)."""
    read: list[Tensor] = field(default_factory=list)
    """The same, cut off from the image: the pass back ends there."""

    def absorb(self, where: str, amount: Tensor) -> None:
        """Enter what a constant absorbed."""
        self.constants.enter(where, amount)

    def absorb_along(self, where: str, c: Tensor, constant: Tensor, dim: int) -> None:
        """Enter Σ constant ⊙ c for a constant with one value for each index along `dim` of `c`."""
        self.absorb(where, torch.dot(channel_sums(c, dim), constant.to(c)))

    def lose(self, where: str, amount: Tensor) -> None:
        """Enter what a rule did not pass on."""
        self.lost.enter(where, amount)

    def remain(self, where: str, amount: Tensor) -> None:
        """Enter what a softmax over scores kept."""
        self.remainders.enter(where, amount)

    def leaf(self, where: str, constant: Tensor) -> Tensor:
        """Return a stand-in for a constant whose c autograd will collect."""
        leaf = constant.detach().requires_grad_()
        self.leaves.append((where, leaf))
        return leaf

    def watch(self, where: str, output: Tensor, constant: Tensor | float, dim: int = 1) -> None:
        """Enter Σ constant ⊙ c of `output` as soon as its c is known.

        `constant` is a number, or one value for each index along `dim` of `output`.
        """

        def enter(c: Tensor) -> None:
            if isinstance(constant, Tensor):
                self.absorb_along(where, c, constant, dim)
            else:
                self.absorb(where, c.sum() * constant)

        on_relevance(output, enter)

    def reach_input(self, where: str, x: Tensor, relevance: Tensor) -> None:
        """Enter relevance of what the first layer reads: the image, or the image moved about."""
        self.reached[where] = self.reached.get(where, 0) + relevance.sum()
        self.at_input.append((x, relevance))

    @contextlib.contextmanager
    def apart(self) -> Iterator[list[tuple[str, Tensor]]]:
        """Collect the stand-ins that are made inside the block in a list of their own."""
        before, self.leaves = self.leaves, []
        try:
            yield self.leaves
        finally:
            self.leaves = before

    def settle(
        self,
        gradients: tuple[Tensor | None, ...],
        leaves: list[tuple[str, Tensor]] | None = None,
    ) -> None:
        """Enter the shares of the stand-ins from their c, in the order they were made."""
        leaves = self.leaves if leaves is None else leaves
        for (where, leaf), c in zip(leaves, gradients, strict=True):
            if c is not None:
                share = leaf.detach() * c
                # A mask of −inf receives exactly no relevance: 0 · inf is 0 here.
                finite = torch.where(torch.isfinite(leaf), share, torch.zeros_like(share))
                self.absorb(where, finite.sum())


@dataclass
class Account:
    """The ledger as one operator sees it, under the name of the module that it stands in.

    Attributes
    ----------
    ledger : Ledger
    where : str
    after : str or None
        The activation function that reads the operator's output, where there is one.
    read : Tensor or None
        What the layer read of the image, with its graph, where its rule holds there only.
    unsigned : bool
        Whether the input is known to be nowhere negative, as after a ReLU.
    """

    ledger: Ledger
    where: str
    after: str | None = None
    read: Tensor | None = None
    unsigned: bool = False

    def is_signed(self, x: Tensor) -> bool:
        """Tell whether any value of the input is negative: if none is, half of the work can go."""
        return not self.unsigned and bool(x.amin().item() < 0)

    def reach_input(self, relevance: Tensor) -> None:
        """Enter relevance of the input itself."""
        assert self.read is not None
        self.ledger.reach_input(self.where, self.read, relevance)

    def lose(self, amount: Tensor) -> None:
        """Enter what the rule did not pass on."""
        self.ledger.lose(self.where, amount)

    def remain(self, amount: Tensor) -> None:
        """Enter what a softmax over scores kept."""
        self.ledger.remain(self.where, amount)

    def absorb_along(self, c: Tensor, constant: Tensor, dim: int) -> None:
        """Enter Σ constant ⊙ c for a constant with one value for each index along `dim` of `c`."""
        self.ledger.absorb_along(self.where, c, constant, dim)

    def settle(self, sums: Tensor, bias: Tensor | None, epsilon: Tensor | float = 0.0) -> None:
        """Enter for s = R / (z + ε) what the bias in z absorbs, and what ε keeps: ε Σ s.

        Parameters
        ----------
        sums : Tensor
            Σ s of each channel: see `channel_sums`.
        bias : Tensor or None
            Of each channel.
        epsilon : Tensor or float
            Of each channel, or one for all.
        """
        if isinstance(epsilon, Tensor):
            self.ledger.lose(self.where, torch.dot(sums, epsilon.to(sums)))
        elif epsilon:
            self.ledger.lose(self.where, sums.sum() * epsilon)
        if bias is not None:
            self.ledger.absorb(self.where, torch.dot(sums, bias.to(sums)))


def channel_sums(values: Tensor, dim: int) -> Tensor:
    """Return the sum for each index along one dimension."""
    others = [d for d in range(values.ndim) if d != dim % values.ndim]
    return values.sum(others) if others else values


def along(values: Tensor, dim: int, like: Tensor) -> Tensor:
    """Give one value for each channel the shape that broadcasts along that dimension."""
    shape = [1] * like.ndim
    shape[dim] = -1
    return values.view(shape)
