"""Cases for gpu_parts.cases: what a process of their own can import."""

import os
import time

from gpu_parts.cases import Skip

from slowfast_uniformer.errors import UserError


def works() -> dict:
    return {"answer": 42}


def raises() -> dict:
    raise UserError("first line\nsecond line")


def lacks() -> dict:
    raise Skip("no such device")


def ends() -> dict:
    os._exit(3)


def hangs() -> dict:
    time.sleep(600)


def prints() -> dict:
    print("from a case")
    return {"process": os.getpid()}
