"""Starts the workers of `hourpass serve`, and replaces them on SIGHUP.

It keeps their listening sockets open. A new worker gets the sockets of the one that it replaces,
with the connections that wait there, so none of these is reset.
"""

import signal
import time
from functools import cached_property
from itertools import chain
from multiprocessing.connection import wait
from socket import socket

from uvicorn.config import STARTUP_FAILURE, Config
from uvicorn.supervisors.multiprocess import Multiprocess, Process, logger

from app.server.reports import Report, Reports, set_own
from app.server.server import Server
from app.server.systemd import Notifier

RESTART_SECONDS = 60.0  # for each worker; uvicorn's 5 are too few for the imports on a busy machine


class Worker(Process):
    def __init__(self, config: Config, sockets: list[socket], report: Report | None = None) -> None:
        super().__init__(config, sockets)
        self._report = report

    def target(self, sockets: list[socket] | None = None) -> None:
        """Runs in the worker."""
        if self._report:
            set_own(self._report)
        super().target(sockets)

    def has_ended(self) -> bool:
        """Ask the kernel. Does not wait for the process: another thread does that."""
        return self.process.pid is not None and bool(wait([self.process.sentinel], 0))

    @cached_property
    def server(self) -> Server:
        return Server(self.config)


class Supervisor(Multiprocess):
    def __init__(
        self,
        config: Config,
        listeners: list[list[socket]],
        notifier: Notifier,
        reports: Reports | None = None,
    ) -> None:
        """`listeners` has a list for each worker. `reports` gets the reports of the workers."""
        super().__init__(config, [])
        self._listeners = listeners
        self._notifier = notifier
        self._reports = reports
        self._has_notified = False

    def init_processes(self) -> None:
        self.processes = [self._start(index) for index in range(self.processes_num)]

    def _start(self, index: int) -> Process:
        report = Report() if self._reports else None
        worker = Worker(self.config, self._listeners[index], report)
        if self._reports and report:
            self._reports.add(report, worker.has_ended)
        worker.start()
        return worker

    def restart_all(self) -> None:
        """Replace each worker, after its successor has started to serve."""
        for index, old in enumerate(self.processes):
            new = self._start(index)
            if not self._becomes_ready(new):
                new.kill()
                new.join()
                if not self._has_to_stop():
                    logger.error(
                        "Restart failed, the other workers keep running. See the lines above",
                        extra={"replaced": index, "workers": len(self.processes)},
                    )
                return
            old.terminate()
            old.join()
            self.processes[index] = new
        logger.info("Restarted all workers", extra={"workers": len(self.processes)})

    def _becomes_ready(self, process: Process) -> bool:
        """False if it ends, takes too long, or the service has to stop."""
        deadline = time.monotonic() + RESTART_SECONDS
        while time.monotonic() < deadline and not self._has_to_stop():
            if process.exitcode is not None:
                return False
            if process.is_ready(timeout=1):
                return True
            time.sleep(0.1)
        return False

    def _has_to_stop(self) -> bool:
        """The signal waits in the queue until the restart is over."""
        return signal.SIGTERM in self.signal_queue or signal.SIGINT in self.signal_queue

    def keep_subprocess_alive(self) -> None:
        """Start another worker for each one that has ended or does not answer. Connections to it
        wait until then."""
        for index, process in enumerate(self.processes):
            if self.should_exit.is_set():
                return
            if process.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            process.kill()
            process.join()
            if process.exitcode == STARTUP_FAILURE:  # another one would fail as well
                logger.error("Worker failed to start, stopping", extra={"worker": process.pid})
                self.should_exit.set()
                return
            logger.info("Worker ended", extra={"worker": process.pid})
            self.processes[index] = self._start(index)
        if not self._has_notified and all(one.is_ready(timeout=1) for one in self.processes):
            self._has_notified = True
            self._notifier.ready()

    def terminate_all(self) -> None:
        """Close the sockets first. Otherwise clients would wait for a service that has stopped."""
        self._notifier.stopping()
        for listener in chain.from_iterable(self._listeners):
            listener.close()
        super().terminate_all()

    def handle_ttin(self) -> None:
        """Do nothing: terminals send this to jobs in the background. WORKERS is the number."""

    handle_ttou = handle_ttin
