"""Measures the exporter, and prints one table.

    make bench [ARGS='decode end-to-end --protocol grpc-gzip --rounds 1 --stream FILE --write']

Chapters by name, all of them by default. FILE is a recorded stream of trace requests, see
`load.py`; any number of them. `--protocol` and `--rounds` make `end-to-end` shorter. `--write`
puts the table into README.md, between its two marks.
The Collector is built where a Go compiler is; otherwise its column stays empty.
"""

import argparse
import os
import platform
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests import programs
from tests.bench import decode, end_to_end, stages
from tests.bench.figures import Figure

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
CONSOLE = Console(width=140)
HEADS = ("measured", "outcome-exporter", "beside it", "times better")

Chapter = Callable[[argparse.Namespace], Iterator[Figure]]


def _end_to_end(arguments: argparse.Namespace) -> Iterator[Figure]:
    try:
        collector = programs.find("otelcol", programs.ThisMachine())
    except programs.Missing as missing:
        CONSOLE.print(missing)
        collector = None
    return end_to_end.figures(collector, arguments.protocol, arguments.rounds)


CHAPTERS: dict[str, Chapter] = {
    "decode": lambda arguments: decode.figures(arguments.stream),
    "stages": lambda arguments: stages.figures(arguments.stream),
    "memory": lambda _arguments: stages.memory(),
    "scrape": lambda _arguments: stages.scrape(),
    "size": lambda _arguments: end_to_end.size(),
    "start": lambda _arguments: end_to_end.start(),
    "scraping": lambda _arguments: end_to_end.scraping(),
    "end-to-end": _end_to_end,
    "growth": lambda arguments: end_to_end.growth(arguments.rounds),
}


def machine() -> str:
    """Cores, processor, and the Python that runs: builds differ by a tenth and more."""
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = re.search(r"^model name\s*: (.+)$", cpu, re.MULTILINE)
    processor = model[1].strip() if model else "unknown processor"
    return f"{os.cpu_count()} cores, {processor}, Python {platform.python_version()}"


def cells(figure: Figure) -> tuple[str, str, str, str]:
    ratio = "" if figure.ratio is None else f"{figure.ratio:.1f}"
    return figure.what, figure.value, figure.beside, ratio


def markdown(figures: list[Figure], caption: str) -> str:
    """The table as README.md shows it."""
    rows = [HEADS, ("---", "---:", "---:", "---:"), *map(cells, figures)]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", caption])


def write(text: str) -> None:
    """Puts the table between its marks."""
    readme = README.read_text(encoding="utf-8")
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{README.name}: no place for the table; write {BEGIN} and {END} there")
    README.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help=", ".join(CHAPTERS))
    parser.add_argument("--stream", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--protocol", choices=end_to_end.PROTOCOLS, action="append", default=[])
    parser.add_argument("--rounds", type=int, default=end_to_end.ROUNDS)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.chapters) - CHAPTERS.keys():
        parser.error(f"no chapter {', '.join(sorted(unknown))}; there are {', '.join(CHAPTERS)}")
    for stream in [file for file in arguments.stream if not file.exists()]:
        CONSOLE.print(f"{stream} is not there: left out")
        arguments.stream.remove(stream)
    caption = f"`make bench` on {machine()}; medians, the processor's time where it says CPU."
    table = Table(title="outcome-exporter", caption=caption)
    for head in HEADS:
        table.add_column(head, justify="left" if head == HEADS[0] else "right")
    figures: list[Figure] = []
    for name in arguments.chapters or CHAPTERS:
        for figure in CHAPTERS[name](arguments):
            figures.append(figure)
            CONSOLE.print(*cells(figure), sep="  ", highlight=False)
            table.add_row(*cells(figure))
        table.add_section()
    CONSOLE.print(table)
    if arguments.write:
        write(markdown(figures, caption))


if __name__ == "__main__":
    main()
