"""``debride explain``: its numbers, files, pictures and sentences."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import debride
from debride.data import open_images
from debride.data.preprocessing import Preprocessing
from debride.errors import DebrideError
from debride.evidence.pictures import picture
from debride.explaining import raw
from debride.explaining.asking import asks_of, class_named
from debride.explaining.maps import shown_cut
from debride.explaining.work import _pixels
from debride.relevance import attribute, engine
from debride.relevance.rules import HEATMAPS
from debride.relevance.rules.first import ZBox
from debride.report.overlay import Panel, as_png, figure
from debride.settings import ExplainSettings

Say = Callable[..., tuple[int, str, str]]
PIXELS = Preprocessing(spatial=(8, 8), channels=3, mean=(0.2, 0.4, 0.5), std=(0.1, 0.2, 0.5))
TOY = "explain --data toy.npz --model base --trust"


def done(said: tuple[int, str, str], code: int = 0) -> str:
    assert said[0] == code, said[2]
    return said[1]


def index(folder: str) -> dict:
    return json.loads(Path(folder, "index.json").read_text())


def asks(methods: str, rules: str = "epsilon", *options: str, **more: object) -> tuple:
    return asks_of(methods.split(","), rules.split(","), options, PIXELS, **more)


# -- numbers ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Explain four images by six methods."""
    from debride.explaining import explain

    out = tmp_path_factory.mktemp("explained") / "maps"
    methods = "lrp,dlb,ig,gradient,gradcam,occlusion"
    given = {"data": str(base.parent / "toy.npz"), "model": str(base), "trust": True, "limit": 4,
             "method": methods, "option": ["n_steps=200", "window=4"], "out": out}  # fmt: skip
    assert explain(ExplainSettings.resolve(given))
    return out


def test_raw_values_and_shares_add_up_to_the_score(several: Path) -> None:
    for entry in index(str(several))["images"]:
        for found in entry["maps"]:
            values = np.load(several / found["raw"])
            assert (values.dtype, values.shape) == (np.float32, (1, 16, 16))
            assert values.sum(dtype=float) == pytest.approx(found["shares"]["input"], abs=1e-4)
            total = sum(found["shares"].values())
            assert total + found["delta"] == pytest.approx(found["score"], abs=1e-4)
            if found["method"] in ("lrp", "dlb", "ig"):
                assert abs(found["delta"]) < (0.05 if found["method"] == "ig" else 1e-4)


def test_index_says_what_was_explained_and_how(several: Path, base: Path) -> None:
    found = index(str(several))
    assert found["classes"] == ["0", "1", "2"]
    assert found["preprocessing"]["spatial"] == [16, 16]
    assert [entry["stem"] for entry in found["images"]] == ["001", "002", "003", "004"]
    assert len({entry["labels"][0] for entry in found["images"]}) == 3
    first = found["images"][0]
    assert sum(first["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert first["explained"] == first["predicted"]
    assert first["predicted"] == max(first["probabilities"], key=first["probabilities"].get)
    lrp, _, ig, *_, occlusion = first["maps"]
    assert (lrp["rules"], lrp["options"], ig["rules"]) == ("epsilon_gamma_box", {}, None)
    assert ig["options"] == {"n_steps": 200, "baseline": "zero"}
    assert occlusion["options"] == {"window": 4, "baseline": "zero"}
    expected = {f"00{n}.{each['method']}.npy" for n in range(1, 5) for each in first["maps"]}
    expected |= {f"00{n}.png" for n in range(1, 5)} | {"index.json"}
    assert {file.name for file in several.iterdir()} == expected


def test_zero_is_a_black_image(several: Path, base: Path) -> None:
    model = debride.load(base, trust=True).eval()
    run = json.loads((base / "model.json").read_text())["preprocessing"]
    black = torch.full((1, 1, 16, 16), -run["mean"][0] / run["std"][0])
    entry = index(str(several))["images"][0]
    with torch.no_grad():
        expected = float(model(black)[0, int(entry["explained"])])
    assert entry["maps"][2]["shares"]["baseline"] == pytest.approx(expected, abs=1e-4)


def test_an_image_is_explained_alike_whatever_others_there_are(several: Path, say: Say) -> None:
    line = f"{TOY} --limit 4 --method smoothgrad --option n_samples=2 --out"
    done(say(line, "all"))
    again = f"{TOY} --limit 4 --method lrp,smoothgrad --option n_samples=2 --out"
    done(say(again, "both"))
    one, two = (np.load(Path(folder, "003.smoothgrad.npy")) for folder in ("all", "both"))
    assert np.array_equal(one, two)
    assert np.array_equal(np.load("both/003.lrp.npy"), np.load(several / "003.lrp.npy"))


@pytest.mark.parametrize("method", ["lrp", "dlb", "ig", "gradient"])
def test_against_is_the_difference_of_both_maps(method: str, base: Path, say: Say) -> None:
    line = f"{TOY} --limit 2 --method {method} --out"
    done(say(line, f"{method}-a", "--target", "2"))
    done(say(line, f"{method}-b", "--target", "0"))
    done(say(line, f"{method}-ab", "--target", "2", "--against", "0"))
    a, b, both = (np.load(f"{method}-{end}/001.{method}.npy") for end in ("a", "b", "ab"))
    assert np.abs(both).max() > 0
    assert np.allclose(both, a - b, atol=1e-5)
    scores = [index(f"{method}-{end}")["images"][0]["maps"][0]["score"] for end in ("a", "b", "ab")]
    assert scores[2] == pytest.approx(scores[0] - scores[1], abs=1e-4)
    entry = index(f"{method}-ab")["images"][0]
    assert (entry["explained"], entry["against"]) == ("2", "0")


def test_without_a_target_the_next_best_class_is_set_against_the_predicted_one(
    base: Path, say: Say
) -> None:
    out = done(say(f"{TOY} --limit 6 --against 1 --out rather"))
    assert "rather than 1" in out
    entries = index("rather")["images"]
    assert any(entry["predicted"] == "1" for entry in entries)
    for entry in entries:
        odds = {name: value for name, value in entry["probabilities"].items() if name != "1"}
        assert entry["explained"] == max(odds, key=odds.get)


def test_a_single_logit_is_the_difference_already(place: Path, say: Say) -> None:
    (place / "onelogit2.py").write_text(
        "from torch import nn\n"
        "def make(channels):\n"
        "    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), "
        "nn.Linear(4 * 14 * 14, 1))\n"
    )
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 20), ("test", 8)):
        labels = np.arange(count) % 2
        images = rng.normal(80, 10, (count, 16, 16)) + 60 * labels[:, None, None]
        arrays[f"{split}_images"] = images.clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None]
    np.savez(place / "pair.npz", **arrays)
    line = "train --data pair.npz --model onelogit2:make --epochs 1 --no-speed --explain 0 --out"
    done(say(line, "single"))
    line = "explain --data pair.npz --model single --trust --limit 1 --out"
    done(say(line, "s1", "--target", "1"))
    done(say(line, "s0", "--target", "0"))
    done(say(line, "s01", "--target", "0", "--against", "1"))
    done(say(line, "s1x", "--method", "dlb_contrastive"))
    one, zero, rather = (np.load(f"{name}/001.lrp.npy") for name in ("s1", "s0", "s01"))
    assert np.allclose(one, -zero, atol=1e-6)
    assert np.array_equal(rather, zero)


# -- pictures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("size", [(28, 28), (512, 512), (64, 200), (300, 90)])
def test_one_panel_a_method_and_nothing_overlaps(count: int, size: tuple[int, int]) -> None:
    maps = np.linspace(-1, 2, size[0] * size[1], dtype=np.float32).reshape(size)
    panels = [Panel("DL-Backtrace, contrastive", "window 16, baseline zero", maps)] * count
    words = "Evidence for a class with a rather long name (logit 3.21, probability 0.97)"
    drawn = figure(np.zeros(size, np.uint8), panels, heading=words, lines=[words])
    assert len(drawn.axes) == 1 + 2 * count
    seen, bars = [drawn.axes[0], *drawn.axes[1::2]], drawn.axes[2::2]
    assert [len(axes.images) for axes in seen] == [1] + [2] * count
    renderer, page = FigureCanvasAgg(drawn).get_renderer(), drawn.bbox
    boxes = [
        *(text.get_window_extent(renderer) for text in drawn.texts),
        *(axes.get_tightbbox(renderer) for axes in bars),
        *(axes.get_window_extent(renderer) for axes in seen),
    ]
    for box in boxes:
        assert box.x0 >= 0
        assert box.x1 <= page.x1
        assert box.y0 >= 0
        assert box.y1 <= page.y1
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])


def test_colours_are_centred_at_zero_and_end_at_the_same_size() -> None:
    relevance = np.full((10, 10), 0.5, np.float32)
    relevance[0] = -0.25
    drawn = figure(np.zeros((10, 10), np.uint8), [Panel("LRP", "", relevance)], heading="x")
    shown = drawn.axes[1].images[1]
    assert (shown.norm.vmin, shown.norm.vmax) == (-0.5, 0.5)
    ticks = [label.get_text() for label in drawn.axes[2].get_xticklabels()]
    assert ticks == ["−0.5\nagainst", "0", "0.5\nfor"]
    assert as_png(drawn) == as_png(
        figure(np.zeros((10, 10), np.uint8), [Panel("LRP", "", relevance)], heading="x")
    )


def test_a_map_of_zeros_is_drawn() -> None:
    flat = np.zeros((4, 4), np.float32)
    drawn = figure(np.zeros((4, 4, 3), np.uint8), [Panel("LRP", "", flat)], heading="x")
    assert drawn.axes[2].get_xticklabels()[1].get_text() == "0 everywhere"
    assert as_png(drawn)


def test_names_are_shown_only_when_asked_for(base: Path, say: Say) -> None:
    Path("scans").mkdir()
    for number, name in enumerate(("doe_jane", "roe_rick")):
        Image.fromarray(np.full((20, 20), 90 + 40 * number, np.uint8)).save(f"scans/{name}.png")
    line = "explain --images scans --model base --trust --out"
    out = done(say(line, "nameless"))
    assert "doe" not in out + Path("nameless/index.json").read_text()
    assert sorted(f.name for f in Path("nameless").glob("*.png")) == ["001.png", "002.png"]
    done(say(line, "named", "--show-names", "--raw", "none"))
    files = sorted(file.name for file in Path("named").iterdir())
    assert files == ["001-doe_jane.png", "002-roe_rick.png", "index.json"]


def test_colours_are_those_of_the_image() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    image[..., 0], image[:4, :, 1], image[..., 2] = 200, 100, 50
    image[0, 0] = (255, 255, 0)
    seen = _pixels(PIXELS.read(image), PIXELS)
    assert np.array_equal(picture(seen), image)


# -- volumes, NIfTI ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def volumes(place: Path) -> str:
    (place / "cubenet.py").write_text(
        "from torch import nn\n"
        "def make(outputs):\n"
        "    return nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.ReLU(), "
        "nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(24, outputs))\n"
    )
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 12), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 99, (count, 6, 8, 10)).astype(np.uint8)
        arrays[f"{split}_images"][:, 4] += 150
        arrays[f"{split}_labels"] = (np.arange(count) % 2)[:, None]
    np.savez(place / "cubes.npz", **arrays)
    return "explain --data cubes.npz --model cubenet:make --image-size 6,8,10 --limit 1"


def test_volumes_show_the_slice_with_the_most_relevance(volumes: str, say: Say) -> None:
    methods = "lrp,gradcam,occlusion,smoothgrad"
    line = f"{volumes} --method {methods} --option n_samples=2 --out cubes"
    code, _, err = say(line)
    assert code == 0
    assert "random weights" in err
    entry = index("cubes")["images"][0]
    maps = [np.load(f"cubes/001.{name}.npy") for name in methods.split(",")]
    assert maps[0].shape == (1, 6, 8, 10)
    profiles = [np.abs(each.sum(0)).sum((1, 2)) for each in maps]
    together = sum(profile / profile.sum() for profile in profiles)
    assert entry["slice"] == int(together.argmax())


def test_nifti_has_the_axes_of_viewers(volumes: str, say: Say) -> None:
    nibabel = pytest.importorskip("nibabel", reason="NIfTI needs nibabel, of the extra 'medical'")
    done(say(f"{volumes} --out cubes-npy"))
    done(say(f"{volumes} --raw nifti --out cubes-nifti"))
    volume = np.asarray(nibabel.load("cubes-nifti/001.lrp.nii.gz").dataobj)
    assert np.array_equal(volume.transpose(2, 1, 0), np.load("cubes-npy/001.lrp.npy")[0])
    flat = torch.arange(24.0).reshape(2, 3, 4)
    colour = nibabel.Nifti1Image.from_bytes(
        __import__("gzip").decompress(raw.encoded(flat, "nifti"))
    )
    assert colour.shape == (4, 3, 1, 2)
    assert float(colour.dataobj[3, 0, 0, 1]) == flat[1, 0, 3]


def test_a_volume_from_nifti_is_explained_like_the_same_from_an_array(
    volumes: str, say: Say
) -> None:
    nibabel = pytest.importorskip("nibabel", reason="NIfTI needs nibabel, of the extra 'medical'")
    done(say(f"{volumes} --out cube-npz"))
    with np.load("cubes.npz") as file:
        cube = file["test_images"][0]
    # stored to the right and the front, as most programs do
    stored = nibabel.Nifti1Image(cube.swapaxes(0, 2)[::-1, ::-1], np.eye(4))
    nibabel.save(stored, "scan.nii.gz")
    line = volumes.replace("--data cubes.npz", "--images scan.nii.gz --classes 0,1")
    done(say(f"{line} --show-names --out cube-nifti"))
    found = np.load("cube-nifti/001-scan.lrp.npy")
    assert np.array_equal(found, np.load("cube-npz/001.lrp.npy"))


def test_without_nibabel_a_sentence_says_how_to_get_it(
    base: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    code, _, err = say(f"{TOY} --raw nifti --out x")
    assert (code, "pip install 'debride[medical]'" in err) == (2, True)


def test_the_slice_of_volumes_without_relevance_is_the_middle_one() -> None:
    assert shown_cut([torch.zeros(5, 2, 2)]) == 2
    assert shown_cut([torch.zeros(5, 2)]) is None


# -- the account ------------------------------------------------------------------------------


@pytest.fixture
def leaky(place: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a network with an operator whose rule passes half of the relevance on."""
    (place / "leakynet.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Leak(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.arcsinh(x)\n"
        "def make(outputs):\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(256, 8, bias=False), Leak(),"
        " nn.Linear(8, outputs, bias=False))\n"
    )

    def half(_: object, call: engine.Call) -> torch.Tensor:
        x = call.args[0]
        slope = (torch.arcsinh(x) / x).detach() / 2
        return x * slope + (torch.arcsinh(x) - x * slope).detach()

    monkeypatch.setitem(engine._OPERATORS, "arcsinh", half)
    return "explain --data toy.npz --model leakynet:make --limit 3"


def test_check_finds_what_an_operator_loses(leaky: str, say: Say) -> None:
    out = done(say(f"{leaky} --check --out leaks"), 1)
    assert "does not conserve relevance: at most 5.0e-01 of the explained output is missing" in out
    assert "in module '2'" in out
    (found,) = json.loads(Path("leaks/conservation.json").read_text())
    assert (found["conserves"], found["images"]) == (False, 2)
    assert found["largest_missing"] == pytest.approx(0.5, abs=1e-5)
    row = next(row for row in found["modules"] if row["module"] == "2")
    assert row["missing"] == pytest.approx(found["output"] / 2, rel=1e-5)
    assert row["operators"] == ["arcsinh"]
    lines = Path("leaks/conservation.csv").read_text().splitlines()
    assert lines[0].startswith("pass,module,operators,arriving,passed,constants")
    assert len(lines) == 1 + len(found["modules"])
    assert Path("leaks/001.png").exists()


def test_check_names_operators_without_a_rule(
    leaky: str, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(engine._OPERATORS, "arcsinh")
    code, out, err = say(f"{leaky} --check --out ruleless")
    assert "no rule for arcsinh in '2', so its gradient is used" in " ".join(out.split())
    assert "no relevance rule for arcsinh (in '2')" in err
    assert code in (0, 1)
    code, _, err = say(f"{leaky} --strict --out ruleless2")
    assert code == 2
    assert "arcsinh" in err
    assert not Path("ruleless2").exists()


def test_check_of_a_sound_network_conserves(base: Path, say: Say) -> None:
    line = f"{TOY} --limit 2 --check --method lrp,dlb,gradcam --rules epsilon_plus,attnlrp"
    out = done(say(line, "--out", "sound"))
    assert out.count("conserves relevance") == 3
    found = json.loads(Path("sound/conservation.json").read_text())
    assert [each["method"] for each in found] == ["lrp", "lrp", "dlb"]
    assert [each["rules"] for each in found] == ["epsilon_plus", "attnlrp", None]
    assert all(each["largest_missing"] < 1e-4 for each in found)
    assert Path("sound/001.lrp-attnlrp.npy").exists()


def test_check_names_branches_that_receive_nothing(place: Path, say: Say) -> None:
    (place / "deadnet.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Dead(nn.Module):\n"
        "    def __init__(self, outputs):\n"
        "        super().__init__()\n"
        "        self.one, self.two = (nn.Linear(256, outputs, bias=False) for _ in range(2))\n"
        "        nn.init.zeros_(self.two.weight)\n"
        "    def forward(self, x):\n"
        "        x = x.flatten(1)\n"
        "        return self.one(x) + self.two(x)\n"
    )
    line = "explain --data toy.npz --model deadnet:Dead --limit 2 --check --raw none --out dead"
    words = " ".join(done(say(line)).split())
    assert "1 of 1 sums and products gave a branch nothing: add in 'Dead'" in words
    (found,) = json.loads(Path("dead/conservation.json").read_text())
    assert found["dead_branches"] == [{"operator": "add", "module": "Dead"}]


def test_check_sums_what_does_not_fit_on_the_screen(place: Path, say: Say) -> None:
    (place / "longnet.py").write_text(
        "from torch import nn\n"
        "def make(outputs):\n"
        "    steps = [step for _ in range(30) for step in (nn.Linear(256, 256), nn.ReLU())]\n"
        "    return nn.Sequential(nn.Flatten(), *steps, nn.Linear(256, outputs))\n"
    )
    line = "explain --data toy.npz --model longnet:make --limit 1 --check --out long"
    _, out, _ = say(line)
    rows = out[out.index("module ") : out.index("verdict")].splitlines()
    assert len([row for row in rows if row.strip()]) == 2 + 40
    assert "and 23 more" in out
    (found,) = json.loads(Path("long/conservation.json").read_text())
    assert len(found["modules"]) == 62


def test_the_usual_rules_are_the_default_of_the_commands() -> None:
    from debride.settings import ExplainSettings, PruneSettings

    assert ExplainSettings.model_fields["rules"].default == (HEATMAPS,)
    assert PruneSettings.model_fields["heatmap_rules"].default == HEATMAPS


# -- rules and options ------------------------------------------------------------------------


def test_help_lists_every_method_and_rule_set() -> None:
    # In a process of its own: other tests register methods and rule sets.
    program = (
        "from debride.relevance import method_names, rule_set_names\n"
        "print(*method_names(), *rule_set_names())"
    )
    words = [sys.executable, "-c", program]
    names = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    assert {"lrp", "ig", "epsilon", "dlb"} <= set(names)
    fields = ExplainSettings.model_fields
    for name in names:
        assert name in fields["rules"].description + fields["method"].description


def test_the_box_of_pixels_comes_from_the_preparation() -> None:
    (ask,) = asks("lrp", "epsilon_gamma_box", "gamma=0.1")
    assert isinstance(ask.rules.first, ZBox)
    assert ask.rules.first.low == pytest.approx((-2, -2, -1))
    assert ask.rules.first.high == pytest.approx((8, 3, 1))
    assert ask.rules.convolution.gamma == 0.1
    assert (ask.details, ask.shown) == ("epsilon_gamma_box, gamma 0.1", {"gamma": 0.1})


def test_each_option_goes_to_the_methods_that_have_it() -> None:
    options = ("n_steps=50", "baseline=0.5", "window=4,8", "memory=1.5", "attention=cp", "layer=4")
    lrp, ig, occlusion, cam = asks("lrp,ig,occlusion,gradcam", "epsilon", *options)
    assert lrp.rules.attention == "cp"
    assert lrp.options == {"memory": 1.5}
    assert (ig.options["n_steps"], occlusion.options["window"]) == (50, (4, 8))
    assert "n_steps" not in occlusion.options
    assert cam.options == {"layer": "4", "memory": 1.5}
    assert torch.allclose(ig.options["baseline"].flatten(), torch.tensor([3.0, 0.5, 0.0]))
    assert ig.shown["baseline"] == 0.5


def test_seed_and_memory_reach_every_method_that_has_them() -> None:
    smooth, ig, _ = asks("smoothgrad,ig,lrp", seed=7, memory=0.5)
    assert (smooth.options["seed"], smooth.options["memory"]) == (7, 0.5)
    assert ig.options["memory"] == 0.5
    assert smooth.shown == {}


def test_rules_of_ones_own(base: Path, say: Say) -> None:
    Path("mine.yaml").write_text("linear: epsilon\nconvolution: {rule: gamma, gamma: 0.25}\n")
    done(say(f"{TOY} --limit 1 --rules mine.yaml --out own"))
    (found,) = index("own")["images"][0]["maps"]
    assert found["rules"] == "mine"
    model = debride.load(base, trust=True)
    source = open_images("toy.npz")
    stored = json.loads((base / "model.json").read_text())["preprocessing"]
    stored = Preprocessing.model_validate({k: v for k, v in stored.items() if v is not None})
    from debride.data.loading import sample

    first = source.splits["test"][sample(source, "test", 1)[0]]
    image = stored.read(source.pixels(first))[None]
    expected = attribute(model, image, rules="mine.yaml").input[0]
    assert np.allclose(np.load("own/001.lrp.npy"), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("methods", "rules", "options", "said"),
    [
        ("lrp,igg", "epsilon", (), "no --method 'igg': did you mean 'ig'"),
        ("", "epsilon", (), "--method and --rules need a name each"),
        ("lrp", "epsilom", (), "no --rules 'epsilom': did you mean 'epsilon'?"),
        ("lrp", "none.yaml", (), "cannot read the rule set 'none.yaml'"),
        ("lrp", "dlb_contrastive", (), "runs as --method dlb_contrastive"),
        ("ig", "attnlrp", (), "--rules is for the method lrp"),
        ("ig", HEATMAPS, ("n_stps=5",), "an option 'n_stps': did you mean 'n_steps'"),
        ("lrp", "epsilon", ("n_steps=5",), "ig has it; add it to --method"),
        ("lrp", "attnlrp", ("alpha=5",), "known are lrp: memory"),
        ("lrp", "epsilon", ("low=1",), "epsilon_gamma_box have"),
        ("lrp", "epsilon", ("attention=x",), "attention='x': give one of"),
        ("lrp", "epsilon", ("epsilon=x",), "--option epsilon=x is not a number"),
        ("ig", HEATMAPS, ("n_steps",), "--option 'n_steps' is not KEY=VALUE"),
        ("ig", HEATMAPS, ("n_steps=5", "n-steps=6"), "--option n_steps is given twice"),
        ("ig", HEATMAPS, ("n_steps=a",), "n_steps=a does not fit: ig takes a whole number"),
        ("ig", HEATMAPS, ("n_steps=2.5",), "takes a whole number"),
        ("occlusion", HEATMAPS, ("window=x",), "a whole number or several, with commas"),
        ("gradcam", HEATMAPS, ("relu=2",), "takes true or false"),
        ("ig", HEATMAPS, ("baseline=white",), "one of zero (black), mean, blur"),
        ("ig", HEATMAPS, ("baseline=-1",), "baseline=-1.0 is no grey"),
        ("dlb", HEATMAPS, ("norm=x",), "dlb takes fold or pass"),
    ],
)
def test_mistakes_in_methods_are_one_sentence(
    methods: str, rules: str, options: tuple[str, ...], said: str
) -> None:
    with pytest.raises(DebrideError) as caught:
        asks_of([m for m in methods.split(",") if m], [rules], options, PIXELS)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_is_named_or_numbered() -> None:
    assert class_named("1", ["2", "1", "0"], "--target") == 1
    with pytest.raises(DebrideError, match="--against 'cist' is not a class: did you mean 'cyst'"):
        class_named("cist", ["normal", "cyst"], "--against")
    with pytest.raises(DebrideError, match="give one of a, b, or a number from 0"):
        class_named("7", ["a", "b"], "--target")


# -- the command ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{TOY} --target x --out x", "--target 'x' is not a class: give one of 0, 1, 2"),
        (f"{TOY} --target 1 --against 1 --out x", "are both '1'"),
        (f"{TOY} --method dlb_contrastive --against 1 --out x", "leave out --against"),
        (f"{TOY} --method ig --check --out x", "add lrp or dlb to --method"),
        (f"{TOY} --raw csv --out x", "--raw cannot be 'csv'"),
        (f"{TOY} --memory 0 --out x", "--memory cannot be '0'"),
        (f"{TOY} --option n_steps=5 --out x", "ig has it"),
        (f"{TOY} --method gradcam --option layer=9 --out x", "no module '9'"),
        (f"{TOY} --out base", "'base' is not empty"),
        ("explain --images void --model base --trust --out x", "no images in 'void'"),
        ("explain --images nest --model base --trust --out x", "only folders"),
        ("explain --images torn --model base --trust --out x", "torn/b.png"),
        ("explain --images toy.npz --model base --trust --out x", "cannot read the image"),
        ("explain --data toy.npz --model cutnet:make --out x", "occlusion"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(
    line: str, said: str, base: Path, say: Say
) -> None:
    Path("void").mkdir(exist_ok=True)
    Path("nest/inside").mkdir(parents=True, exist_ok=True)
    Path("torn").mkdir(exist_ok=True)
    Image.fromarray(np.zeros((16, 16), np.uint8)).save("torn/a.png")
    Path("torn/b.png").write_bytes(Path("torn/a.png").read_bytes()[:40])
    Path("cutnet.py").write_text(
        "from torch import nn\n"
        "class Cut(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.detach()\n"
        "def make(outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(256, outputs), Cut())\n"
    )
    before = sorted(Path().iterdir())
    code, _, err = say(line)
    lines = [row for row in err.strip().splitlines() if not row.startswith("warning: ")]
    assert code == 2, err
    assert len(lines) == 1
    assert said in lines[0]
    assert [
        p for p in sorted(Path().iterdir()) if p not in before and p.name != "__pycache__"
    ] == []


def test_ctrl_c_leaves_nothing_half_written(
    base: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    from debride.explaining import work

    met: list[object] = []

    def interrupted(*args: object, **options: object) -> object:
        met.append(args)
        if len(met) == 3:
            raise KeyboardInterrupt
        return plain(*args, **options)

    plain = work.explain_image
    monkeypatch.setattr(work, "explain_image", interrupted)
    before = sorted(base.parent.iterdir())
    code, _, err = say(f"{TOY} --limit 5 --out never-written")
    assert (code, err) == (130, "stopped: nothing was written\n")
    assert sorted(base.parent.iterdir()) == before


def test_options_may_stand_in_the_yaml_file(base: Path, say: Say) -> None:
    Path("explain.yaml").write_text(
        "data: toy.npz\nmodel: base\ntrust: true\nlimit: 1\nmethod: [ig, lrp]\n"
        "option: {n_steps: 3, baseline: blur}\nout: from-yaml\n"
    )
    done(say("explain --config explain.yaml"))
    ig, lrp = index("from-yaml")["images"][0]["maps"]
    assert (ig["options"], lrp["options"]) == ({"n_steps": 3, "baseline": "blur"}, {})
    flags = "--option n_steps=4 --option window=3 --method occlusion,ig --out flags"
    done(say("explain --config explain.yaml", *flags.split()))
    occlusion, ig = index("flags")["images"][0]["maps"]
    assert ig["options"] == {"n_steps": 4, "baseline": "zero"}
    assert occlusion["options"] == {"window": 3, "baseline": "zero"}


def test_the_network_comes_back_as_it_was(base: Path, say: Say) -> None:
    code, out, _ = say(f"{TOY} --limit 1 --method lrp,ig --out once")
    assert code == 0
    assert "1 of 30 test images of toy;" in " ".join(out.split())
    done(say(f"{TOY} --limit 1 --method ig,lrp --out twice"))
    assert np.array_equal(np.load("once/001.ig.npy"), np.load("twice/001.ig.npy"))
