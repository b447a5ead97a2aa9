"""A file system that falls silent, as one does whose server is gone: silence.py FOLDER.

It holds a program `run` and a directory `there`, and says `mounted`. From the first line on its standard input it answers nothing any more; at
the end of that it goes, and whatever waits for it gets an error. The kernel's protocol, fuse(4), by hand, so that nothing need be installed.
"""
import ctypes, errno, os, struct, sys, threading

PROGRAM = b"#!/bin/sh\nexit 0\n"
FOLDER, FILE, THERE = 1, 2, 3
LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, OPENDIR, RELEASEDIR, BATCH_FORGET = 1, 2, 3, 14, 15, 18, 25, 26, 27, 29, 42

device = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},default_permissions"
if libc.mount(b"silence", os.fsencode(sys.argv[1]), b"fuse", 0, options.encode()):
    sys.exit("mount: " + os.strerror(ctypes.get_errno()))
silent = threading.Event()


def attributes(node):
    mode, size = (0o100755, len(PROGRAM)) if node == FILE else (0o40755, 0)
    return struct.pack("<6Q10I", node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, os.getuid(), os.getgid(), 0, 4096, 0)


def answer(operation, node, body):
    """What there is to say; an error's number; or nothing."""
    if operation == LOOKUP:
        found = {b"run": FILE, b"there": THERE}.get(body.rstrip(b"\0"))
        return struct.pack("<4Q2I", found, 0, 0, 0, 0, 0) + attributes(found) if found else errno.ENOENT
    if operation == GETATTR:
        return struct.pack("<Q2I", 0, 0, 0) + attributes(node)
    if operation in (OPEN, OPENDIR):
        return struct.pack("<Q2I", 1, 0, 0)
    if operation == READ:
        _, offset, size = struct.unpack("<QQI", body[:20])
        return PROGRAM[offset : offset + size]
    if operation in (RELEASE, FLUSH, RELEASEDIR):
        return b""
    return errno.ENOSYS


def serve():
    while True:
        request = os.read(device, 1 << 20)
        _, operation, unique, node = struct.unpack("<IIQQ", request[:24])
        if operation == INIT:
            said = struct.pack("<4I2H2I2H8I", 7, 31, 65536, 0, 12, 10, 65536, 1, 0, 0, *[0] * 8)
        elif silent.is_set() or operation in (FORGET, BATCH_FORGET):
            continue
        else:
            said = answer(operation, node, request[40:])
        error, said = (-said, b"") if isinstance(said, int) else (0, said)
        os.write(device, struct.pack("<IiQ", 16 + len(said), error, unique) + said)


threading.Thread(target=serve, daemon=True).start()
print("mounted", flush=True)
if sys.stdin.readline():
    silent.set()
    print("silent", flush=True)
sys.stdin.read()
