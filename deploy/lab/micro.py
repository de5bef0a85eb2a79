"""The micro guest as a bootable disk image and a bootable ISO, made from this machine's own packages.

The image is a FAT file system without a partition table ("superfloppy") that SYSLINUX boots, so neither a loop
device nor a mount is needed. Its FAT ends at 32 MiB: behind it the guest counts its boots, and from 40 MiB on lies an
ext4 with qemu-guest-agent and the libraries that it needs. That file system is what a freeze lets stand still.

The kernel is Debian's for clouds: this machine's own, or the one that deploy/install unpacked, as it did the agent.

Packages: busybox-static cpio isolinux syslinux mtools dosfstools e2fsprogs xorriso qemu-utils
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.lab.processes import Failed

HERE = Path(__file__).parent
UNPACKED = HERE.parents[1] / "var/build/kernel"
AGENT = HERE.parents[1] / "var/build/guest-agent/usr/sbin/qemu-ga"
SYSLINUX = Path("/usr/lib/syslinux/modules/bios")
ISOLINUX = Path("/usr/lib/ISOLINUX/isolinux.bin")

MODULES = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "button", "evdev", "loop"]
COMMAND_LINE = "console=ttyS0 quiet loglevel=3 mitigations=off no_timer_check panic=-1"
FAT_BYTES = 32 * 2**20
EXT4_AT_BYTES = 40 * 2**20
EXT4_BYTES = 12 * 2**20


def build(cache: Path) -> tuple[Path, Path]:
    """Image and ISO, built at most once per kernel and recipe."""
    root, kernel = newest_kernel()
    folder = cache / f"micro-{recipe_hash(kernel)}"
    image, iso = folder / "micro.qcow2", folder / "micro.iso"
    if not (image.exists() and iso.exists()):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            made = Path(work, "made")
            made.mkdir()
            _build_into(made, Path(work), root, kernel)
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
    return image, iso


def newest_kernel() -> tuple[Path, str]:
    """The folder that has its /boot and /lib/modules, and its version."""
    for root in (Path("/"), UNPACKED):
        kernels = sorted(root.glob("boot/vmlinuz-*-cloud-amd64"), key=lambda path: path.stat().st_mtime)
        if kernels:
            return root, kernels[-1].name.removeprefix("vmlinuz-")
    raise Failed(f"no kernel for the guests in {UNPACKED}", "run deploy/install")


def _agent() -> Path:
    if not AGENT.exists():
        raise Failed(f"no agent for the guests at {AGENT}", "run deploy/install")
    return AGENT


def recipe_hash(kernel: str) -> str:
    digest = hashlib.sha256(kernel.encode())
    for part in (Path(__file__), HERE / "guest-init", HERE / "guest-lease"):
        digest.update(part.read_bytes())
    digest.update(_agent().read_bytes())
    return digest.hexdigest()[:16]


def _build_into(folder: Path, work: Path, root: Path, kernel: str) -> None:
    vmlinuz = root / f"boot/vmlinuz-{kernel}"
    initrd = work / "initrd.gz"
    initrd.write_bytes(gzip.compress(_initramfs(work / "root", _module_files(root, kernel)), 6))
    _disk_image(folder / "micro.qcow2", work, vmlinuz, initrd)
    _iso(folder / "micro.iso", work / "iso", vmlinuz, initrd)


def _initramfs(root: Path, modules: list[Path]) -> bytes:
    for name in ("bin", "dev", "proc", "sys", "modules", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name, target in (("guest-init", "init"), ("guest-lease", "lease")):
        shutil.copy(HERE / name, root / target)
        (root / target).chmod(0o755)
    for number, module in enumerate(modules):
        shutil.copy(module, root / f"modules/{number:02}-{module.name}")
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    return _run("cpio", "--quiet", "-o", "-H", "newc", cwd=root, input=names.encode())


def _module_files(root: Path, kernel: str) -> list[Path]:
    """The modules with those that they need, each once and in the order of loading."""
    files: dict[Path, None] = {}
    for module in MODULES:
        # `builtin NAME` lines are skipped: nothing is to be loaded for those.
        for line in _run("modprobe", "-d", str(root), "-S", kernel, "--show-depends", module).decode().splitlines():
            verb, path = line.split()[:2]
            if verb == "insmod":
                files[Path(path)] = None
    return list(files)


def _boot_entry(prefix: str) -> str:
    label = f"LABEL micro\n KERNEL {prefix}vmlinuz\n APPEND initrd={prefix}initrd.gz {COMMAND_LINE}\n"
    return f"DEFAULT micro\nPROMPT 0\nTIMEOUT 0\n{label}"


def _disk_image(target: Path, work: Path, vmlinuz: Path, initrd: Path) -> None:
    raw = work / "micro.raw"
    raw.touch()
    os.truncate(raw, FAT_BYTES)
    _run("mkfs.vfat", "-F", "16", "-s", "8", "-n", "MICRO", str(raw))
    config = work / "syslinux.cfg"
    config.write_text(_boot_entry(""))
    env = {**os.environ, "MTOOLS_SKIP_CHECK": "1"}
    for source, name in ((vmlinuz, "vmlinuz"), (initrd, "initrd.gz"), (config, "syslinux.cfg")):
        _run("mcopy", "-i", str(raw), str(source), f"::{name}", env=env)
    _run("syslinux", "--install", str(raw))
    os.truncate(raw, EXT4_AT_BYTES + EXT4_BYTES)
    _ext4(raw, work / "ext4")
    _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(target))


def _ext4(raw: Path, tree: Path) -> None:
    """The agent, with the loader and the libraries of this machine."""
    tree.mkdir()
    agent = _agent()
    shutil.copy(agent, tree)
    for word in _run("ldd", str(agent)).decode().split():
        if word.startswith("/"):
            shutil.copy(word, tree)
    place = ("-E", f"offset={EXT4_AT_BYTES},root_owner=0:0", "-d", str(tree), str(raw), f"{EXT4_BYTES // 1024}")
    _run("mke2fs", "-q", "-t", "ext4", "-b", "1024", "-m", "0", "-O", "^resize_inode", *place)


def _iso(target: Path, tree: Path, vmlinuz: Path, initrd: Path) -> None:
    (tree / "isolinux").mkdir(parents=True)
    shutil.copy(ISOLINUX, tree / "isolinux")
    shutil.copy(SYSLINUX / "ldlinux.c32", tree / "isolinux")
    shutil.copy(vmlinuz, tree / "vmlinuz")
    shutil.copy(initrd, tree / "initrd.gz")
    (tree / "isolinux/isolinux.cfg").write_text(_boot_entry("/"))
    boot = "-b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table"
    _run("xorriso", "-as", "mkisofs", "-quiet", "-V", "MICRO", "-o", str(target), *boot.split(), str(tree))


def _run(*argv: str, **options) -> bytes:
    done = subprocess.run(argv, capture_output=True, **options)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} failed ({done.returncode}): {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
