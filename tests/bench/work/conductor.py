"""A plant's conductor, which knows the empty operations too."""

import signal
import threading

import django

django.setup()

from cluster.conductor import Conductor  # noqa: E402
from tests.bench.work import empty  # noqa: E402


def main() -> None:
    empty.register()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    Conductor().run(stop)


if __name__ == "__main__":
    main()
