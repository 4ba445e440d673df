"""Becomes a program under a seccomp profile: under_seccomp.py PROFILE PROGRAM [ARGUMENT...].

PROFILE is a file in Docker's form, or allow:NAME,NAME,... Loaded through libseccomp, as the
container runtimes do.
"""

import ctypes
import json
import os
import sys

lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
lib.seccomp_init.restype = ctypes.c_void_p

ALLOW = 0x7FFF0000
COMPARE = {"SCMP_CMP_NE": 1, "SCMP_CMP_EQ": 4, "SCMP_CMP_MASKED_EQ": 7}


class Comparison(ctypes.Structure):
    _fields_ = [
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    ]


def action(rule):
    if rule["action"] == "SCMP_ACT_ALLOW":
        return ALLOW
    return 0x00050000 | rule.get("errnoRet", 1)


def rules(profile):
    if profile.startswith("allow:"):
        return [{"names": profile[6:].split(","), "action": "SCMP_ACT_ALLOW"}]
    with open(profile) as file:
        return json.load(file)["syscalls"]


def become(found, command):
    context = ctypes.c_void_p(lib.seccomp_init(0x00050000 | 1))
    for rule in found:
        comparisons = [
            Comparison(c["index"], COMPARE[c["op"]], c["value"], c.get("valueTwo", 0))
            for c in rule.get("args", [])
        ]
        array = (Comparison * len(comparisons))(*comparisons)
        for name in rule["names"]:
            number = lib.seccomp_syscall_resolve_name(name.encode())
            if number < 0:
                continue  # of another architecture
            code = lib.seccomp_rule_add_array(
                context, ctypes.c_uint32(action(rule)), number, len(comparisons), array
            )
            # Already so: a name may stand in two sets.
            if code not in (0, -17):
                sys.exit(f"{name}: {os.strerror(-code)}")
    code = lib.seccomp_load(context)
    if code != 0:
        sys.exit(f"seccomp_load: {os.strerror(-code)}")
    os.execvp(command[0], command)


if __name__ == "__main__":
    become(rules(sys.argv[1]), sys.argv[2:])
