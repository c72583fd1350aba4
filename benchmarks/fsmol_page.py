"""Write docs/fsmol.md from benchmarks/results/fsmol.json and serving.json: no figure in it is typed by hand.

python -m benchmarks.fsmol_page          write
python -m benchmarks.fsmol_page --check  exit with 1 if what is written is not up to date
"""

import json
import sys
from pathlib import Path
from typing import Any

from innerloop.runs.progress import duration
from innerloop.runs.results import NORMAL_QUANTILE

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "fsmol.md"
METRIC = "delta-AUPRC"
NAMES = {
    "short": "start from class means, 3 inner steps",
    "descriptors": "descriptors alone",
    "fingerprint": "fingerprint alone",
    "ridge": "head from ridge regression",
    "zero": "head from a learned start, no prototypes",
    "joint": "no inner steps (prototypes alone)",
    "fomaml": "first-order meta-gradient",
}


def page(result: dict[str, Any], serving: dict[str, Any]) -> str:
    """The whole page."""
    parts = result["parts"]
    main, known = parts["main"], parts["main"]["environment"]
    machine = known["machine"]
    sizes = list(dict.fromkeys(row["size"] for row in main["scores"]["rows"]))
    head = [f"| | {' | '.join(map(str, sizes))} |", "|---|" + "---|" * len(sizes)]
    lines = [
        "# Your own tasks, measured",
        "",
        "## FS-Mol",
        "",
        "Drug-discovery assays from ChEMBL: which molecules are active, from a few labelled ones. Written by `make "
        "results` from `benchmarks/results/fsmol.json`.",
        "",
        f"`{' '.join(known['command'])}`, commit {(known['commit'] or 'unknown')[:10]}, seed {known['seed']}, "
        f"{machine['processor']} with {machine['cores']} cores (shared with other work), jax "
        f"{known['versions']['jax']}: {main['meta_steps']:,} meta-steps in {duration(main['training_seconds'])}, taken "
        f"from step {main['best_step']:,}, the best on 100 training tasks that were held out.",
        "",
        f"The {main['scores']['rows'][0]['tasks']} validation tasks; support sets stratified by label, 10 draws each, "
        "every other molecule is a query. Gain in area under the precision-recall curve over random scores "
        "(delta-AUPRC), mean over tasks ± standard error.",
        "",
        *head,
        row("**innerloop**", standard_errors(main["scores"]), "innerloop", sizes),
    ]
    baselines = [
        r for name in ("baselines", "baselines-large") if name in parts for r in standard_errors(parts[name]["scores"])
    ]
    if baselines:
        methods = dict.fromkeys(each["method"] for each in baselines)
        lines += [row(f"scikit-learn: {name}", baselines, name, sizes) for name in methods]
        lines += [
            "",
            "scikit-learn's models are fitted on the same support sets, with the same features (scaled as here), "
            "untuned: a forest of 100 trees, 5 nearest neighbours, logistic regression.",
        ]
    lines += [
        "",
        "These are the tasks to choose settings on, and a prototype of this learner was looked at on them (scales of "
        "features, how the head begins, dropout); the 157 test tasks are not used. Training saw 2,048 of the "
        "benchmark's training tasks. The published figures are of the test tasks, and so not comparable.",
        "",
    ]
    ablations = [name for name in NAMES if name in parts]
    if ablations:
        before = parts[ablations[0]]["environment"]["commit"] or "unknown"
        lines += [
            "### What matters",
            "",
            f"Of a learner whose head starts from class means, as it was chosen before (commit {before[:10]}), and "
            "half the meta-steps. Each further line changes one thing.",
            "",
            *head,
        ]
        lines += [row(NAMES[name], standard_errors(parts[name]["scores"]), "innerloop", sizes) for name in ablations]
        lines.append("")
    curves = main["scores"]["curves"]
    steps = len(curves[str(sizes[0])][METRIC])
    if steps > 1:
        lines += [
            "### Adaptation",
            "",
            "Delta-AUPRC after so many inner steps.",
            "",
            f"| support | {' | '.join(map(str, range(steps)))} |",
            "|---|" + "---|" * steps,
        ]
        for size in sizes:
            lines.append(f"| {size} | {' | '.join(f'{value:.3f}' for value in curves[str(size)][METRIC])} |")
        lines.append("")
    lines += ["### What was chosen", "", *(f"- {each}" for each in main["choices"]), ""]
    lines += serving_section(serving)
    return "\n".join(lines)


def serving_section(result: dict[str, Any]) -> list[str]:
    """How many requests a second, and how long they wait."""
    known = result["environment"]
    machine, times = known["machine"], result["milliseconds"]
    return [
        "## Serving",
        "",
        f"`python -m benchmarks.serving RUN`, commit {(known['commit'] or 'unknown')[:10]}, {machine['processor']} "
        f"with {machine['cores']} cores, which the clients use too. Each request adapts to {result['support']} rows of "
        f"{result['features']} columns and predicts {result['query']}; {result['concurrency']} clients ask again as "
        "soon as they are answered.",
        "",
        f"| requests | errors | a second | {' | '.join(f'{p}, ms' for p in times)} |",
        "|---|---|---|" + "---|" * len(times),
        f"| {result['requests']:,} | {result['errors']} | {result['requests_per_second']:.0f} | "
        f"{' | '.join(f'{each:.0f}' for each in times.values())} |",
        "",
    ]


def standard_errors(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an evaluation with standard errors, as the benchmark states them, in place of 95 % intervals."""
    if "interval" not in scores:  # of an earlier version, which kept standard errors
        return scores["rows"]
    return [
        each | {"metrics": {name: (mean, width / NORMAL_QUANTILE) for name, (mean, width) in each["metrics"].items()}}
        for each in scores["rows"]
    ]


def row(name: str, rows: list[dict[str, Any]], method: str, sizes: list[int]) -> str:
    found = {each["size"]: each["metrics"][METRIC] for each in rows if each["method"] == method}
    cells = (f"{found[size][0]:.3f} ± {found[size][1]:.3f}" if size in found else "" for size in sizes)
    return f"| {name} | {' | '.join(cells)} |"


def main(check: bool) -> int:
    text = page(*(json.loads((RESULTS / f"{name}.json").read_text()) for name in ("fsmol", "serving")))
    if PAGE.exists() and PAGE.read_text() == text:
        return 0
    print(f"{PAGE.relative_to(ROOT)} {'is not up to date; run: make results' if check else 'written'}")
    if not check:
        PAGE.write_text(text)
    return int(check)


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv))
