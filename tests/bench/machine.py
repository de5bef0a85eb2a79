"""On what, and with what, something was measured."""

import os
import platform
import sqlite3
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from deploy.lab.processes import ROOT, run
from deploy.lib import postgres


def facts() -> dict[str, str]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "cores": str(os.cpu_count()),
        "memory": f"{_memory_bytes() / 2**30:.0f} GiB",
        "CPU": _cpu_model(),
        "virtualization of the machine": _first_line("systemd-detect-virt") or "unknown",
        "/dev/kvm": "there" if Path("/dev/kvm").exists() else "absent",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "Django": version("django"),
        "libvirt": _first_line("libvirtd", "--version"),
        "QEMU": _first_line("qemu-system-x86_64", "--version"),
        "Redis": _first_line("redis-server", "--version").partition(" sha=")[0],
        "SQLite": sqlite3.sqlite_version,
        "PostgreSQL": _postgresql(),
    }


def _commit() -> str:
    head = _first_line("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changed = run("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no", check=False).stdout.strip()
    return head + (" with local changes" if changed else "")


def _first_line(*argv: str) -> str:
    try:
        return (run(*argv, check=False).stdout.splitlines() or [""])[0].strip()
    except FileNotFoundError:
        return "absent"


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _postgresql() -> str:
    programs = postgres.binaries()
    return _first_line(str(programs / "postgres"), "--version") if programs else "absent"
