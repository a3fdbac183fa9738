"""The concurrent prime sieve: a chain of G's, one per prime, joined by channels.

Each filter takes numbers from its left neighbour and passes on those that its
prime doesn't divide. What comes out at the right end is the next prime.

Run it:   python examples/prime_sieve.py 100
"""

from __future__ import annotations

import argparse
from itertools import count

from gmpy_rt import Chan, go, run


def generate(out: Chan[int]) -> None:
    for number in count(2):
        out.send(number)


def keep_undivided(prime: int, numbers: Chan[int], out: Chan[int]) -> None:
    for number in numbers:
        if number % prime:
            out.send(number)


def first_primes(wanted: int) -> list[int]:
    primes: list[int] = []
    # A little slack lets neighbours work at the same time.
    numbers: Chan[int] = Chan(16)
    go(generate, numbers)
    while len(primes) < wanted:
        prime = numbers.recv()
        primes.append(prime)
        undivided: Chan[int] = Chan(16)
        go(keep_undivided, prime, numbers, undivided)
        numbers = undivided
    # The chain never ends by itself: run() cancels it when this returns.
    return primes


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints the first N primes.")
    parser.add_argument("n", nargs="?", type=int, default=100)
    parser.add_argument("--procs", type=int, help="P's; default: the CPUs of this process")
    args = parser.parse_args()
    print(*run(first_primes, args.n, procs=args.procs))


if __name__ == "__main__":
    main()
