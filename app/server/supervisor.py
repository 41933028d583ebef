"""Starts the workers of `hourpass serve`, and replaces them on SIGHUP."""

import signal
import time
from multiprocessing.connection import wait
from socket import socket

from uvicorn import Config
from uvicorn.supervisors import multiprocess
from uvicorn.supervisors.multiprocess import Multiprocess, Process, logger

from app.server.reports import Report, Reports, set_own

RESTART_SECONDS = 60.0  # for each worker; uvicorn's 5 are too few for the imports on a busy machine


class Worker(Process):
    """A worker that reports to the supervisor."""

    def __init__(self, config: Config, sockets: list[socket]) -> None:
        super().__init__(config, sockets)
        self.report = Report()

    def target(self, sockets: list[socket] | None = None) -> None:
        """Runs in the worker."""
        set_own(self.report)
        super().target(sockets)

    def has_ended(self) -> bool:
        """Asks the kernel without waiting for the process, which another thread does."""
        return self.process.pid is not None and bool(wait([self.process.sentinel], 0))


class Supervisor(Multiprocess):
    def __init__(
        self, config: Config, sockets: list[socket], reports: Reports | None = None
    ) -> None:
        super().__init__(config, sockets)
        if reports:

            def create(config: Config, sockets: list[socket]) -> Worker:
                worker = Worker(config, sockets)
                reports.add(worker.report, worker.has_ended)
                return worker

            # uvicorn has no other way to choose the class of its workers.
            multiprocess.Process = create  # type: ignore[assignment,misc]

    def restart_all(self) -> None:
        """Replace each worker, after its successor has started to serve."""
        for index, old in enumerate(self.processes):
            new = multiprocess.Process(self.config, self.sockets)
            new.start()
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
