"""Sends prepared requests as fast as they are taken: the load, in a process of its own.

    python -m tests.bench.send FOLDER ADDRESS PROTOCOL [--events] [--seconds N]

FOLDER holds the requests, one a file, in the order of their names: `*.pb` for `grpc` and `http`,
`*.pb.gz` for `http-gzip`; over `grpc-gzip` gRPC's core compresses what is in `*.pb` as it sends,
because it takes nothing that is compressed already. With `--events` the business events in a
`*.json` follow the spans of the same name. ADDRESS is HOST:PORT, or two with a comma: of spans and
of events. With `--seconds` everything is sent over that time, evenly; otherwise at once, eight
requests at a time. Prints one JSON object: seconds that it took, and of each request.
"""

import argparse
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

AT_ONCE = 8
METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_local = threading.local()


def by_grpc(address: str, compression: grpc.Compression) -> Callable[[bytes], object]:
    # One connection a thread, as one Collector replica each would have.
    def call(body: bytes) -> object:
        if not hasattr(_local, "export"):
            channel = grpc.insecure_channel(
                address,
                options=[
                    ("grpc.use_local_subchannel_pool", 1),
                    ("grpc.max_send_message_length", -1),
                ],
                compression=compression,
            )
            _local.export = channel.unary_unary(METHOD)
        return _local.export(body, timeout=120)

    return call


def by_http(
    address: str, path: str, headers: dict[str, str], expected: int
) -> Callable[[bytes], object]:
    name = f"connection {path}"

    def call(body: bytes) -> object:
        connection = getattr(_local, name, None)
        if connection is None:
            connection = http.client.HTTPConnection(address, timeout=120)
            setattr(_local, name, connection)
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        said = response.read()
        assert response.status == expected, (response.status, said)
        return said

    return call


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("address")
    parser.add_argument("protocol", choices=["grpc", "grpc-gzip", "http", "http-gzip"])
    parser.add_argument("--events", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    address, _, events_address = arguments.address.partition(",")
    gzip = arguments.protocol == "http-gzip"
    requests = sorted(arguments.folder.glob("*.gz" if gzip else "*.pb"))
    bodies = [file.read_bytes() for file in requests]
    events: list[bytes | None] = [None] * len(bodies)
    if arguments.events:
        behind = [arguments.folder / f"{file.name.split('.')[0]}.json" for file in requests]
        events = [file.read_bytes() if file.exists() else None for file in behind]
    if arguments.protocol.startswith("grpc"):
        gzip = arguments.protocol == "grpc-gzip"
        spans = by_grpc(address, grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression)
    else:
        headers = {"Content-Type": "application/x-protobuf"}
        if gzip:
            headers["Content-Encoding"] = "gzip"
        spans = by_http(address, "/v1/traces", headers, 200)
    batch = {"Content-Type": "application/cloudevents-batch+json"}
    tell = by_http(events_address or address, "/events", batch, 202)

    began = time.perf_counter()

    def send(number: int) -> float:
        if arguments.seconds:
            due = began + arguments.seconds * number / len(bodies)
            time.sleep(max(due - time.perf_counter(), 0))
        sent = time.perf_counter()
        spans(bodies[number])
        taken = time.perf_counter() - sent
        if (event := events[number]) is not None:
            tell(event)
        return taken

    with ThreadPoolExecutor(AT_ONCE) as pool:
        latencies = list(pool.map(send, range(len(bodies))))
    json.dump({"seconds": time.perf_counter() - began, "latencies": latencies}, sys.stdout)


if __name__ == "__main__":
    main()
