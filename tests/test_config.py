"""Settings: flags over the file over the defaults, and what is said when something is wrong."""

import json
from pathlib import Path

import pytest

from debride.errors import DebrideError
from debride.settings import EvaluateSettings, ExplainSettings, PruneSettings, TrainSettings

NEEDED = {"data": "phantom", "model": "m", "out": "o"}


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flag_overrides_file_overrides_default(tmp_path: Path) -> None:
    config = write(tmp_path, "steps: 3\nmacs: 0.25\nimage-size: 48\n")
    settings = PruneSettings.resolve({**NEEDED, "steps": "5"}, config)
    assert (settings.steps, settings.macs, settings.reference) == (5, 0.25, 20)
    assert settings.image_size == (48,)


def test_file_alone_is_enough(tmp_path: Path) -> None:
    config = write(tmp_path, "data: phantom\nmodel: m\nout: o\nforce: true\nspeed: false\n")
    settings = PruneSettings.resolve({}, config)
    assert settings.force
    assert not settings.speed
    assert settings.out == Path("o")


def test_flag_turns_off_what_the_file_turns_on(tmp_path: Path) -> None:
    config = write(tmp_path, "speed: true\n")
    assert not PruneSettings.resolve({**NEEDED, "speed": False}, config).speed


def test_lists_are_comma_separated_or_yaml_lists(tmp_path: Path) -> None:
    given = {"mean": "0.5, 0.4,0.3", "std": "0.2,0.2,0.2", "classes": "b,a"}
    from_flags = PruneSettings.resolve({**NEEDED, **given})
    config = write(tmp_path, "mean: [0.5, 0.4, 0.3]\nstd: [0.2, 0.2, 0.2]\nclasses: [b, a]\n")
    assert PruneSettings.resolve(NEEDED, config) == from_flags
    assert from_flags.mean == (0.5, 0.4, 0.3)
    assert from_flags.classes == ("b", "a")


def test_options_of_the_criterion_are_a_mapping_in_the_file(tmp_path: Path) -> None:
    config = write(tmp_path, "option: {n_steps: 16, aggregate: positive}\n")
    from_flags = {**NEEDED, "option": ["n_steps=16", "aggregate=positive"]}
    assert PruneSettings.resolve(NEEDED, config) == PruneSettings.resolve(from_flags)


def test_single_number_is_a_list_of_one(tmp_path: Path) -> None:
    config = write(tmp_path, "mean: 0.5\nstd: 0.25\nimage_size: 64\n")
    settings = PruneSettings.resolve(NEEDED, config)
    assert (settings.mean, settings.std, settings.image_size) == ((0.5,), (0.25,), (64,))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle: x\n", "unknown key 'modle': did you mean 'model'?"),
        ("steps: many\n", "'steps' in '.*' cannot be 'many': input should be a valid integer$"),
        ("- a\n", "must hold lines of 'name: value'"),
        ("a: [\n", "is not YAML"),
        ("macs: 0.9\nmacs: 0.3\n", "'macs' stands there twice: call one otherwise"),
        ("steps: 0\n", "greater than or equal to 1"),
    ],
)
def test_bad_file_is_said_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DebrideError, match=said) as caught:
        PruneSettings.resolve(NEEDED, write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DebrideError, match=r"no file '.*none\.yaml'"):
        PruneSettings.resolve(NEEDED, tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"macs": "1.5"}, "--macs cannot be '1.5': input should be less than 1"),
        ({"macs": "50"}, r"less than 1 \(for 50 % write 0.5\)$"),
        ({"macs": "50%"}, r"valid number \(for 50 % write 0.5\)$"),
        ({"max_drop": "2"}, r"\(for 2 % write 0.02\)$"),
        ({"macs": "0"}, "greater than 0$"),
        ({"macs": "0.5", "ratio": "0.5"}, "--macs and --ratio are both given"),
        ({"mean": "0.5"}, "--mean and --std go together"),
        ({"mean": "0.5", "std": "0"}, "--std must be above 0"),
        ({"mean": "0.5", "std": "0.1,0.1,0.1"}, "--mean has 1 numbers and --std has 3"),
        ({"image_size": "big"}, "--image-size cannot be 'big'"),
        (
            {"ranking": "local"},
            "--ranking cannot be 'local': input should be 'global', 'isomorphic' or 'layer'",
        ),
        ({"macs": "0.5", "max_drop": "0.01"}, "--macs and --max-drop are both given"),
        ({"metric": "auc"}, "--metric is for a search: give --max-drop too"),
        ({"confidence": "0.9"}, "--confidence is for a search: give --max-drop too"),
        (
            {"max_drift": "0.3", "confidence": "0.9"},
            "--confidence is for a search: give --max-drop too",
        ),
        ({"latency_table": "t.json"}, "--latency-table goes with --latency"),
        ({"at": "0.3"}, "--from and --at go together"),
        ({"channels": "2"}, "--channels cannot be '2'"),
    ],
)
def test_bad_flag_is_said_in_one_sentence(given: dict[str, str], said: str) -> None:
    with pytest.raises(DebrideError, match=said):
        PruneSettings.resolve({**NEEDED, **given})


def test_all_missing_settings_are_named() -> None:
    with pytest.raises(DebrideError, match="--data and --model and --out must be given"):
        TrainSettings.resolve({})


def test_channels_may_be_text_or_number(tmp_path: Path) -> None:
    assert PruneSettings.resolve({**NEEDED, "channels": "3"}).channels == 3
    assert PruneSettings.resolve(NEEDED, write(tmp_path, "channels: 1\n")).channels == 1


def test_explain_takes_one_source_of_images() -> None:
    with pytest.raises(DebrideError, match="either --data or --images"):
        ExplainSettings.resolve({"model": "m", "out": "o"})
    given = {"model": "m", "out": "o", "images": "a", "data": "b"}
    with pytest.raises(DebrideError, match="either --data or --images"):
        ExplainSettings.resolve(given)


def test_settings_go_into_json_and_back() -> None:
    settings = EvaluateSettings.resolve({"data": "d", "model": "m", "image_size": "64,48"})
    assert EvaluateSettings.model_validate_json(settings.model_dump_json()) == settings


def test_another_network_of_a_search_takes_its_settings(tmp_path: Path) -> None:
    run = PruneSettings.resolve({**NEEDED, "max_drop": "0.02", "steps": "2", "protect": "conv1"})
    folder = tmp_path / "x"
    folder.mkdir()
    given = {"from_": str(folder), "at": "0.3", "out": "y"}
    with pytest.raises(DebrideError, match=r"'.*x' is not the folder of a search: give --from one"):
        PruneSettings.resolve(given)
    (folder / "run.json").write_text(json.dumps({"settings": run.model_dump(mode="json")}))
    with pytest.raises(DebrideError, match="names the function m, which would be imported"):
        PruneSettings.resolve(given)
    given["trust"] = "true"
    found = PruneSettings.resolve(given)
    assert (found.max_drop, found.steps, found.protect) == (0.02, 2, ("conv1",))
    assert (found.data, found.out, found.at) == (run.data, Path("y"), 0.3)
    with pytest.raises(DebrideError, match="--steps cannot be given with --from"):
        PruneSettings.resolve({**given, "steps": "3"})
    written = write(tmp_path, f"from: {folder}\nat: 0.3\nout: y\ntrust: true\n")
    assert PruneSettings.resolve({}, written) == found
