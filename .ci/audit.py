"""Known flaws of the versions in constraints.txt, by pip-audit; want of a network is no failure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory


def main(constraints: str) -> str | None:
    """Print how many packages were looked up; the flaws, or None where none is known."""
    command = [
        str(Path(sys.executable).with_name("pip-audit")),
        "-r",
        constraints,
        "--no-deps",
        "--disable-pip",
    ]
    with TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command += ["--progress-spinner", "off", "-f", "json", "-o", str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not answer.is_file():
            said = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            print(f"pip-audit: the advisories are out of reach, nothing was checked ({said[:200]})")
            return None
        packages = json.loads(answer.read_text(encoding="utf-8"))["dependencies"]
    known = [package for package in packages if "vulns" in package]
    flaws = [
        f"{package['name']} {package['version']}: {flaw['id']}, mended in "
        f"{flaw.get('fix_versions') or 'none yet'}"
        for package in known
        for flaw in package["vulns"]
    ]
    found = f"{len(flaws)} flaws" if known else "flaws unknown"
    print(f"pip-audit: {len(known)} of {len(packages)} packages looked up, {found}")
    return "\n".join(flaws) or None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
