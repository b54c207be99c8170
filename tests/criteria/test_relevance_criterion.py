"""Criteria from relevance against a plain computation from what `attribute` finds at each tap."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from debride import attribute, score
from debride.criteria import Scores
from debride.errors import DebrideError
from debride.planning.groups import find_groups
from debride.planning.make import plan
from planning import toys
from planning.test_groups import Attention

LOGIT = {"target": "class", "aggregate": "abs"}
"""What most tests take of lrp: sums of sizes can be checked against `attribute`."""
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(6, 1, 8, 8, generator=GENERATOR)
LABELS = torch.tensor([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("name", ["Flat", "SmallUNet", "SqueezeExcite", "Dense", "TupleOutput"])
@pytest.mark.parametrize("labelled", [True, False])
def test_equals_a_plain_computation(name: str, labelled: bool) -> None:
    model = toys.randomise(getattr(toys, name)())
    groups = find_groups(model, IMAGES).groups
    batch = (IMAGES, LABELS) if labelled else IMAGES
    found = score(model, [batch], criterion="lrp", rules="epsilon", groups=groups, **LOGIT)
    assert found.count == 6
    for tap in (tap for group in groups for tap in group.taps):
        taps = attribute(model, IMAGES, LABELS if labelled else None, taps=[tap.read_at]).taps
        if name == "SqueezeExcite" and tap.layer in ("squeeze", "excite"):
            assert not found.values[tap.layer].any(), "a gate carries no relevance"
            continue
        relevance = taps[tap.read_at].double()
        expected = [
            sum(abs(float(relevance[i, unit].sum())) for i in range(6))
            for unit in range(relevance.shape[1])
        ]
        assert found.values[tap.layer].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-7)
        assert sum(expected) > 0


@pytest.mark.parametrize(
    ("criterion", "options"), [("dlb", {}), ("dlb_contrastive", {}), ("ig", {"n_steps": 3})]
)
@pytest.mark.parametrize("name", ["Flat", "SmallUNet"])
def test_other_methods_equal_a_plain_computation(
    name: str, criterion: str, options: dict[str, int]
) -> None:
    model = toys.randomise(getattr(toys, name)())
    groups = find_groups(model, IMAGES).groups
    found = score(model, [(IMAGES, LABELS)], criterion=criterion, groups=groups, **options)
    reads = {tap.read_at: tap.layer for group in groups for tap in group.taps}
    taps = attribute(model, IMAGES, LABELS, method=criterion, taps=list(reads), **options).taps
    for read_at, layer in reads.items():
        relevance = taps[read_at].double()
        expected = [
            sum(abs(float(relevance[i, unit].sum())) for i in range(6))
            for unit in range(relevance.shape[1])
        ]
        assert found.values[layer].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-7)
        assert sum(expected) > 0


@pytest.mark.parametrize("criterion", ["lrp", "dlb", "dlb_contrastive", "ig"])
def test_what_is_made_of_a_channel_before_images_are_summed(criterion: str) -> None:
    model = toys.randomise(toys.Flat())
    relevance = attribute(model, IMAGES, LABELS, method=criterion, taps=["norm"], **(
        {"n_steps": 8} if criterion == "ig" else {}
    )).taps["norm"]  # fmt: skip
    sums = relevance.double().sum((2, 3)).tolist()  # [image][channel]
    makes = {
        "abs": abs,
        "positive": lambda v: max(v, 0.0),
        "signed": lambda v: v,
        "square": lambda v: v * v,
    }
    size = max(abs(v) for row in sums for v in row)
    for aggregate, make in makes.items():
        given = {"target": "class"} if criterion == "lrp" else {}
        found = score(model, [(IMAGES, LABELS)], criterion=criterion, aggregate=aggregate, **given)
        expected = [sum(make(row[unit]) for row in sums) for unit in range(6)]
        assert found.values["conv"].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5 * size)


@pytest.mark.parametrize("criterion", ["lrp", "dlb", "dlb_contrastive", "ig"])
def test_the_spread_over_images(criterion: str) -> None:
    model = toys.randomise(toys.Flat())
    relevance = attribute(model, IMAGES, LABELS, method=criterion, taps=["norm"], **(
        {"n_steps": 8} if criterion == "ig" else {}
    )).taps["norm"]  # fmt: skip
    sums = relevance.double().sum((2, 3))
    # batches make no difference
    data = [(IMAGES[:2], LABELS[:2]), (IMAGES[2:], LABELS[2:])]
    given = {"target": "class"} if criterion == "lrp" else {}
    found = score(model, data, criterion=criterion, aggregate="spread", **given).mean()["conv"]
    expected = sums.std(0, correction=0)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-5)
    assert expected.min() > 0


def test_one_image_has_no_spread() -> None:
    with pytest.raises(DebrideError, match="one image has no spread: give two at least"):
        score(toys.Flat(), [(IMAGES[:1], LABELS[:1])], criterion="lrp", aggregate="spread")


def test_conductance_by_hand() -> None:
    """F = ReLU(2x) - ReLU(-x) of x = 3: the way from 0 gives 6 through the first, 0 the other."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([2.0, -1.0]).view(2, 1, 1, 1))
        net[3].weight.copy_(torch.tensor([[1.0, -1.0]]))
    image = torch.full((1, 1, 1, 1), 3.0)
    found = score(net, [(image, torch.tensor([1]))], criterion="ig", n_steps=50).values["0"]
    assert found.tolist() == pytest.approx([6.0, 0.0], abs=0.1)  # the trapezoid's first step


def test_several_labels_are_nothing_to_contrast() -> None:
    model = toys.randomise(toys.Flat())
    with pytest.raises(DebrideError, match="may have several labels: take 'dlb' or 'lrp'"):
        score(model, [(IMAGES, torch.eye(3)[LABELS])], criterion="dlb_contrastive")


class Tokens(nn.Module):
    """A hidden layer over tokens: relevance is sized for each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 8, 2, 2)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.Linear(8, 12)
        self.down = nn.Linear(12, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        t = self.patch(x).flatten(2).transpose(1, 2)
        t = t + self.attend(t, t, t)[0]
        return self.head((t + self.down(self.up(t).tanh())).mean(1))


def test_a_neuron_is_sized_for_each_token() -> None:
    model = toys.randomise(Tokens())
    found = score(model, [(IMAGES, LABELS)], **LOGIT)
    relevance = attribute(model, IMAGES, LABELS, taps=["up"]).taps["up"].double()
    assert relevance.shape == (6, 16, 12)
    expected = [
        sum(abs(float(relevance[i, t, unit])) for i in range(6) for t in range(16))
        for unit in range(12)
    ]
    assert found.values["up"].tolist() == pytest.approx(expected, rel=1e-4)
    whole = relevance.sum(1).abs().sum(0)
    assert not torch.allclose(whole, found.values["up"], rtol=0.01), "tokens would cancel"


def test_several_labels_explain_the_sum_of_their_logits() -> None:
    model = toys.randomise(toys.Flat())
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]])
    found = score(model, [(IMAGES[:3], labels)], aggregate="abs")
    logits = model(IMAGES[:3])
    top = int(logits[1].argmax())
    chosen = [[0, 2], [top], [0, 1, 2]]
    relevance = torch.zeros(3, 10, dtype=torch.float64)
    for image, classes in enumerate(chosen):
        for k in classes:
            taps = attribute(model, IMAGES[image : image + 1], k, taps=["hidden_norm"]).taps
            relevance[image] += taps["hidden_norm"][0].double()
    assert torch.allclose(found.values["hidden"], relevance.abs().sum(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("labels", [[0, 1, 1, 0, 1, 0], [[0.0], [1.0], [1.0], [0.0], [1.0], [0.0]]])
def test_a_single_logit_speaks_for_both_classes(labels: list[float]) -> None:
    net = toys.Flat()
    net.head = nn.Linear(10, 1)
    model = toys.randomise(net)
    found = score(model, [(IMAGES, torch.tensor(labels))], aggregate="abs")
    target = torch.tensor(labels).reshape(-1).long()
    relevance = attribute(model, IMAGES, target, taps=["hidden_norm"]).taps["hidden_norm"]
    expected = relevance.double().abs().sum(0)
    assert torch.allclose(found.values["hidden"], expected, rtol=1e-4, atol=1e-7)
    assert float(found.values["hidden"].sum()) > 0


@pytest.mark.parametrize("labelled", [True, False])
def test_odds_are_the_class_less_what_the_others_share(labelled: bool) -> None:
    model = toys.randomise(toys.Flat())
    batch = (IMAGES, LABELS) if labelled else IMAGES
    found = score(model, [batch], criterion="lrp")
    assert found.criterion == "lrp:epsilon:odds:square"
    logits = model(IMAGES)
    classes = LABELS if labelled else logits.argmax(1)
    each = [attribute(model, IMAGES, k, taps=["hidden_norm"]).taps["hidden_norm"] for k in range(3)]
    expected = torch.zeros(10, dtype=torch.float64)
    for image, own in enumerate(classes.tolist()):
        others = [k for k in range(3) if k != own]
        shares = logits[image, others].softmax(0)
        relevance = each[own][image].double()
        for k, share in zip(others, shares.tolist(), strict=True):
            relevance = relevance - share * each[k][image].double()
        expected += relevance.square()
    assert torch.allclose(found.values["hidden"], expected, rtol=1e-4, atol=1e-7)
    plain = score(model, [batch], criterion="lrp", target="class")
    assert not torch.allclose(found.values["hidden"], plain.values["hidden"], rtol=0.05)


def test_what_has_a_logit_of_its_own_is_explained_by_it() -> None:
    model, labels = toys.randomise(toys.Flat()), torch.tensor([[1, 0, 1]] * 6)
    single = toys.Flat()
    single.head = nn.Linear(10, 1)
    for net, given in ((model, labels), (toys.randomise(single), LABELS.clamp(max=1))):
        odds, plain = (score(net, [(IMAGES, given)], target=kind) for kind in ("odds", "class"))
        for name, value in plain.values.items():
            torch.testing.assert_close(odds.values[name], value, rtol=1e-5, atol=1e-8)


def test_dict_batches_and_dict_outputs() -> None:
    model = toys.randomise(toys.DictOutput())
    plain = score(model, [(IMAGES, LABELS)])
    dicts = score(model, [{"image": IMAGES, "label": LABELS, "index": torch.arange(6)}])
    assert plain.values.keys() == dicts.values.keys() == {"body.conv", "body.hidden"}
    for name, value in plain.values.items():
        assert torch.equal(dicts.values[name], value)


def test_scores_come_back_from_json() -> None:
    scores = score(toys.randomise(toys.Flat()), [(IMAGES, LABELS)])
    again = Scores.from_json(scores.to_json())
    assert (again.criterion, again.count) == ("lrp:epsilon:odds:square", 6)
    for name, value in scores.values.items():
        assert torch.equal(again.values[name], value)
    assert again.mean()["conv"].tolist() == (scores.values["conv"] / 6).tolist()


@pytest.mark.parametrize("text", ["", "[]", '{"criterion": "lrp"}', '{"values": 3}'])
def test_damaged_scores_are_refused(text: str) -> None:
    with pytest.raises(DebrideError, match="scores are damaged"):
        Scores.from_json(text)


def test_scores_of_different_criteria_do_not_add_up() -> None:
    one = Scores("lrp", 1, {"a": torch.ones(2)})
    for other in (
        Scores("random", 1, {"a": torch.ones(2)}),
        Scores("lrp", 1, {"b": torch.ones(2)}),
    ):
        with pytest.raises(DebrideError, match="same criterion and network"):
            one + other


def test_what_heads_give_is_scored_where_the_output_projection_reads_it() -> None:
    model = toys.randomise(Attention())
    groups = find_groups(model, IMAGES).groups
    scores = score(model, [(IMAGES, LABELS)], groups=groups, **LOGIT).values["attend.out_proj"]
    seen = attribute(model, IMAGES, LABELS, taps=["attend.out_proj@input"])
    relevance = seen.taps["attend.out_proj@input"].double()
    torch.testing.assert_close(scores, relevance.abs().flatten(0, -2).sum(0))
    assert scores.shape == (8,)
    assert type(model.attend) is nn.MultiheadAttention


def test_the_head_that_carries_the_decision_is_kept() -> None:
    model = toys.randomise(Attention())
    with torch.no_grad():
        model.attend.out_proj.weight[:, 4:] = 0  # the second head gives nothing
    found = score(model, [(IMAGES, LABELS)])
    made = plan(model, found, IMAGES, ratio=0.5, ranking="layer")
    heads = next(group for group in made.groups if group.kind == "head")
    assert heads.keep == (0,)
