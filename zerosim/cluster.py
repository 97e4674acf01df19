"""A cluster as three numbers for each kind of link: alpha, beta, gamma. Presets with their sources.

A message of n bytes takes alpha + n beta; n bytes that are added take n gamma. Ranks on the same node talk inside it,
others over the node's links, which they share: with more messages at a time than links, each gets its part. All
figures are seconds and bytes, for one direction; a rank sends and receives at the same time (Thakur, Rabenseifner,
Gropp 2005, section 3, for one kind of link).
"""

import dataclasses
import sys
from dataclasses import dataclass
from typing import Any

from zerosim.errors import InputError
from zerosim.jsonfile import read_json


def gigabits(number: float) -> float:
    """Gb/s, as networks are sold, in bytes per second: 10 Gb/s are 1.25 GB/s."""
    return number * 1e9 / 8


def gigabytes(number: float) -> float:
    """GB/s in bytes per second."""
    return number * 1e9


LARGEST = 10**9
"""Of ranks on a node, and of its links: more was mistyped."""


@dataclass(frozen=True)
class Cluster:
    """Nodes of `ranks_per_node` ranks each. Latencies in seconds, bandwidths in bytes per second and direction."""

    name: str
    ranks_per_node: int
    alpha_inside: float
    bandwidth_inside: float
    """Of one rank, to the others on its node."""
    alpha_between: float
    bandwidth_between: float
    """Of one link of a node."""
    links: int
    """Links of a node to the other nodes."""
    bandwidth_sum: float
    """Bytes that a rank adds to its own in a second."""
    source: str

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            whole = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST
            if field.type is int and not whole:
                raise InputError(
                    f"cluster {self.name}: {field.name} is {value!r}; it must be a whole number from 1 to {LARGEST:,}"
                )
            if field.type is float:
                least = "0 or more" if field.name.startswith("alpha") else "more than 0"
                number = (
                    isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
                )
                if not number or value < 0 or (value == 0 and least != "0 or more"):
                    raise InputError(f"cluster {self.name}: {field.name} is {value!r}; it must be a number, {least}")

    def one_link(self, N: int) -> tuple[float, float] | None:
        """Return alpha and bandwidth if all N ranks talk over the same kind of link, so that a closed form holds."""
        if self.ranks_per_node >= N:
            return self.alpha_inside, self.bandwidth_inside
        return (self.alpha_between, self.bandwidth_between) if self.ranks_per_node == 1 else None

    def link(self, a: int, b: int) -> tuple[float, float]:
        """Return alpha and bandwidth between two ranks, if nobody else uses it."""
        if a // self.ranks_per_node == b // self.ranks_per_node:
            return self.alpha_inside, self.bandwidth_inside
        return self.alpha_between, self.bandwidth_between

    def asdict(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return dataclasses.asdict(self)


_HBM = "gamma: two numbers read and one written per sum at the bandwidth of its memory"
_NCCL = "alpha: NCCL's own constants for the ring, protocol Simple (NVIDIA/nccl, src/graph/tuning.cc, hwLat)"

PRESETS = {
    cluster.name: cluster
    for cluster in (
        Cluster(
            "dgx-2",
            ranks_per_node=16,
            alpha_inside=3.4e-6,
            bandwidth_inside=gigabytes(300),
            alpha_between=14.0e-6,
            bandwidth_between=gigabytes(12.5),
            links=8,
            bandwidth_sum=gigabytes(900) / 3,
            source="ZeRO (arXiv:1910.02054), section 10: 300 GB/s on a node's NVSwitch, taken as printed there "
            "(NVIDIA's 300 are both directions of a V100 together, 150 each), 12.5 GB/s per InfiniBand EDR link; 8 "
            "links on a DGX-2. "
            f"{_NCCL}. {_HBM}, 900 GB/s (V100).",
        ),
        Cluster(
            "dgx-a100",
            ranks_per_node=8,
            alpha_inside=3.4e-6,
            bandwidth_inside=gigabytes(300),
            alpha_between=14.0e-6,
            bandwidth_between=gigabits(200),
            links=8,
            bandwidth_sum=gigabytes(1555) / 3,
            source="NVIDIA: NVLink 3, 600 GB/s in both directions of an A100 together; 8 ConnectX-6 of 200 Gb/s (HDR) "
            f"on a DGX A100. {_NCCL}. {_HBM}, 1555 GB/s (A100, 40 GB).",
        ),
        Cluster(
            "dgx-h100",
            ranks_per_node=8,
            alpha_inside=3.4e-6,
            bandwidth_inside=gigabytes(450),
            alpha_between=14.0e-6,
            bandwidth_between=gigabits(400),
            links=8,
            bandwidth_sum=gigabytes(3350) / 3,
            source="NVIDIA: NVLink 4, 900 GB/s in both directions of an H100 together; 8 ConnectX-7 of 400 Gb/s (NDR) "
            f"on a DGX H100. {_NCCL}. {_HBM}, 3350 GB/s (H100 SXM).",
        ),
        Cluster(
            "ethernet-10",
            ranks_per_node=1,
            alpha_inside=20e-6,
            bandwidth_inside=gigabits(10),
            alpha_between=20e-6,
            bandwidth_between=gigabits(10),
            links=1,
            bandwidth_sum=gigabytes(8),
            source="10 Gb/s, one rank on a node. alpha: 20 us between applications over TCP (Hurwitz and Feng, Hot "
            "Interconnects 11, 2003). gamma: an assumption, one core of a server that adds 8 GB/s.",
        ),
        Cluster(
            "ethernet-100",
            ranks_per_node=1,
            alpha_inside=10e-6,
            bandwidth_inside=gigabits(100),
            alpha_between=10e-6,
            bandwidth_between=gigabits(100),
            links=1,
            bandwidth_sum=gigabytes(8),
            source="100 Gb/s, one rank on a node. alpha: an assumption, 10 us. gamma: an assumption, one core of a "
            "server that adds 8 GB/s.",
        ),
    )
}

THIS_MACHINE = "this-machine"


def find(name: str) -> Cluster:
    """Return a preset, or a cluster from a JSON file with the fields of `Cluster`. Raises InputError if there is none.

    In a file that `collectives bench` wrote, it is the machine as measured, under "cluster".
    """
    if name in PRESETS:
        return PRESETS[name]
    if not name.endswith(".json"):
        raise InputError(f"cluster: {name!r} is not known; choose from {', '.join(PRESETS)}, {THIS_MACHINE}, FILE.json")
    fields = [field.name for field in dataclasses.fields(Cluster) if field.name not in ("name", "source")]
    values = read_json(name, f"cluster {name}")
    values = values.get("cluster", values)
    if not isinstance(values, dict):
        raise InputError(f'cluster {name}: under "cluster" is {values!r}; it must be an object')
    values = {k: v for k, v in values.items() if k not in ("name", "source")}
    if sorted(values) != sorted(fields):
        lacks, unknown = sorted(set(fields) - set(values)), sorted(set(values) - set(fields))
        wrong = [
            f"{what} {', '.join(names)}" for what, names in (("lacks", lacks), ("does not know", unknown)) if names
        ]
        raise InputError(f"cluster {name}: it {' and '.join(wrong)}; it must have exactly {', '.join(fields)}")
    return Cluster(name=name, source=f"the file {name}", **values)
