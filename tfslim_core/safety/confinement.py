"""Take from this process, and from all that it starts, the network and most ways to harm others. There is no way back.

- seccomp: a filter in the kernel that answers EPERM to system calls; `socket` is one, so there is no network, and not
  even a Unix socket of another program's. `socketpair`, which connects a process with itself, stays.
- Landlock: writing outside of the named folders fails; so do signals to, and abstract sockets of, other processes.
- capabilities: of root's powers only those over files are kept; looking into other processes is not one of them.
- resource limits: memory, core dumps.

Standard library only: it is done before anything else is imported, since threads that run already would stay free.
Sources: linux/{seccomp,filter,landlock,prctl}.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from tfslim_core.errors import ModelError

_PR_SET_PDEATHSIG, _PR_GET_DUMPABLE, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 3, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
# struct seccomp_data: the call's number, the machine, the address, and six arguments of 8 bytes.
_NUMBER, _MACHINE, _ARGUMENT_0 = 0, 4, 16
_LOAD, _EQUALS, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_X32 = 0x40000000  # calls of the x32 interface, which have numbers of their own
_NEW_NAMESPACES = 0x7E020080  # CLONE_NEW*
# Numbers that all machines share.
_SHARED = """open_tree=428 move_mount=429 fsopen=430 fsconfig=431 fsmount=432 fspick=433 pidfd_getfd=438
    mount_setattr=442 io_uring_setup=425 io_uring_enter=426 io_uring_register=427"""
_MACHINES = {
    "x86_64": (
        0xC000003E,
        """socket=41 ptrace=101 setpgid=109 setsid=112 mknod=133 pivot_root=155 chroot=161 acct=163 settimeofday=164
        mount=165 umount2=166 swapon=167 swapoff=168 reboot=169 sethostname=170 setdomainname=171 iopl=172 ioperm=173
        init_module=175 delete_module=176 quotactl=179 syslog=103 clock_settime=227 kexec_load=246 add_key=248
        request_key=249 keyctl=250 mknodat=259 unshare=272 perf_event_open=298 open_by_handle_at=304 setns=308
        process_vm_readv=310 process_vm_writev=311 kcmp=312 finit_module=313 kexec_file_load=320 bpf=321
        userfaultfd=323""",
        56,
    ),
    "aarch64": (
        0xC00000B7,
        """socket=198 mknodat=33 umount2=39 mount=40 pivot_root=41 chroot=51 quotactl=60 acct=89 unshare=97
        kexec_load=104 init_module=105 delete_module=106 clock_settime=112 syslog=116 ptrace=117 reboot=142 setpgid=154
        setsid=157 sethostname=161 setdomainname=162 settimeofday=170 add_key=217 request_key=218 keyctl=219 swapon=224
        swapoff=225 perf_event_open=241 open_by_handle_at=265 setns=268 process_vm_readv=270 process_vm_writev=271
        kcmp=272 finit_module=273 bpf=280 userfaultfd=282 kexec_file_load=294""",
        220,
    ),
}
_CLONE3 = 435
_CAPABILITY_VERSION = 0x20080522
_KEPT_CAPABILITIES = 0b1111  # to own, read and write files as root does


_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
# By the version of the interface that brought them: writing, moving between folders, truncating.
_WRITES = {1: 0b1_1111_1111_0010, 2: 1 << 13, 3: 1 << 14}
_ON_FILES = 1 << 1 | 1 << 14
_ABI_NETWORK, _ABI_SCOPES = 4, 6

_confined = False
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


@contextmanager
def unreadable() -> Iterator[None]:
    """Keep other processes of this user out of this one's memory and environment."""
    before = _libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    try:
        yield
    finally:
        _libc.prctl(_PR_SET_DUMPABLE, before, 0, 0, 0)


def is_confined() -> bool:
    """Whether `confine` has been done in this process."""
    return _confined


def confine(folders: Sequence[str], memory: int) -> list[str]:
    """Confine this process for good; what could not be done, in words.

    folders: where it may write. memory: bytes that it, and each process that it starts, may have.

    Raises:
        ModelError: the network cannot be taken from it; then nothing should run here.
    """
    global _confined
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_DATA, memory)
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise ModelError(f"--untrusted: this system does not let a process give up privileges ({_reason()})")
    _drop_capabilities()
    lacking = _keep_to(folders)
    _filter_calls()
    if _has_network():
        raise ModelError("--untrusted: this system cannot keep a process from the network; nothing was run")
    _confined = True
    return lacking


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    held = ctypes.create_string_buffer(24)  # effective, permitted, inheritable; twice, for 64 of them
    if _libc.capget(header, held) == 0:
        words = struct.unpack("=6I", held.raw)
        kept = [word & _KEPT_CAPABILITIES if number < 3 else 0 for number, word in enumerate(words)]
        _libc.capset(header, struct.pack("=6I", *kept))


def _has_network() -> bool:
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        try:
            socket.socket(family).close()
        except OSError:
            continue
        return True
    return False


def _filter_calls() -> None:
    machine = platform.machine()
    if machine not in _MACHINES:
        raise ModelError(f"--untrusted: no way is known to keep a process on {machine} from the network")
    program = _program(machine)
    packed = (_Instruction * len(program))(*(_Instruction(*one) for one in program))
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(program), packed)), 0, 0):
        raise ModelError(f"--untrusted: this system cannot keep a process from the network (seccomp: {_reason()})")


def _program(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter, as instructions (code, steps if so, steps if not, value)."""
    audit, calls, clone = _MACHINES[machine]
    refused = [int(word.partition("=")[2]) for word in f"{calls} {_SHARED}".split()]
    refuse = (_RETURN, 0, 0, _REFUSE | errno.EPERM)
    program = [(_LOAD, 0, 0, _MACHINE), (_EQUALS, 1, 0, audit), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), refuse]
    for number in refused:
        program += [(_EQUALS, 0, 1, number), refuse]
    # Its flags lie in memory, where a filter cannot look; the C library falls back to clone.
    program += [(_EQUALS, 0, 1, _CLONE3), (_RETURN, 0, 0, _REFUSE | errno.ENOSYS)]
    program += [(_EQUALS, 0, 3, clone), (_LOAD, 0, 0, _ARGUMENT_0), (_ANY_BIT, 0, 1, _NEW_NAMESPACES & ~0x80), refuse]
    return [*program, (_RETURN, 0, 0, _ALLOW)]


def _keep_to(folders: Iterable[str]) -> list[str]:
    """Let this process write below these folders only, where the kernel has Landlock."""
    abi = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if abi < 1:
        return [f"writing is not kept to the output's folder: the kernel has no Landlock ({_reason()})"]
    writes = sum(bits for since, bits in _WRITES.items() if abi >= since)
    rules = struct.pack("=Q", writes)
    rules += struct.pack("=Q", 0b11) if abi >= _ABI_NETWORK else b""
    rules += struct.pack("=Q", 0b11) if abi >= _ABI_SCOPES else b""
    ruleset = _libc.syscall(_LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), ctypes.c_uint32(0))
    if ruleset < 0:
        return [f"writing is not kept to the output's folder: Landlock refuses ({_reason()})"]
    try:
        for folder in (*folders, os.devnull):
            place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
            allowed = writes if os.path.isdir(folder) else writes & _ON_FILES
            rule = struct.pack("=Qi", allowed, place)
            failed = _libc.syscall(_LANDLOCK_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint32(0))
            os.close(place)
            if failed:
                raise ModelError(f"--untrusted: {folder} cannot be written to: {_reason()}")
        if _libc.syscall(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0)):
            return [f"writing is not kept to the output's folder: Landlock refuses ({_reason()})"]
    finally:
        os.close(ruleset)
    return []


def _reason() -> str:
    return os.strerror(ctypes.get_errno())
