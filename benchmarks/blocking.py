"""``request`` of the blocking bus from as many threads as requests shall be in flight.

The counterpart of ``request.py``, by the same command line and with the same meter: what differs is
that each client is a thread of its own, and the bus lives in another one.
"""

import threading

import anyio
import anyio.to_thread
import msgspec
from floor._common import Figures, Meter, Options, check_echo, parse_options

from anyio_bus import Pool
from anyio_bus.sync import SyncBus, open_bus_sync


def run_clients(options: Options, bus: SyncBus, meter: Meter) -> None:
    """Send requests from threads until the meter says that it is enough."""
    lock = threading.Lock()  # the meter is made for one thread

    def client() -> None:
        while True:
            with lock:
                burst = meter.take()
            if not burst:
                return
            for _ in range(burst):
                bus.request(options.method, options.params)

    threads = [threading.Thread(target=client) for _ in range(options.in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(options: Options) -> Figures:
    """Measure requests through one bus with one worker."""
    pool = Pool("echo", options.argv)
    with open_bus_sync(pool, loop=options.loop, backend=options.backend) as bus:

        async def request(method: str, params: object) -> object:
            return await anyio.to_thread.run_sync(bus.request, method, params)

        anyio.run(check_echo, request)
        run_clients(options, bus, Meter(count=options.warm_up))
        meter = Meter(seconds=options.seconds, count=options.count)
        run_clients(options, bus, meter)
        return meter.figures()


if __name__ == "__main__":
    parsed = parse_options()
    figures = msgspec.structs.asdict(main(parsed))
    settings = {"program": f"blocking[{parsed.backend}]", "in_flight": parsed.in_flight}
    settings |= {"loop": parsed.loop, "payload": parsed.payload}
    print(msgspec.json.encode(settings | figures).decode())
