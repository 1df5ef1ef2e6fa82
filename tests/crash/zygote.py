"""Starts exporters in milliseconds: imports and compiles once, then forks one when told to.

    python zygote.py CONFIG

Each line on its input is a command, answered by a line: `start LOGFILE` gives the process id of an
exporter that runs the command `serve` on CONFIG and logs to LOGFILE; `wait PID` gives its status as
`os.waitpid` has it, once it ended. What it starts is the program itself, in a process of its own
that shares no thread, file or lock with this one.
"""

import importlib
import os
import sys
from pathlib import Path

from outcome_exporter import check, cli
from outcome_exporter.warmup import warm_up


def start(config: str, log: str) -> int:
    process = os.fork()
    if process:
        return process
    try:
        os.setsid()
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.argv = ["outcome-exporter", "serve", "-c", config]
        cli.main()
    except SystemExit as leaving:
        os._exit(leaving.code if isinstance(leaving.code, int) else 0)
    finally:
        os._exit(70)


def main() -> None:
    config = sys.argv[1]
    importlib.import_module("outcome_exporter.server")
    warm_up(check.load(Path(config)).config)
    print("ready", flush=True)
    for line in sys.stdin:
        command, argument = line.split()
        answer = start(config, argument) if command == "start" else os.waitpid(int(argument), 0)[1]
        print(answer, flush=True)


if __name__ == "__main__":
    main()
