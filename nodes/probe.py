"""Is KVM of any use here? Only a Linux that really boots under it proves that.

A /dev/kvm that opens proves nothing: inside some virtual machines the firmware runs under it and Linux hangs.
A kernel without a root file system panics within a second, and says so on the serial line: that is the proof.
"""

import json
import platform
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from nodes.contract.errors import NodeError
from nodes.files import write_atomically
from nodes.log import Log
from nodes.shell import TAIL_CHARACTERS, Shell

log = Log("ulei.probe")

QEMU = "qemu-system-x86_64"
LIMIT_S = 10.0
PROOF = b"Unable to mount root fs"


@dataclass(frozen=True)
class VirtType:
    type: Literal["kvm", "qemu", "test"]
    reason: str


def virt_type(state_dir: Path, shell: Shell) -> VirtType:
    """Known before the first hello; probed once for each kernel and QEMU of this node."""
    kernel = _newest_kernel()
    key = f"{platform.release()} {qemu_version(shell)} {kernel}"
    cache = state_dir / "virt.json"
    try:
        stored = json.loads(cache.read_text())
        if stored.pop("key") == key:
            return VirtType(**stored)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # never probed, or by an older agent
    found = _probe(kernel)
    write_atomically(cache, json.dumps({"key": key, **asdict(found)}))
    return found


def qemu_version(shell: Shell) -> str:
    """``7.2.22``, or an empty text where QEMU is missing."""
    try:
        return shell.run([QEMU, "--version"], timeout_s=10).stdout.split()[3]
    except (NodeError, IndexError):
        return ""


def _newest_kernel() -> Path | None:
    kernels = sorted(Path("/boot").glob("vmlinuz-*"), key=lambda file: file.stat().st_mtime)
    return kernels[-1] if kernels else None


def _probe(kernel: Path | None) -> VirtType:
    if not Path("/dev/kvm").exists():
        return VirtType("qemu", "/dev/kvm is missing: no KVM in this kernel, or switched off in the firmware")
    if kernel is None or shutil.which(QEMU) is None:
        return VirtType("qemu", "no kernel in /boot, or no QEMU, to try KVM with")
    log.info("booting a probe guest under KVM", kernel=kernel, limit_s=LIMIT_S)
    began = time.monotonic()
    failure = _boot_under_kvm(kernel)
    if failure is None:
        return VirtType("kvm", f"a probe guest booted in {time.monotonic() - began:.1f} s")
    return VirtType("qemu", f"/dev/kvm opens, but {failure}")


def _boot_under_kvm(kernel: Path) -> str | None:
    """Returns why Linux did not boot; None: it did."""
    process = subprocess.Popen(
        [QEMU, "-accel", "kvm", "-cpu", "host", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none",
         "-no-reboot", "-serial", "stdio", "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0,
    )  # fmt: skip
    try:
        # With panic=-1 and -no-reboot the guest's panic ends QEMU.
        output, errors = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        return None if PROOF in output else f"a probe guest hung for {LIMIT_S:g} s"
    if PROOF in output:
        return None
    return f"QEMU ended without a guest: {errors.decode(errors='replace').strip()[-TAIL_CHARACTERS:]}"
