"""Functions a user might write, some of them badly."""

import os
import time


def by_length(query, text):
    return len(text) == int(query.answer)


def odd(query, text):
    if query.key == "raises":
        raise RuntimeError("no idea")
    if query.key == "hangs":
        time.sleep(3600)
    if query.key == "dies":
        os._exit(3)
    if query.key == "two":
        return 2.0
    if query.key == "nan":
        return float("nan")
    return 1.0
