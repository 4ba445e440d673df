"""Becomes a program as a container runtime starts it:

    in_image.py ROOT PROFILE MOUNTS WORKDIR UID:GID PROGRAM [ARGUMENT...]

ROOT is the read-only root, with /proc, /sys, an empty /tmp, and of MOUNTS (FILE:PLACE,...) each
FILE at its PLACE; PROFILE is the seccomp profile. No capability is left and none can be had.
Needs root, or a user namespace (`unshare --user --map-root-user`); in one, there is no UID.
"""

import ctypes
import os
import sys

import under_seccomp

libc = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS = 0x20000
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18
NO_NEW_PRIVILEGES, DROP_FROM_BOUND = 38, 24


def must(code, what):
    if code != 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source, target, kind=None, flags=0, data=None):
    encode = lambda text: text and text.encode()
    code = libc.mount(encode(source), encode(target), encode(kind), flags, encode(data))
    must(code, f"mount {target}")


def main(root, profile, mounts, workdir, user, command):
    found = under_seccomp.rules(profile)
    must(libc.unshare(NEW_MOUNTS), "unshare")
    mount("none", "/", flags=RECURSIVE | PRIVATE)
    mount(root, root, flags=BIND)
    for place in ["/proc", "/sys"]:
        mount(place, root + place, flags=BIND | RECURSIVE)
    for pair in filter(None, mounts.split(",")):
        file, place = pair.split(":")
        mount(file, root + place, flags=BIND)
        mount(None, root + place, flags=REMOUNT | BIND | READ_ONLY)
    mount("tmpfs", root + "/tmp", "tmpfs", data="size=16m,mode=1777")
    mount(None, root, flags=REMOUNT | BIND | READ_ONLY)
    os.chroot(root)
    os.chdir(workdir)
    for capability in range(64):
        libc.prctl(DROP_FROM_BOUND, capability, 0, 0, 0)
    uid, gid = map(int, user.split(":"))
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError:
        pass  # In a user namespace there is only one user.
    must(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no new privileges")
    under_seccomp.become(found, command)


if __name__ == "__main__":
    main(*sys.argv[1:6], sys.argv[6:])
