"""``python3 -m deploy.lab.spawn PID_FILE LOG [--in PID] -- ARGV``: start one process that outlives its starter.

With ``--in`` the process joins the namespaces (network, mount, UTS, PID) of another one. ``nsenter`` would stay
between them as a parent, and its pid would be the wrong one to kill; here the pid file names the process itself
together with its start time, so that a pid used again by the kernel is never mistaken for it.
"""

import ctypes
import os
import sys

NAMESPACES = {"uts": 0x04000000, "net": 0x40000000, "pid": 0x20000000, "mnt": 0x00020000}


def start_time(pid: int, proc: int | None = None) -> int | None:
    """Clock ticks from the machine's boot to the start of this process, or None if there is none.

    :param proc: an open /proc to look into; inside a node's namespaces the mounted one numbers processes otherwise.
    """
    try:
        handle = os.open(f"/proc/{pid}/stat" if proc is None else f"{pid}/stat", os.O_RDONLY, dir_fd=proc)
        with open(handle) as stat:
            # The name in brackets may contain anything, so fields are counted from the last bracket.
            state, *fields = stat.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if state in "ZX" and not _threads_left(pid):
        return None
    return int(fields[18])


def _threads_left(pid: int) -> bool:
    """Whether other threads of a dead first one still end: until then its ports and files are taken."""
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def enter(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    handles = [(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY), kind) for name, kind in NAMESPACES.items()]
    for handle, kind in handles:
        if libc.setns(handle, kind) != 0:
            raise OSError(ctypes.get_errno(), f"setns into {pid}")
        os.close(handle)


def main(arguments: list[str]) -> int:
    split = arguments.index("--")
    (pid_file, log, *options), argv = arguments[:split], arguments[split + 1 :]
    folder = os.getcwd()
    # All three are opened before the namespaces change what these paths mean.
    proc = os.open("/proc", os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    record = os.open(pid_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    if options:
        # A PID namespace holds for children, so the fork below is in it.
        enter(int(options[1]))
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(argv, folder, output, write_end)
    os.close(write_end)
    os.write(record, f"{pid} {start_time(pid, proc)}\n".encode())
    failure = os.read(read_end, 4096)  # empty: exec closed the pipe
    if failure:
        os.ftruncate(record, 0)
        print(f"{argv[0]}: {failure.decode()}", file=sys.stderr)
    return 1 if failure else 0


def _become(argv: list[str], folder: str, output: int, failure: int) -> None:
    try:
        os.setsid()
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(failure, str(error).encode())
    os._exit(127)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
