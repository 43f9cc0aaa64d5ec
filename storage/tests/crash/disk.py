# A disk for nbdkit that can lose its power: what was written and not flushed is in memory only, so that the end of the
# process is the cut. A real disk writes some blocks before it is asked to, in any order: here each block is, by a coin.
#
# nbdkit python disk.py image=FILE seed=NUMBER early=PERCENT
import os
import random

import nbdkit

API_VERSION = 2
BLOCK = 512

settings = {"image": None, "seed": "0", "early": "50"}
image = None
coin = None
unflushed = {}


def config(key, value):
    settings[key] = value


def get_ready():
    global image, coin
    image = os.open(settings["image"], os.O_RDWR)
    coin = random.Random(int(settings["seed"]))


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def open_(readonly):
    return 1


globals()["open"] = open_


def get_size(handle):
    return os.fstat(image).st_size


def can_write(handle):
    return True


def can_flush(handle):
    return True


def pread(handle, buf, offset, flags):
    data = bytearray(os.pread(image, len(buf), offset))
    for at in range(0, len(data), BLOCK):
        block = unflushed.get(offset + at)
        if block is not None:
            data[at : at + BLOCK] = block
    buf[:] = data


def pwrite(handle, buf, offset, flags):
    assert offset % BLOCK == 0 and len(buf) % BLOCK == 0
    early = int(settings["early"])
    # What is at once with the medium, and what may be lost: by pages, as a file system writes them.
    for at in range(0, len(buf), 8 * BLOCK):
        piece = bytes(buf[at : at + 8 * BLOCK])
        written = coin.randrange(100) < early
        for within in range(0, len(piece), BLOCK):
            place = offset + at + within
            if written:
                unflushed.pop(place, None)
            else:
                unflushed[place] = piece[within : within + BLOCK]
        if written:
            os.pwrite(image, piece, offset + at)


def flush(handle, flags):
    for place, block in unflushed.items():
        os.pwrite(image, block, place)
    unflushed.clear()
