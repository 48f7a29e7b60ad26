"""Check every file of this folder with the tools made for it, as `make check` does; each failure names its file.

What comes from PyPI (the extra `check`) must be there. What comes from Debian is run where it is. The tests run that
part alone, by `--debian`, and there it must be there. kubectl, which Debian has too old, is only used where it is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PYPI = Path(sysconfig.get_path("scripts"))
KUSTOMIZATIONS = ("kubernetes", "kubernetes/gpu")
COMMAND = "/opt/dicom-gam/bin/dicom-gam"  # in the unit: not on this machine


@dataclass(frozen=True)
class Check:
    """A program and its arguments, in the repository's folder. `package`: what to install, None for one of PyPI's."""

    arguments: tuple[str, ...]
    package: str | None = None


def checks(made: Path) -> Iterator[Check]:
    """Every check; `made` is a folder for what is made of the files first."""
    scripts = (".ci/run", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("*/*.sh"))))
    composed = tuple(f"docker/{path.name}" for path in sorted(HERE.glob("compose*.yml")))
    yield Check(("hadolint", "docker/Dockerfile"))
    yield Check(("shellcheck", *scripts))
    yield Check(("yamllint", "--strict", "--config-file", "docker/.yamllint", "docker"))
    yield Check(("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *composed))
    manifests = sorted(str(path.relative_to(ROOT)) for path in (HERE / "kubernetes/base").glob("*.yaml"))
    yield Check(("kubernetes-validate", "--strict", "--quiet", *(m for m in manifests if "kustomization" not in m)))
    yield Check(("promtool", "check", "rules", "docker/prometheus-alerts.yml"), "prometheus")
    yield Check(("promtool", "test", "rules", "docker/prometheus-alerts-test.yml"), "prometheus")
    yield Check(("promtool", "check", "config", "--syntax-only", "docker/prometheus.yml"), "prometheus")
    yield Check(("promtool", "check", "config", "--syntax-only", "docker/compose/prometheus.yml"), "prometheus")
    unit = made / "dicom-gam.service"
    unit.write_text((HERE / "systemd/dicom-gam.service").read_text().replace(COMMAND, sys.executable))
    yield Check(("systemd-analyze", "verify", "--man=no", str(unit)), "systemd")
    yield Check(("systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)), "systemd")


def rendered(made: Path) -> Iterator[Check]:
    """The checks of what kustomize makes of the manifests."""
    if shutil.which("kubectl") is None:
        print("  not run, as kubectl is not here: kubectl kustomize (the tests apply the patch by hand)")
        return
    for name in KUSTOMIZATIONS:
        done = subprocess.run(["kubectl", "kustomize", HERE / name], capture_output=True, text=True, check=False)
        target = made / f"{name.replace('/', '-')}.yaml"
        target.write_text(done.stdout or f"# docker/{name}: {done.stderr}")
        yield Check(("kubernetes-validate", "--strict", "--quiet", str(target)))


def unreadable() -> Iterator[str]:
    """JSON files that can't be read, with line and column."""
    for path in sorted(HERE.rglob("*.json")):
        try:
            json.loads(path.read_text("utf-8"))
        except ValueError as error:
            yield f"{path.relative_to(ROOT)}: is no JSON: {error}"


def run(check: Check, debian: bool) -> str:
    """Run one; what is wrong, or nothing."""
    name, *rest = check.arguments
    program = str(PYPI / name) if check.package is None else shutil.which(name)
    if program is None or not Path(program).exists():
        if check.package is None:
            return f"{name} is not installed: pip install -e '.[check]'"
        if debian:
            return f"{name} is not installed: apt-get install {check.package}"
        print(f"  not run, as {name} is not here (the tests have it): {' '.join(check.arguments)}")
        return ""
    done = subprocess.run([program, *rest], cwd=ROOT, capture_output=True, text=True, check=False)
    # systemd-analyze verify ends with 0 after a warning about an unknown key
    warned = rest[0] == "verify" and "dicom-gam.service" in done.stderr
    if done.returncode == 0 and not warned:
        return ""
    return f"{' '.join(check.arguments)}\n{done.stdout}{done.stderr}".rstrip()


def main(debian: bool) -> int:
    """Run all, or what comes from Debian; exit status 1 when one found something."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        wanted = [check for check in checks(made) if check.package or not debian]
        wanted += [] if debian else rendered(made)
        failures = [*unreadable(), *filter(None, (run(check, debian) for check in wanted))]
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"docker/: {len(failures)} of the checks found something" if failures else "docker/: all checks passed")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] == ["--debian"]))
