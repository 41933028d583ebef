"""What asking Hourpass about every request costs a model behind nginx.

    python -m benchmarks.proxy

The nginx.conf of examples/model_behind_nginx with its auth_request and with that switched off, by
turns, before the same upstream, which answers at once. 200 tokens, all of them seen before.
"""

import multiprocessing
import tempfile
from dataclasses import replace
from multiprocessing.pool import Pool
from pathlib import Path
from statistics import median
from typing import NamedTuple

from app.settings import ROOT
from benchmarks import servers
from benchmarks.load import Load, drive, get
from benchmarks.population import Population
from benchmarks.servers import Server

ROUNDS = 5
SECONDS = 0.8
NGINX_CONF = ROOT / "examples/model_behind_nginx/nginx.conf"


class Sample(NamedTuple):
    rate: float
    median_us: float
    nginx_us: float  # of CPU time, for each request
    hourpass_us: float


def main() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="hourpass-bench-", ignore_cleanup_errors=True) as name,
        multiprocessing.get_context("spawn").Pool(1) as generator,
    ):
        directory = Path(name)
        directory.chmod(0o711)  # nginx's workers have to get in, whoever they are
        people = Population(f"sqlite:///{directory / 'hourpass.db'}")
        requests = [get("/", f"Authorization: Bearer {token}") for token in people.tokens(200)]
        with (
            servers.bare(directory) as model,
            servers.hourpass(directory, people.variables) as hourpass,
        ):
            asking = NGINX_CONF.read_text()
            # The load generator does not expect its connections to be closed.
            asking = asking.replace("http {", "http { keepalive_requests 1000000000;")
            asking = asking.replace(":8000", f":{hourpass.port}").replace(":9000", f":{model.port}")
            open_to_all = asking.replace("auth_request /_hourpass;", "auth_request off;")
            with (
                servers.nginx(directory, asking) as guarded,
                servers.nginx(directory, open_to_all) as plain,
            ):
                generator.apply(drive, (Load(guarded.port, requests, count=len(requests)),))
                for connections in (1, 16):
                    taken: dict[Server, list[Sample]] = {guarded: [], plain: []}
                    load = Load(0, requests, connections, SECONDS)
                    for number in range(ROUNDS):
                        for nginx in (guarded, plain) if number % 2 else (plain, guarded):
                            taken[nginx].append(measure(generator, load, nginx, hourpass))
                    print_comparison(connections, taken[guarded], taken[plain])


def measure(generator: Pool, load: Load, nginx: Server, hourpass: Server) -> Sample:
    load = replace(load, port=nginx.port)
    before = [sum(server.cpu_seconds().values()) for server in (nginx, hourpass)]
    result = generator.apply(drive, (load,))
    after = [sum(server.cpu_seconds().values()) for server in (nginx, hourpass)]
    if set(result.statuses) != {200}:
        raise RuntimeError(f"expected nothing but 200: {result.statuses}")
    used = [(end - start) / result.requests * 1e6 for start, end in zip(before, after, strict=True)]
    return Sample(result.rate, result.latency(0.5) * 1e6, *used)


def print_comparison(connections: int, guarded: list[Sample], plain: list[Sample]) -> None:
    print(f"{connections} at a time")
    for name, samples in (("auth_request", guarded), ("without it", plain)):
        middle = Sample(*map(median, zip(*samples, strict=True)))
        print(
            f"  {name:<13}{middle.rate:>8,.0f}/s{middle.median_us:>8,.0f} µs median"
            f"{middle.nginx_us:>6,.0f} µs CPU of nginx{middle.hourpass_us:>6,.0f} µs of Hourpass"
        )
    ratio = median(ours.rate / other.rate for ours, other in zip(guarded, plain, strict=True))
    added = median(
        ours.median_us - other.median_us for ours, other in zip(guarded, plain, strict=True)
    )
    print(f"  ratio {ratio:.2f}, {added:,.0f} µs more")


if __name__ == "__main__":
    main()
