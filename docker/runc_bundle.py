"""Write what runc needs to run an image's root file system as Docker would: try-image.sh calls it.

    runc_bundle.py BUNDLE ROOT-FILE-SYSTEM IMAGE.json CONFIGURATION STATE [ARGUMENT ...]

IMAGE.json is what `buildah inspect --type image` says. As strict as the image claims to allow: its own user, no
capability, nothing of the root file system writable, a network of its own with loopback alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def main(bundle: Path, root: str, image: Path, configuration: str, state: str, *arguments: str) -> None:
    """Let runc make its usual specification, and change what the image and its strict use want otherwise."""
    bundle.mkdir(parents=True)
    subprocess.run(["runc", "spec", "--bundle", bundle], check=True)
    written = bundle / "config.json"
    spec = json.loads(written.read_text())
    config = json.loads(image.read_text())["Docker"]["config"]
    user, group = map(int, config["User"].split(":"))
    spec["process"] |= {
        "terminal": False,
        "user": {"uid": user, "gid": group},
        "args": [*config["Entrypoint"], *(arguments or config["Cmd"])],
        "env": config["Env"],
        "cwd": config["WorkingDir"],
        "capabilities": {},
        "rlimits": [],
        "noNewPrivileges": True,
    }
    spec["root"] = {"path": root, "readonly": True}
    spec["mounts"] += [
        {
            "destination": "/tmp",  # noqa: S108 (the container's own)
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "nodev", "noexec", "mode=1777", "size=256m"],
        },
        _bound(state, next(iter(config["Volumes"])), "rw"),
        _bound(configuration, "/etc/dicom-gam/node.toml", "ro"),
    ]
    written.write_text(json.dumps(spec, indent=1))


def _bound(source: str, destination: str, how: str) -> dict[str, object]:
    return {"destination": destination, "type": "bind", "source": source, "options": ["bind", how]}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
