"""Runs the parts one after the other, each in a process and under a time limit of its own."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu import environment, summary
from gpu.harness import ROOT
from gpu.summary import Outcome

TOTAL_SECONDS = 480.0
GRACE = 4.0
"""Seconds between a part's own budget and its limit, and between SIGTERM and SIGKILL."""
LEAST = 15.0
"""Seconds under which a part is not started."""
DRY_VARIABLES = {"HYPERGRAD_GPU_DRY": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
BUNDLE_SECONDS = 10.0
"""Between two copies of what is there so far into the bundle."""


@dataclass(frozen=True)
class Part:
    """One part of the run.

    Args:
        name: What the command line calls it.
        target: The module with its ``main(context)``.
        about: One line for people.
        seconds: What it may take, whatever the others take.
        most: What it may take if earlier parts leave time over.
    """

    name: str
    target: str
    about: str
    seconds: float
    most: float


PARTS = (
    Part("tests", "gpu.part_tests", "every test marked gpu", 60, 90),
    Part("step", "gpu.part_step", "one optimizer step against torch's fused and foreach", 40, 60),
    Part("packs", "gpu.part_packs", "packs against single trials and concurrent processes", 70, 100),
    Part("vgg", "gpu.part_vgg", "VGG-16 on CIFAR-10: precisions, then the paper's six optimizers", 220, 240),
    Part("mlp", "gpu.part_mlp", "figure1-mlp: 100 epochs of the paper's six optimizers", 80, 300),
)
"""In the order of their value: what comes first is measured even if the machine is lost."""


@dataclass(frozen=True)
class Options:
    """What all parts are given; see the command's help."""

    out: Path
    dry: bool = False
    data: Path | None = None
    pictures: Path | None = None
    bundle: Path | None = None

    def arguments(self) -> list[str]:
        """Return them as arguments of a part's process."""
        folders = (("--data", self.data), ("--pictures", self.pictures))
        chosen = [part for name, path in folders if path is not None for part in (name, str(path.resolve()))]
        return [*chosen, *(["--dry"] if self.dry else [])]


def run_parts(
    parts: Sequence[Part], options: Options, machine: Mapping[str, Any], total: float = TOTAL_SECONDS
) -> list[Outcome]:
    """Run ``parts`` in their order, and keep a summary up to date; return how each ended.

    Args:
        parts: What to run. Each may take its own seconds, and up to its ``most`` of what others left over.
        options: What all parts are given.
        machine: What was found on it; part of the summary.
        total: Seconds for all parts together.
    """
    end = time.monotonic() + total - 2 * GRACE  # what ending a part that hangs may take
    outcomes = [Outcome(part.name) for part in parts]
    try:
        with child_variables(dry=options.dry) as variables:
            for index, (part, outcome) in enumerate(zip(parts, outcomes, strict=True)):
                left = end - time.monotonic()
                later = sum(other.seconds for other in parts[index + 1 :])
                outcome.limit = min(part.most, left, max(part.seconds, left - later))
                if outcome.limit < min(LEAST, part.seconds):
                    outcome.detail = "no time was left"
                    continue
                print(f"\n== {part.name}: {part.about}; at most {outcome.limit:.0f} s", flush=True)
                _run_part(part, outcome, options, variables)
                _save(outcomes, options, machine)
                summary.show_end(options.out / f"{part.name}.log")
    finally:
        _save(outcomes, options, machine)
        print(f"\n{summary.table(outcomes)}\nresults: {options.out}", flush=True)
    return outcomes


def _save(outcomes: Sequence[Outcome], options: Options, machine: Mapping[str, Any]) -> None:
    summary.save(outcomes, options.out, machine)
    if options.bundle is not None:
        summary.write_bundle(options.out, options.bundle)


def _run_part(part: Part, outcome: Outcome, options: Options, variables: Mapping[str, str]) -> None:
    """Run one part to its end or its limit; nothing that it starts outlives it."""
    budget = max(1.0, outcome.limit - GRACE)
    command = [sys.executable, "-m", "gpu.child", part.target, part.name, str(options.out), str(budget)]
    started = time.monotonic()
    outcome.status, outcome.detail = "failed", "interrupted"
    (options.out / f"{part.name}.json").unlink(missing_ok=True)  # of an earlier run
    with (options.out / f"{part.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options.arguments()],
            cwd=ROOT,
            env=dict(variables),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            in_time = _wait(process, started + outcome.limit, options)
            if not in_time:
                _signal_group(process, signal.SIGTERM)
                _wait(process, time.monotonic() + GRACE, options)
        finally:
            _signal_group(process, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):  # a process that hangs in the driver cannot be ended
                process.wait(GRACE)
            outcome.seconds = time.monotonic() - started
    if not in_time:
        outcome.status, outcome.detail = "ran over", f"stopped after {outcome.limit:.0f} s"
    elif process.returncode == 0:
        outcome.status, outcome.detail = "ok", ""
    elif process.returncode < 0:
        outcome.detail = f"killed by {signal.Signals(-process.returncode).name}"
    else:
        outcome.detail = f"see {part.name}.log"


def _wait(process: subprocess.Popen[bytes], end: float, options: Options) -> bool:
    """Wait for a process until ``end``, and keep the bundle up to date; return whether the process ended."""
    bundled = time.monotonic()
    while process.poll() is None:
        now = time.monotonic()
        if now >= end:
            return False
        if options.bundle is not None and now - bundled >= BUNDLE_SECONDS:
            summary.write_bundle(options.out, options.bundle)
            bundled = now
        with suppress(subprocess.TimeoutExpired):
            process.wait(min(0.5, end - now))
    return True


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextmanager
def child_variables(*, dry: bool) -> Iterator[dict[str, str]]:
    """Yield the environment of the parts: modules of the repository first, caches in a temporary folder.

    Args:
        dry: Whether GPUs are hidden and the tests marked ``gpu`` run on the CPU.
    """
    with tempfile.TemporaryDirectory(prefix="hypergrad-gpu-") as folder:
        # A copy that is not installed has no version, which every trial records: pyproject.toml knows it.
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        metadata = Path(folder, f"{project['name'].replace('-', '_')}-{project['version']}.dist-info")
        metadata.mkdir()
        name, version = project["name"], project["version"]
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", ""), folder]
        yield {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
            "HYPERGRAD_STUDY_CACHE": str(Path(folder, "cache")),
            **(DRY_VARIABLES if dry else {}),
        }


def parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    listed = "\n".join(
        f"  {part.name:<6} {part.about}; {part.seconds:.0f} to {part.most:.0f} s" for part in PARTS
    )
    made = argparse.ArgumentParser(
        prog="tests/gpu/run",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Test and measure on this machine's GPU what only a GPU can show, in at most 8 minutes.",
        epilog=f"parts, in their order:\n{listed}\n\nREADME.md beside this script says more.",
    )
    made.add_argument("out", metavar="OUT", type=Path, help="folder for a JSON and a log of each part")
    made.add_argument("parts", metavar="PART", nargs="*", help="which parts to run; default: all")
    made.add_argument("--dry", action="store_true", help="on the CPU with tiny sizes: does the script work?")
    made.add_argument("--data", type=Path, help="folder with MNIST/raw, files plain or gzipped")
    made.add_argument(
        "--pictures", type=Path, help="archive of CIFAR-10: train/CLASS/*.jpg, test/CLASS/*.jpg"
    )
    made.add_argument("--minutes", type=float, default=TOTAL_SECONDS / 60, help="for all parts; default: 8")
    made.add_argument("--bundle", type=Path, metavar="FILE", help="also keep all results in one .tar.gz")
    return made


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as an exception does: its part is ended and the summary written."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code: 0, or 1 if a part failed or ran over."""
    made = parser()
    given = made.parse_args(arguments)
    known = {part.name: part for part in PARTS}
    if unknown := [name for name in given.parts if name not in known]:
        made.error(f"there is no part {unknown[0]!r}; parts are {', '.join(known)}")
    bundles = given.bundle and given.bundle.resolve().parent
    for option, path in (("--data", given.data), ("--pictures", given.pictures), ("--bundle", bundles)):
        if path is not None and not path.exists():
            made.error(f"{option}: {path} does not exist")
    chosen = [part for part in PARTS if part.name in given.parts] or list(PARTS)
    options = Options(given.out.resolve(), given.dry, given.data, given.pictures, given.bundle)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        made.error(f"cannot make the folder {given.out}: {error.strerror}")
    exit_on_sigterm()
    started = time.monotonic()
    with child_variables(dry=options.dry) as variables:
        try:
            machine = environment.find(variables)
        except environment.UnusableError as error:
            made.error(str(error))
    environment.show(machine)
    if "torch" in machine["missing"]:
        made.error("torch is not installed here")
    if machine["card"] is None and not given.dry:
        made.error("torch sees no CUDA device here; --dry tries the script out on the CPU")
    total = 60 * given.minutes - (time.monotonic() - started)
    outcomes = run_parts(chosen, options, machine, total)
    return 0 if all(one.status == "ok" for one in outcomes) else 1
