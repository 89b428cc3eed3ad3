"""The studies of docs/methods.md: every curriculum of examples/learn that has no result yet is carried out, its result
and figure put into docs/methods, and the table of all results printed.

    INSITU_DATA=... python bench/methods.py [NAME ...] [--again]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from insitu.arch.files import write_whole
from insitu.host.learn import drawing, experiment, results, schema

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/methods"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="curricula, without .toml; all where none is named")
    parser.add_argument("--again", action="store_true", help="also those that have a result")
    chosen = parser.parse_args()
    files = {file.stem: file for file in sorted((ROOT / "examples/learn").glob("*.toml"))}
    FOLDER.mkdir(exist_ok=True)
    for name in chosen.names or files:
        kept = FOLDER / f"{name}.json"
        if chosen.again or not kept.exists():
            result = experiment.run(schema.load(files[name]))
            write_whole(kept, (json.dumps(_rounded(result), separators=(",", ":")) + "\n").encode())
        write_whole(kept.with_suffix(".svg"), drawing.to_svg(json.loads(kept.read_text())))
    print("\n".join(results.table([json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))])))


def _rounded(value: object) -> object:
    """Four places: a test set has 10,000 images at most."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
