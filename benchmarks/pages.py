"""What scripts write into the documentation, or find to be out of date."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def write_page(page: Path, text: str, check: bool) -> int:
    """Give a page its text, or with `check` only say whether it has it; the exit status."""
    if page.exists() and page.read_text() == text:
        return 0
    print(f"{page.relative_to(ROOT)} {'is not up to date; run: make results' if check else 'written'}")
    if not check:
        page.write_text(text)
    return int(check)


def write_block(page: Path, name: str, text: str, check: bool) -> int:
    """The same for what stands in a page between the marks of a block, of which the first says `NAME: written`."""
    start, end = f"<!-- {name}: written by `make results` -->", f"<!-- end of {name} -->"
    before, rest = page.read_text().split(start)
    _, after = rest.split(end)
    return write_page(page, f"{before}{start}\n{text}\n{end}{after}", check)
