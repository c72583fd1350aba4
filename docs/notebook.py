"""Write examples/own_tasks.ipynb from docs/own-tasks.md: its text and its Python, cell by cell.

python docs/notebook.py
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE, NOTEBOOK = ROOT / "docs" / "own-tasks.md", ROOT / "examples" / "own_tasks.ipynb"


def cells(page: str) -> list[dict[str, Any]]:
    """The cells of a page: what stands in ```python fences is code."""
    result: list[dict[str, Any]] = []
    for i, part in enumerate(re.split(r"```python\n(.*?)```\n", page, flags=re.S)):
        source = part.strip().splitlines(keepends=True)
        if not source:
            continue
        cell: dict[str, Any] = {"cell_type": "code" if i % 2 else "markdown", "id": f"cell{i}", "metadata": {}}
        code = {"execution_count": None, "outputs": []} if i % 2 else {}
        result.append(cell | code | {"source": source})
    return result


def notebook(page: str) -> str:
    """The notebook as JSON."""
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    whole = {"cells": cells(page), "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(PAGE.read_text()))
