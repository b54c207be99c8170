"""The tables of `docs/relevance_speed.md`, made from what `relevance_speed.py` measured."""

from __future__ import annotations

from typing import Any

LIMITS = {
    "epsilon": 1.3, "attnlrp": 1.3, "epsilon_plus_flat": 1.7, "epsilon_alpha2_beta1_flat": None,
    "dlb": 2.0,
}  # fmt: skip
ZENNIT = {"epsilon_plus_flat": "EpsilonPlusFlat", "epsilon_alpha2_beta1_flat":
          "EpsilonAlpha2Beta1Flat"}  # fmt: skip
MEMORY = 1.6


def limit(rules: str, network: str) -> float | None:
    return 2.2 if (rules, network) == ("epsilon_plus_flat", "3-D UNet") else LIMITS[rules]


def table(results: dict[str, Any]) -> str:
    rows = results["rows"]
    lines = [
        "# Cost of a relevance pass",
        "",
        "Made by `python benchmarks/relevance_speed.py`; do not edit. Ratios to the network's own",
        "forward + backward (to the input, parameters frozen) in the same run: the fastest of the",
        "rounds of each, which take turns; float32, 224 px (3-D UNet: 64³),",
        f"{rows[0]['threads']} CPU threads, torch {rows[0]['torch']}. A number above its limit is",
        "in bold. `missing` is the largest |output − ledger| / max(1, |output|) of these passes.",
        "",
        "| network | batch | own, s | epsilon (≤ 1.3) | attnlrp (≤ 1.3) "
        "| epsilon_plus_flat (≤ 1.7; 3-D UNet 2.2) | epsilon_alpha2_beta1_flat "
        "| dlb (≤ 2.0) | missing |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = []
        for rules in LIMITS:
            ratio, most = row["ratios"][rules], limit(rules, row["network"])
            text = f"{ratio:.2f}"
            cells.append(f"**{text}**" if most is not None and round(ratio, 2) > most else text)
        lines.append(
            f"| {row['network']} | {row['batch']} | {row['own_seconds']:.2f} | "
            f"{' | '.join(cells)} | {max(row['missing'].values()):.0e} |"
        )
    lines += ["", *_peers(rows), *_conductance(results), *_memory(results), *_profile(results)]
    return "\n".join([*lines, ""])


def _peers(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## Beside zennit 0.5.1, batch 8",
        "",
        "| network | composite | ours | zennit | times faster | to reach |",
        "|---|---|---|---|---|---|",
    ]
    goals = {
        ("ResNet-50", "epsilon_plus_flat"): 3, ("ResNet-50", "epsilon_alpha2_beta1_flat"): 4,
        ("VGG-19", "epsilon_plus_flat"): 1.45, ("VGG-19", "epsilon_alpha2_beta1_flat"): 2.2,
    }  # fmt: skip
    for row in rows:
        for rules in ZENNIT:
            theirs = row["ratios"].get(f"zennit {rules}")
            if theirs is not None:
                ours = row["ratios"][rules]
                lines.append(
                    f"| {row['network']} | {rules} | {ours:.2f} | {theirs:.2f} "
                    f"| {theirs / ours:.2f} | {goals[row['network'], rules]} |"
                )
    one = {r["network"]: r["own_seconds"] * r["ratios"]["dlb"] for r in rows if r["batch"] == 1}
    lines += [
        "",
        "dl-backtrace 0.1.24 took 21.8 s (ResNet-50) and 105 s (VGG-19) an image on such a "
        "machine, the dlb method "
        + " and ".join(f"{one[n]:.2f} s" for n in ("ResNet-50", "VGG-19") if n in one)
        + " here.",
        "",
    ]
    return lines


def _conductance(results: dict[str, Any]) -> list[str]:
    found = results.get("conductance")
    if not found:
        return []
    return [
        "## Integrated gradients",
        "",
        f"Conductance of all {found['layers']} convolutions of ResNet-50, {found['steps']} steps, "
        f"one image: {found['seconds']:.1f} s in one sweep; captum's `LayerConductance` over the "
        f"same layers {found['captum_seconds']:.0f} s, "
        f"{found['captum_seconds'] / found['seconds']:.0f} times as long (to reach: 20).",
        "",
    ]


def _memory(results: dict[str, Any]) -> list[str]:
    found = results.get("memory")
    if not found:
        return []
    lines = [
        f"## Peak memory (≤ {MEMORY})",
        "",
        "Rise of the process's resident memory over what the network and one small pass left, a",
        "process each, as a multiple of that of the own forward + backward.",
        "",
        f"| network | batch | own, MiB | {' | '.join(LIMITS)} |",
        "|---|---|---|" + "---|" * len(LIMITS),
    ]
    for row in found:
        cells = [
            f"**{row[rules]:.2f}**" if round(row[rules], 2) > MEMORY else f"{row[rules]:.2f}"
            for rules in LIMITS
        ]
        lines.append(
            f"| {row['network']} | {row['batch']} | {row['own_mib']:.0f} | {' | '.join(cells)} |"
        )
    return [*lines, ""]


def _profile(results: dict[str, Any]) -> list[str]:
    found = results.get("profile")
    if not found:
        return []
    kinds = list(found[0]["parts"])
    lines = [
        "## Where the time goes",
        "",
        "`torch.profiler`, one thread, each kind of operator as a share of all that the own",
        "forward + backward takes. z⁺ and DL-Backtrace need one product more in the backward, αβ",
        "and z⁺ on inputs of both signs two. `the rest` is Python: each torch call meets its rule",
        "there.",
        *_alphabeta(found),
        "",
        f"| network | batch | pass | {' | '.join(kinds)} | sum |",
        "|---|---|---|" + "---|" * (len(kinds) + 1),
    ]
    for row in found:
        parts = [row["parts"][kind] for kind in kinds]
        lines.append(
            f"| {row['network']} | {row['batch']} | {row['pass']} | "
            f"{' | '.join(f'{part:.2f}' for part in parts)} | {sum(parts):.2f} |"
        )
    return [*lines, ""]


def _alphabeta(rows: list[dict[str, Any]]) -> list[str]:
    """Say what the αβ pass spends beside its products."""
    asked = ("ResNet-50", 8, "epsilon_alpha2_beta1_flat")
    for row in rows:
        if (row["network"], row["batch"], row["pass"]) == asked:
            shares = ", ".join(f"{kind} {part:.2f}" for kind, part in row["parts"].items())
            return [f"αβ on ResNet-50, batch 8, is not products alone: {shares}."]
    return []
