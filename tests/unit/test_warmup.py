"""Warming up: afterwards nothing waits for the compiler, however much comes, nor a start anew."""

import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.bench import load
from tests.bench.end_to_end import CONFIG

from outcome_exporter.checkpoint import StateStore
from outcome_exporter.config import Config
from outcome_exporter.engine import Engine
from outcome_exporter.kernels.jit import Kernel
from outcome_exporter.log import DurableLog
from outcome_exporter.model import Encoding, Kind
from outcome_exporter.warmup import warm_up, warm_up_backwards


def compiled():
    """Every kernel that Python calls, with the types that it has been made ready for."""
    return {
        (kernel.for_python.py_func.__module__, kernel.for_python.py_func.__name__, str(signature))
        for name, module in list(sys.modules.items())
        if name.startswith("outcome_exporter")
        for kernel in vars(module).values()
        if isinstance(kernel, Kernel)
        for signature in kernel.for_python.signatures
    }


def made_ready_too_late(folder: Path):
    """What two runs need that warming up had not made ready; the second takes a checkpoint over."""
    config = Config.model_validate(CONFIG)
    warm_up(config)
    before = compiled()
    clock = [load.BEGAN]
    for first in (0, 2):
        log = DurableLog(folder, max_bytes=1 << 30, keep_nanoseconds=0, now=lambda: clock[0])
        store = StateStore(folder)
        engine = Engine(config, log, store, lambda: clock[0])
        engine.start()
        for request in list(load.synthetic(4))[first : first + 2]:
            clock[0] += 60 * load.SECOND
            for kind, payload in (
                (Kind.TRACES, request.payload),
                (Kind.CLOUDEVENTS, request.events),
            ):
                log.append(kind, Encoding.NONE, payload, engine.decode(kind, payload))
        engine.stop()
        assert engine.failure is None
        log.close()
        store.close()
    return compiled() - before


def test_warming_up_makes_everything_ready_that_a_run_and_a_start_from_its_state_need(tmp_path):
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
        assert not fresh.submit(made_ready_too_late, tmp_path).result()


def compiled_forwards():
    warm_up(Config.model_validate(CONFIG))
    return compiled()


def compiled_backwards():
    warm_up_backwards()
    return compiled()


def test_what_is_compiled_beside_it_is_what_a_start_needs():
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
        forwards = fresh.submit(compiled_forwards).result()
        backwards = fresh.submit(compiled_backwards).result()
    assert backwards <= forwards
    assert {"add_claims", "add_attempts", "observe", "give", "move"} <= {
        name for _, name, _ in backwards
    }
