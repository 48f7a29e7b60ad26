"""Write the documents, or with --check say whether they are in step: python -m conformance.statement."""

import argparse
import difflib
import sys

from conformance.statement.documents import FOLDER, documents


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(prog="python -m conformance.statement", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 with a diff when out of step")
    check = parser.parse_args().check
    differences = 0
    for name, text in documents().items():
        path = FOLDER / name
        if not check:
            path.write_text(text, encoding="utf-8")
            continue
        there = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = difflib.unified_diff(there.splitlines(), text.splitlines(), name, f"{name} as it would be", lineterm="")
        for line in lines:
            differences += 1
            sys.stdout.write(f"{line}\n")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
