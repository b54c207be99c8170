import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from debride.errors import DebrideError
from debride.evidence.columns import Cut, cut_columns
from debride.evidence.subgroups import subgroups


def case() -> tuple[list[np.ndarray], np.ndarray, Cut]:
    """Two networks; the second has half of the women's images of class 1 wrong."""
    labels = np.tile([0, 1], 200)
    sex = np.repeat([0, 1], 200)
    before = labels.copy()
    before[:20] = 1 - before[:20]  # ten of each class
    after = before.copy()
    after[(sex == 0) & (labels == 1) & (np.arange(400) < 100)] = 0
    return [np.eye(2)[each] for each in (before, after)], labels, Cut("sex", ("f", "m"), sex)


def test_each_subgroup_is_measured_by_itself():
    p, labels, cut = case()
    (column,) = subgroups(p, labels, "multiclass", [cut])["columns"]
    for k, group in enumerate(column["groups"]):
        inside = cut.members == k
        assert group["images"] == 200
        for each, key in zip(p, ("original", "model"), strict=True):
            expected = balanced_accuracy_score(labels[inside], each[inside].argmax(axis=1))
            assert group["balanced_accuracy"][key]["value"] == pytest.approx(expected)


def test_the_gap_and_its_change_have_intervals():
    p, labels, cut = case()
    (column,) = subgroups(p, labels, "multiclass", [cut])["columns"]
    gap = column["gap"]
    assert (gap["better"], gap["worse"]) == ("m", "f")
    figure = gap["difference"]
    # of 100 women of class 1, fifty are wrong, ten of which were before
    assert figure["original"]["value"] == pytest.approx(0.1)
    assert figure["model"]["value"] == pytest.approx(0.3)
    assert figure["change"]["value"] == pytest.approx(0.2)
    deviation = 0.5 * np.sqrt(0.4 * 0.6 / 100)
    assert figure["change"]["low"] == pytest.approx(0.2 - 1.96 * deviation, abs=0.02)
    assert figure["change"]["high"] == pytest.approx(0.2 + 1.96 * deviation, abs=0.02)
    assert column["uneven"]["worse"] == "f"
    assert column["uneven"]["difference"]["change"]["value"] == pytest.approx(0.2)


def test_tiny_subgroups_are_left_out_and_counted():
    p, labels, _ = case()
    members = np.zeros(400, dtype=np.int64)
    members[:7], members[7:20], members[20:22] = 1, 2, -1
    members[22:122:2] = 3  # fifty images of one class
    cut = Cut("site", ("a", "b", "c", "d"), members)
    (column,) = subgroups(p, labels, "multiclass", [cut], resamples=10)["columns"]
    assert [group["name"] for group in column["groups"]] == ["a"]
    assert (column["small"], column["small_images"], column["missing"]) == (3, 70, 2)
    assert column["gap"] is None


def test_a_class_with_few_images_in_a_subgroup_does_not_count():
    labels = np.array([0] * 50 + [1] * 50 + [2] * 4)
    chosen = labels.copy()
    chosen[100:] = 0
    cut = Cut("one", ("all",), np.zeros(104, dtype=np.int64))
    (column,) = subgroups([np.eye(3)[chosen]], labels, "multiclass", [cut], resamples=10)["columns"]
    (group,) = column["groups"]
    assert group["classes"] == 2
    assert group["balanced_accuracy"]["model"]["value"] == 1


def test_multilabel_subgroups():
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 2)) < 0.4).astype(np.int64)
    p = np.clip(labels * 0.4 + rng.random((200, 2)) * 0.6, 0, 1)
    cut = Cut("half", ("a", "b"), np.repeat([0, 1], 100))
    (column,) = subgroups([p], labels, "multilabel", [cut], resamples=10)["columns"]
    for k, group in enumerate(column["groups"]):
        rows = slice(100 * k, 100 * k + 100)
        each = [balanced_accuracy_score(labels[rows, j], p[rows, j] > 0.5) for j in range(2)]
        assert group["balanced_accuracy"]["model"]["value"] == pytest.approx(np.mean(each))


def test_a_copy_has_no_wider_gap():
    p, labels, cut = case()
    (column,) = subgroups([p[0], p[0]], labels, "multiclass", [cut], resamples=100)["columns"]
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0}
    assert column["gap"]["difference"]["change"] == nothing
    assert column["uneven"] is None


def test_numbers_are_cut_at_their_quartiles():
    ages = [20, 30, 40, 50, 60, 70, 80, 90, 95] * 10 + [""]
    ((cut,), left_out) = cut_columns({"age": ages})
    assert cut.names == ("up to 40", "over 40 to 60", "over 60 to 80", "over 80")
    assert np.bincount(cut.members[:-1]).tolist() == [30, 20, 20, 20]
    assert cut.members[-1] == -1
    assert left_out == {}


def test_cut_points_are_written_in_three_digits_where_these_tell_them_apart():
    ((cut,), _) = cut_columns({"share": [0.140234 * k for k in range(1, 10)]})
    assert cut.names == ("up to 0.421", "over 0.421 to 0.701", "over 0.701 to 0.982", "over 0.982")
    ((cut,), _) = cut_columns({"year": [float(2000 + k) for k in range(9)] * 2})
    assert cut.names[0] == "up to 2002"
    ((cut,), _) = cut_columns({"close": [1 + k / 10_000 for k in range(9)]})
    assert cut.names[:2] == ("up to 1.0002", "over 1.0002 to 1.0004")


def test_few_numbers_are_values():
    ((cut,), _) = cut_columns({"grade": ["10", "9", "9", "nan", None]})
    assert cut.names == ("9", "10")
    assert cut.members.tolist() == [1, 0, 0, -1, -1]


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("lesion_id", ["a", "b"], "tells patients or images apart"),
        ("PatientID", ["a", "b"], "tells patients or images apart"),
        ("file", ["a", "b"], "tells patients or images apart"),
        ("StudyInstanceUID", ["a", "b"], "tells patients or images apart"),
        ("city", list("abcdefghi"), "has 9 values"),
        ("site", ["x", "x"], "has one value"),
        ("note", ["", ""], "is empty"),
        ("number", [str(k) for k in range(30)], "has a number of its own for each image"),
    ],
)
def test_other_columns_are_left_out_with_the_reason(name, values, why):
    assert cut_columns({name: values}) == ([], {name: why})


def test_asked_for_columns_may_have_many_values():
    cuts, left_out = cut_columns({"city": list("abcdefghij"), "sex": ["f", "m"] * 5}, ["city"])
    assert [cut.column for cut in cuts] == ["city"]
    assert len(cuts[0].names) == 10
    assert left_out == {}


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("sexe", "no column 'sexe' to make subgroups of: there are age, sex"),
        ("lesion_id", "the column 'lesion_id' tells patients or images apart"),
    ],
)
def test_wrong_columns_are_refused(wanted, words):
    with pytest.raises(DebrideError, match=words):
        cut_columns({"age": [1], "sex": ["f"], "lesion_id": ["x"]}, [wanted])
