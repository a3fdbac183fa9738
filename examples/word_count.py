"""Counts words in real files, on all cores: pure Python work, no processes.

A G walks the folder and sends paths; a few workers per P read and count; their
counters come back over a second channel and are added up.

Run it:   python examples/word_count.py /usr/share/doc --suffix .txt
          python examples/word_count.py                  the standard library's own sources
"""

from __future__ import annotations

import argparse
import os
import re
import sysconfig
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from gmpy_rt import Chan, WaitGroup, blocking, go, gomaxprocs, run

# Files above this are no text that a person wrote; reading them whole would hurt.
MAX_BYTES = 16 * 1024 * 1024

find_words = re.compile(r"[^\W\d_]+").findall


class Total(NamedTuple):
    words: Counter[str]
    files: int
    unreadable: int


def find_files(folder: Path, suffix: str, paths: Chan[Path]) -> None:
    """Sends every file below `folder`, then closes the channel."""
    for where, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(where, name)
            if name.endswith(suffix) and path.is_file() and path.stat().st_size <= MAX_BYTES:
                paths.send(path)
    paths.close()


def count_files(paths: Chan[Path], totals: Chan[Total], workers: WaitGroup) -> None:
    """Counts one file after the other until there are no more."""
    words: Counter[str] = Counter()
    files = unreadable = 0
    try:
        for path in paths:
            try:
                # A disk may be slow: others run on this P meanwhile.
                text = blocking(path.read_text, encoding="utf-8", errors="replace")
            except OSError:
                unreadable += 1
                continue
            words.update(word.lower() for word in find_words(text))
            files += 1
        totals.send(Total(words, files, unreadable))
    finally:
        workers.done()


def count_words(folder: Path, suffix: str) -> Total:
    paths: Chan[Path] = Chan(64)
    totals: Chan[Total] = Chan(8)
    workers = WaitGroup()
    # Two per P, so that one can count while the other waits for its file.
    for _ in range(2 * gomaxprocs()):
        workers.add(1)
        go(count_files, paths, totals, workers)
    go(find_files, folder, suffix, paths)
    go(close_when_done, workers, totals)

    words: Counter[str] = Counter()
    files = unreadable = 0
    for total in totals:
        words.update(total.words)
        files += total.files
        unreadable += total.unreadable
    return Total(words, files, unreadable)


def close_when_done(workers: WaitGroup, totals: Chan[Total]) -> None:
    workers.wait()
    totals.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Counts words in files, on all cores.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(sysconfig.get_path("stdlib")))
    parser.add_argument("--suffix", default=".py", help="files whose names end like this")
    parser.add_argument("--top", type=int, default=10, help="how many words to show")
    parser.add_argument("--procs", type=int, help="P's; default: the CPUs of this process")
    args = parser.parse_args()
    if not args.folder.is_dir():
        parser.error(f"{args.folder} is not a folder; name one that holds text files")

    begin = time.perf_counter()
    total = run(count_words, args.folder, args.suffix, procs=args.procs)
    seconds = time.perf_counter() - begin
    for word, times in total.words.most_common(args.top):
        print(f"{times:9,d}  {word}")
    print(
        f"{total.words.total():,} words in {total.files:,} files"
        f" ({total.unreadable} unreadable) in {seconds:.2f} s"
    )


if __name__ == "__main__":
    main()
