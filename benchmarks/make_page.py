"""Write docs/results.md and its figures from the files in results/, and those of docs/concepts.

    python benchmarks/make_page.py [RESULTS] [DOCS]

RESULTS is results, DOCS is docs unless given. Nothing is measured or trained here.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from page import contents, page
from page.concepts import CONCEPTS
from page.figures import FIGURES
from page.paper import save

from multispike.errors import InputError
from multispike.files import write_text


def write_page(results: Path, docs: Path) -> Path:
    """DOCS/results.md and its figures, from what is in RESULTS; gives the page's path.

    Raises:
        InputError: where RESULTS is no folder, or one of its files can't be read.
    """
    if not results.is_dir():
        raise InputError(f"results: got {str(results)!r}, allowed: a folder of results")
    text = page(results)
    (docs / "figures").mkdir(parents=True, exist_ok=True)
    for name, (file, draw) in FIGURES.items():
        for _, content in contents(results, file):
            save(draw(content), docs / "figures" / f"{name}.png", dpi=110)
    for name, draw in CONCEPTS.items():
        save(draw(), docs / "figures" / f"{name}.png", dpi=110)
    write_text(docs / "results.md", text)
    return docs / "results.md"


def main(folders: Sequence[str]) -> int:
    """The exit code: 2 where the results can't be read."""
    try:
        print(write_page(*map(Path, [*folders, *("results", "docs")[len(folders) :]])))
    except InputError as error:
        print(f"make_page: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
