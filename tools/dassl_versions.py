"""Write the fingerprints of Dassl's modules, by which the launcher knows what a checkout's authors changed.

python tools/dassl_versions.py path/to/Dassl.pytorch    (with its history; writes qprompt/assets/dassl_versions.txt)
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from qprompt.dropin.own_dassl import fingerprint  # noqa: E402

FILE = ROOT / "qprompt" / "assets" / "dassl_versions.txt"


def main(checkout: str) -> None:
    """Write the fingerprints of all versions of all files of the package in the history."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=checkout, check=True, capture_output=True, text=True).stdout

    found = set()
    for line in git("log", "--all", "--format=", "--raw", "--no-abbrev", "--no-renames", "--", "dassl").splitlines():
        *_, blob, status, path = line.split()
        if status != "D" and path.endswith(".py"):
            found.add(fingerprint(git("cat-file", "blob", blob)))
    FILE.write_text("\n".join(sorted(found)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
