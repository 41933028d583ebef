"""Measures what token checks by Hourpass cost a model behind nginx.

    python -m benchmarks.proxy

The nginx.conf of examples/model_behind_nginx is measured unchanged, without its proxy_cache, and
without its auth_request, in turns, in front of the same fast upstream. There are 200 tokens, all of
them known. With the cache, nginx checks each token twice a second.
"""

import multiprocessing
import tempfile
from contextlib import ExitStack
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
CACHED = "auth_request, proxy_cache"
UNCACHED = "auth_request alone"
OPEN = "neither"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
NGINX_CONF = ROOT / "examples/model_behind_nginx/nginx.conf"


class Sample(NamedTuple):
    rate: float
    median_us: float
    nginx_us: float  # of CPU time, for each request
    hourpass_us: float


def main() -> None:
    with (
        tempfile.TemporaryDirectory(
            prefix="hourpass-bench-", dir=MEMORY, ignore_cleanup_errors=True
        ) as name,
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
            cached = NGINX_CONF.read_text().replace("/run/hourpass_cache", "hourpass_cache")
            # The load generator does not expect its connections to be closed.
            cached = cached.replace("http {", "http { keepalive_requests 1000000000;")
            cached = cached.replace(":8000", f":{hourpass.port}").replace(":9000", f":{model.port}")
            configurations = {
                CACHED: cached,
                UNCACHED: cached.replace("proxy_cache hourpass;", "proxy_cache off;"),
                OPEN: cached.replace("auth_request /_hourpass;", "auth_request off;"),
            }
            with ExitStack() as stack:
                proxies = {
                    kind: stack.enter_context(servers.nginx(directory, text))
                    for kind, text in configurations.items()
                }
                for proxy in proxies.values():
                    generator.apply(drive, (Load(proxy.port, requests, count=len(requests)),))
                for connections in (1, 16):
                    load = Load(0, requests, connections, SECONDS)
                    taken: dict[str, list[Sample]] = {kind: [] for kind in proxies}
                    for number in range(ROUNDS):
                        kinds = list(proxies)
                        for kind in kinds if number % 2 else reversed(kinds):
                            taken[kind].append(measure(generator, load, proxies[kind], hourpass))
                    print_comparison(connections, taken)


def measure(generator: Pool, load: Load, nginx: Server, hourpass: Server) -> Sample:
    load = replace(load, port=nginx.port)
    before = [sum(server.cpu_seconds().values()) for server in (nginx, hourpass)]
    result = generator.apply(drive, (load,))
    after = [sum(server.cpu_seconds().values()) for server in (nginx, hourpass)]
    if set(result.statuses) != {200}:
        raise RuntimeError(f"expected nothing but 200: {result.statuses}")
    used = [(end - start) / result.requests * 1e6 for start, end in zip(before, after, strict=True)]
    return Sample(result.rate, result.latency(0.5) * 1e6, *used)


def print_comparison(connections: int, taken: dict[str, list[Sample]]) -> None:
    print(f"{connections} at a time")
    for name, samples in taken.items():
        middle = Sample(*map(median, zip(*samples, strict=True)))
        pairs = list(zip(samples, taken[OPEN], strict=True))
        ratio = median(ours.rate / other.rate for ours, other in pairs)
        added = median(ours.median_us - other.median_us for ours, other in pairs)
        print(
            f"  {name:<26}{middle.rate:>8,.0f}/s{middle.median_us:>8,.0f} µs median"
            f"{middle.nginx_us:>6,.0f} µs CPU of nginx{middle.hourpass_us:>6,.0f} µs of Hourpass"
            f"   ratio {ratio:.2f}, {added:,.0f} µs more"
        )


if __name__ == "__main__":
    main()
