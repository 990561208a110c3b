"""Install this package into the environment of the Python that runs this file, and show how far it is.

``make study`` and ``make test`` call it: ``.venv/bin/python tools/install.py '.[dev]'``. The versions are
those of ``constraints.txt``. On Linux without a CUDA device it asks the package index for the CPU build of
the pinned PyTorch, which is a fraction of the CUDA build's size, and otherwise installs what pip finds. Needs
the standard library and pip only.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
BUILT_TOGETHER = ("torch", "torchvision")
"""One build of torchvision works with one build of torch alone."""
ASK_SECONDS = 600
LINE_SECONDS = 15
LARGE = 20.0
"""Megabytes of a download that is worth a line of its own."""


def main(requirements: list[str]) -> int:
    """Install ``requirements`` in editable mode and return pip's exit code."""
    pins = pinned(CONSTRAINTS.read_text(encoding="utf-8"))
    chosen, size, extra = choose_build(pins)
    say(f"PyTorch {pins['torch']}: {chosen}")
    say(f"installing {' '.join(requirements)} into {os.path.relpath(sys.prefix)}: {size}; less what is there")
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "build.txt"
        constraints.write_text("".join(f"{line}\n" for line in extra), encoding="utf-8")
        command = [*PIP, "install", "--progress-bar", "off"]
        command += ["--constraint", str(CONSTRAINTS), "--constraint", str(constraints)]
        for requirement in requirements:
            command += ["--editable", requirement]
        return follow(command)


def pinned(text: str) -> dict[str, str]:
    """Return the versions that a file of constraints pins, by name."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.M))


def choose_build(pins: dict[str, str]) -> tuple[str, str, list[str]]:
    """Return which build of PyTorch to install and why, how large all is, and constraints for it."""
    cuda = "about 3 GB to download, 7 GB on disk, 3 to 15 minutes"
    cpu = "about 0.7 GB to download, 2 GB on disk, 2 to 8 minutes"
    if sys.platform != "linux":
        return f"the build for {sys.platform}, without CUDA", cpu, []
    if has_cuda_device():
        return "the package index's own build, as there is a CUDA device", cuda, []
    builds = [f"{name}=={pins[name]}+cpu" for name in BUILT_TOGETHER]
    say(f"no CUDA device; asking the package index for {' and '.join(builds)}")
    if (why_not := unavailable(builds)) is None:
        return "the CPU build, as there is no CUDA device", cpu, builds
    # pip would prefer a CPU build of torch alone to the build that torchvision's other build needs.
    excluded = [build.replace("==", "!=") for build in builds]
    return f"the package index's own build, which runs on CPUs too ({why_not})", cuda, excluded


def has_cuda_device() -> bool:
    """Return whether NVIDIA's driver shows a device."""
    if Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists():
        return True
    if (program := shutil.which("nvidia-smi")) is None:
        return False
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and "GPU" in done.stdout


def unavailable(builds: Iterable[str]) -> str | None:
    """Return why pip cannot install these builds together, or None if it can. Install nothing."""
    command = [*PIP, "install", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:"]
    try:
        done = subprocess.run([*command, *builds], capture_output=True, text=True, timeout=ASK_SECONDS)
    except subprocess.TimeoutExpired:
        return f"the package index did not answer within {ASK_SECONDS} s"
    if done.returncode == 0:
        return None
    if "No matching distribution" in done.stderr:
        return "the package index offers no CPU build of both"
    said = done.stderr.strip().splitlines()
    return f"it is not known whether there is a CPU build: {said[-1] if said else 'pip failed'}"


def follow(command: list[str]) -> int:
    """Run pip, print its large downloads, its phases and its errors, and a line now and then in between."""
    begun = last = time.monotonic()
    packages, phase = 0, "reading the list of packages"
    kept: list[str] = []
    site = Path(sysconfig.get_path("purelib"))
    before = sum(1 for _ in site.glob("*.dist-info"))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lock = threading.Lock()

    def heartbeat() -> None:
        nonlocal last
        while process.poll() is None:
            time.sleep(1)
            with lock:
                now = time.monotonic()
                if now - last >= LINE_SECONDS:
                    there = sum(1 for _ in site.glob("*.dist-info")) - before
                    say(f"{now - begun:4.0f} s: {phase}{f', {there} done' if there > 0 else ''}")
                    last = now

    threading.Thread(target=heartbeat, daemon=True).start()
    for line in process.stdout:
        text = line.strip()
        with lock:
            kept = [*kept[-40:], text]
            shown = None
            if text.startswith("Collecting "):
                packages += 1
                phase = f"package {packages}, {text.split()[1]}"
            elif found := re.match(r"(?:Downloading|Using cached) (\S+) \(([\d.]+) (MB|GB)\)", text):
                megabytes = float(found[2]) * (1000 if found[3] == "GB" else 1)
                source = "from the cache" if text.startswith("Using") else "downloading"
                phase = f"{source}: {Path(found[1]).name}"
                shown = f"{phase}, {megabytes:.0f} MB" if megabytes >= LARGE else None
            elif text.startswith("Installing collected packages"):
                phase = f"unpacking {text.count(',') + 1} packages"
                shown = phase
            if shown:
                last = time.monotonic()
                say(f"{last - begun:4.0f} s: {shown}")
    code = process.wait()
    if code:
        print(*kept, sep="\n", file=sys.stderr)
    say(f"{'failed' if code else 'installed'} after {time.monotonic() - begun:.0f} s")
    return code


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
