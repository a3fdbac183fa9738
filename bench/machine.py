"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    cpu: str
    cores: int
    usable: int
    memory_gib: float
    kernel: str
    load_before: float

    def as_dict(self) -> dict[str, object]:
        return asdict(self)

    @property
    def described(self) -> str:
        usable = "" if self.usable == self.cores else f" ({self.usable} usable)"
        return (
            f"{self.cpu}, {self.cores} cores{usable}, {self.memory_gib:.0f} GiB, "
            f"{self.kernel}, load before {self.load_before:.1f}"
        )


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def this_machine() -> Machine:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        usable=len(os.sched_getaffinity(0)),
        memory_gib=pages / 2**30,
        kernel=f"{platform.system()} {platform.release()}",
        load_before=os.getloadavg()[0],
    )
