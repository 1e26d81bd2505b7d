"""Results to a markdown table and a plot, and both into benchmarks/README.md."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from systems import SYSTEMS

BEGIN, END = "<!-- figures: written by run.py -->", "<!-- end of figures -->"


def spread(values: Sequence[float], form: str) -> str:
    """Median with smallest and largest: ``1.05 (0.98-1.11)``."""
    middle, low, high = (format(value, form) for value in (median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low}-{high})"


def ratios(workload: dict, key: str, rate: str) -> str:
    """Headrace's rate by that of `key`, round for round; "" where there is nothing to compare."""
    ours = workload["systems"].get("headrace", {}).get(rate, [])
    found = [a / b for a, b in zip(ours, workload["systems"][key][rate], strict=False)]
    return spread(found, ".2f") if found and key != "headrace" else ""


def table(results: dict) -> str:
    """One table per workload: medians, each with smallest and largest of the rounds."""
    machine = dict(results["machine"])
    parts = [
        f"Taken {results['made']} on {machine.pop('cpu')}, {machine.pop('cores')} vCPU, with "
        + ", ".join(f"{name} {version}" for name, version in machine.items())
        + "."
    ]
    for name, workload in results["workloads"].items():
        rounds = max((len(found["rows_per_s"]) for found in workload["systems"].values()), default=0)
        parts.append(f"\n**{name.upper()}**: {workload['rows']:,} rows, {rounds} rounds\n")
        parts.append(
            "| system | rows/s | Headrace by it | marginal rows/s | Headrace by it | fixed s | whole s | peak MB |"
        )
        parts.append("|---|---|---|---|---|---|---|---|")
        for key, found in workload["systems"].items():
            marginal = f"{median(found['marginal_rows_per_s']):,.0f}" if found["marginal_rows_per_s"] else ""
            fixed = f"{median(found['fixed_s']):.1f}" if found["fixed_s"] else ""
            peak = f"{found['peak_bytes'] / 1e6:,.0f}" if found["peak_bytes"] else ""
            parts.append(
                f"| {SYSTEMS[key].name} | {median(found['rows_per_s']):,.0f} | {ratios(workload, key, 'rows_per_s')} "
                f"| {marginal} | {ratios(workload, key, 'marginal_rows_per_s')} "
                f"| {fixed} | {median(found['wall_s']):.1f} | {peak} |"
            )
        parts += [f"\n{SYSTEMS[key].name} failed: {error.splitlines()[0]}" for key, error in workload["failed"].items()]
    return "\n".join(parts)


def plot(results: dict, path: Path) -> None:
    """Rates as bars, one panel per workload, whiskers from the slowest to the fastest round."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(results["workloads"])
    figure, panels = pyplot.subplots(1, len(names), figsize=(5 * len(names), 3.6), squeeze=False)
    for panel, name in zip(panels[0], names, strict=True):
        found = results["workloads"][name]["systems"]
        keys = list(found)[::-1]
        middle = [median(found[key]["rows_per_s"]) for key in keys]
        low = [m - min(found[key]["rows_per_s"]) for m, key in zip(middle, keys, strict=True)]
        high = [max(found[key]["rows_per_s"]) - m for m, key in zip(middle, keys, strict=True)]
        colors = [
            "#d1495b" if key == "headrace" else "#9aa5b1" if SYSTEMS[key].gives_rows else "#dfe4ea" for key in keys
        ]
        panel.barh([SYSTEMS[key].name for key in keys], middle, xerr=[low, high], color=colors, capsize=3)
        panel.set_title(f"{name.upper()}, {results['workloads'][name]['rows']:,} rows")
        panel.set_xlabel("rows/s")
        panel.ticklabel_format(axis="x", style="sci", scilimits=(-3, 5))
        panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write(results: dict, folder: Path) -> None:
    """Puts the figures into README.md, results.json and results.png under `folder`; workloads not run stay in them."""
    kept = folder / "results.json"
    if kept.exists():
        results = results | {"workloads": json.loads(kept.read_text())["workloads"] | results["workloads"]}
    kept.write_text(json.dumps(results, indent=1) + "\n")
    plot(results, folder / "results.png")
    readme = folder / "README.md"
    figures = f"{BEGIN}\n\n{table(results)}\n\n![rates](results.png)\n\n{END}"
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    readme.write_text(pattern.sub(lambda _: figures, readme.read_text()))
