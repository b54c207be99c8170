"""Thousands of damaged and hostile folders: the same network, or one sentence; nothing else."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import struct
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from debride.artifact.bundle import Bundle, read_bundle, write_bundle
from debride.artifact.manifest import own_hash
from debride.data.preprocessing import Preprocessing
from debride.errors import DebrideError
from debride.models import ModelSpec, build
from debride.planning.costs import Costs
from debride.planning.groups import find_groups
from debride.planning.plan import Plan, fingerprint
from debride.surgery.removal import apply

SPEC = ModelSpec(
    source="timm:vit_tiny_patch16_224",
    outputs=2,
    channels=1,
    spatial=(32, 32),
    options={"depth": 1, "embed_dim": 24, "num_heads": 2},
)
FILES = ("model.json", "plan.json", "run.json", "model.safetensors")
NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 3, 7, 1 << 15, 1 << 31, 1 << 63, 10**40, 1.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "a", "../../etc/passwd", "os:system", "timm:resnet18",
    "head.bias", "0 1 2", "0-999999", "\x00", "é" * 300, "9" * 5000, [], {}, [[]],
    {"a": {"b": {}}}, [0] * 2000,
)  # fmt: skip
SLOWEST = 20.0
"""Seconds that one folder may take, on a machine that does other things."""
MEMORY = 1 << 30
"""Bytes that all of them together may add to the largest size of the process."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "run"
    model = build(SPEC).eval()
    groups = find_groups(model, torch.zeros(1, 1, 32, 32)).groups
    kept = tuple(group.planned(range(0, group.units, 8)) for group in groups)
    plan = Plan(kept, fingerprint(model), Costs(2, 2, 2), Costs(1, 1, 1))
    write_bundle(
        folder,
        apply(model, plan),
        spec=SPEC,
        preprocessing=Preprocessing(spatial=(32, 32), channels=1, mean=(0.4,), std=(0.2,)),
        classes=("normal", "pneumonia"),
        task="multiclass",
        plan=plan,
        run={"history": [{"step": 1, "loss": 0.5}], "settings": {"seed": 3}},
    )
    return folder


def change_bytes(path: Path, rng: random.Random) -> None:
    """Flip, cut, repeat or replace bytes, as a bad disk or a bad copy would."""
    data = bytearray(path.read_bytes())
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    kind = rng.randrange(7)
    if kind == 0:
        for _ in range(rng.choice((1, 1, 1, 20))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[a:]
    elif kind == 2:
        del data[a : min(b, a + 50)]
    elif kind == 3:
        data[a:a] = data[a : min(b, a + 200)]
    elif kind == 4:
        data[a : min(b, a + 8)] = rng.randbytes(8)
    elif kind == 5:
        data = bytearray(pickle.dumps(os.getcwd))
    else:
        data[:8] = struct.pack("<Q", rng.choice((0, 1, 99, len(data), 1 << 33, (1 << 64) - 1)))
    path.write_bytes(bytes(data))


def change_file(path: Path, rng: random.Random) -> None:
    """Take the file away, or put something else in its place."""
    kind = rng.randrange(5)
    other = path.with_name(rng.choice(FILES))
    path_outside = path.parent.parent / "outside"
    if kind == 0:
        path.unlink()
    elif kind == 1 and other != path:
        shutil.copyfile(other, path)
    elif kind == 2:
        path.rename(path_outside)
        path.symlink_to(path_outside)
    elif kind == 3:
        path.unlink()
        os.mkfifo(path)
    else:
        path.unlink()
        path.mkdir()


def places(value: Any) -> list[tuple[Any, Any]]:
    """List every (container, key) of a JSON value."""
    found = []
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *places(value[key])]
    return found


def change_value(content: Any, rng: random.Random) -> None:
    """Change one value anywhere in a JSON content to what was not expected there."""
    inside, key = rng.choice(places(content))
    kind = rng.randrange(6)
    if kind == 0:
        del inside[key]
    elif kind == 1 and isinstance(inside, dict):
        inside[rng.choice(("extra", "checkpoint_path", "__class__", "depth"))] = inside[key]
    elif kind == 2 and isinstance(inside, list):
        inside.extend([inside[key]] * rng.choice((1, 100)))
    elif kind == 3:
        other, place = rng.choice(places(content))
        inside[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(inside[key])
    else:
        inside[key] = copy.deepcopy(rng.choice(NASTY))


def change_json(path: Path, rng: random.Random) -> None:
    """Change the content of a JSON file, or of the header of the tensors."""
    if path.name == "model.safetensors":
        data = path.read_bytes()
        [length] = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        change_value(header, rng)
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        return
    content = json.loads(path.read_text())
    if not places(content):
        return
    for _ in range(rng.choice((1, 1, 2, 4))):
        if places(content):
            change_value(content, rng)
    text = json.dumps(content)
    if rng.random() < 0.05:
        text = text.replace("{", '{"deep": ' + "[" * 3000 + "]" * 3000 + ", ", 1)
    path.write_text(text)


CHANGES: tuple[Callable[[Path, random.Random], None], ...] = (
    change_bytes, change_file, change_json, change_json,
)  # fmt: skip


def mend(folder: Path) -> None:
    """Make every hash right again, as one who wants to do harm would."""
    path = folder / "model.json"
    if not path.is_file():
        return
    try:
        content = json.loads(path.read_text())
        for name in ("model.safetensors", "plan.json", "run.json"):
            if name in content["sha256"]:
                data = (folder / name).read_bytes() if (folder / name).is_file() else b""
                content["sha256"][name] = hashlib.sha256(data).hexdigest()
        content["sha256"]["model.json"] = own_hash(content)
        path.write_text(json.dumps(content))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return


def state(bundle: Bundle) -> list[tuple[str, bytes]]:
    """Give everything that a network computes with."""
    tensors = bundle.model.state_dict().items()
    return [(name, tensor.numpy().tobytes()) for name, tensor in tensors]


def try_folders(sound: Path, tmp_path: Path, seeds: range) -> tuple[int, int]:
    """Change a folder once for every seed and read it; count what was refused and what was not."""
    original = read_bundle(sound)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = read = 0
    for seed in seeds:
        rng = random.Random(seed)
        place = tmp_path / str(seed)
        shutil.copytree(sound, place / "run")
        mended = rng.random() < 0.7
        rng.choice(CHANGES)(place / "run" / rng.choice(FILES), rng)
        if mended:
            mend(place / "run")
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                bundle = read_bundle(place / "run")
        except DebrideError as error:
            refused += 1
            if not 0 < len(str(error)) < 1000 or not str(error).isprintable():
                raise AssertionError(f"seed {seed}: no sentence: {error}") from error
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
        else:
            read += 1
            if not mended:
                assert state(bundle) == state(original), f"seed {seed}: another network"
                assert bundle.spec == original.spec, f"seed {seed}"
                assert bundle.classes == original.classes, f"seed {seed}"
                assert bundle.preprocessing == original.preprocessing, f"seed {seed}"
                assert bundle.plan == original.plan, f"seed {seed}"
        taken = time.perf_counter() - start
        assert taken < SLOWEST, f"seed {seed}: {taken:.0f} s"
        shutil.rmtree(place)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < MEMORY, f"the process grew by {grown >> 10} MB"
    return refused, read


def test_a_few_hundred_changed_folders(sound: Path, tmp_path: Path):
    refused, read = try_folders(sound, tmp_path, range(200))
    assert refused > 100
    assert read > 5  # changes of what nobody computes with, such as the run's history


@pytest.mark.slow
def test_thousands_of_changed_folders(sound: Path, tmp_path: Path):
    refused, _ = try_folders(sound, tmp_path, range(1000, 6000))
    assert refused > 2500
