"""A cluster of accelerators: its network (`zerosim.cluster`), and what each device and each node holds and does."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from zerosim.cluster import PRESETS as NETWORKS
from zerosim.cluster import Cluster
from zerosim.errors import InputError


@dataclass(frozen=True)
class Machine:
    """Nodes of `network.ranks_per_node` devices each. Bytes, bytes per second and direction, operations per second."""

    name: str
    network: Cluster
    memory: float
    """Of one device."""
    flops: float
    """Of one device at its peak, in 16-bit precision with sums in 32 bits, dense."""
    flops_fp32: float
    memory_bandwidth: float
    """Of one device's memory."""
    host_memory: float
    """Of one node."""
    host_bandwidth: float
    """Between one device and its node's memory, all devices of the node at a time."""
    host_memory_bandwidth: float
    """Of one node's memory, for the processors that update there."""
    nvme: float
    """Of one node."""
    nvme_bandwidth: float
    """Of one node's NVMe drives together."""
    source: str

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is float and not (
                isinstance(value, (int, float))
                and not isinstance(value, bool)
                and math.isfinite(value)
                and (value >= 1 or (value == 0 and field.name in ("nvme", "host_memory")))
            ):
                raise InputError(f"{field.name}: {value!r} must be a finite number above 0")

    def asdict(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return dataclasses.asdict(self)


_HOST = "Host figures of two sockets: memory bandwidth from the channels' data rate."

MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            "dgx-2",
            NETWORKS["dgx-2"],
            memory=32e9,
            flops=125e12,
            flops_fp32=15.7e12,
            memory_bandwidth=900e9,
            host_memory=1.5e12,
            host_bandwidth=3e9,
            host_memory_bandwidth=256e9,
            nvme=28e12,
            nvme_bandwidth=28e9,
            source="16 V100 of 32 GB (NVIDIA: 125 TFLOPS, 15.7 in fp32, 900 GB/s); 3 GB/s per device over PCIe with "
            "all at work, 1.5 TB of memory and 28 TB of NVMe at 28 GB/s per node: ZeRO-Infinity, arXiv:2104.07857. "
            f"{_HOST}",
        ),
        Machine(
            "dgx-a100",
            NETWORKS["dgx-a100"],
            memory=80e9,
            flops=312e12,
            flops_fp32=19.5e12,
            memory_bandwidth=2039e9,
            host_memory=2e12,
            host_bandwidth=16e9,
            host_memory_bandwidth=410e9,
            nvme=30e12,
            nvme_bandwidth=50e9,
            source="8 A100 of 80 GB (NVIDIA: 312 TFLOPS, 19.5 in fp32, 2039 GB/s); PCIe 4.0, shared by two devices; 2 "
            f"TB of memory, 8 NVMe drives of 3.84 TB. NVMe bandwidth: an assumption, 6.2 GB/s each. {_HOST}",
        ),
        Machine(
            "dgx-h100",
            NETWORKS["dgx-h100"],
            memory=80e9,
            flops=989e12,
            flops_fp32=67e12,
            memory_bandwidth=3350e9,
            host_memory=2e12,
            host_bandwidth=50e9,
            host_memory_bandwidth=614e9,
            nvme=30e12,
            nvme_bandwidth=50e9,
            source="8 H100 SXM of 80 GB (NVIDIA: 989 TFLOPS dense, 67 in fp32, 3350 GB/s); PCIe 5.0; 2 TB of memory, 8 "
            f"NVMe drives of 3.84 TB. PCIe and NVMe bandwidth: assumptions, 50 GB/s, 6.2 GB/s each. {_HOST}",
        ),
    )
}


def find(name: str) -> Machine:
    """Return a preset. Raises InputError if there is none of that name."""
    if name not in MACHINES:
        raise InputError(f"cluster: {name!r} is not known; choose from {', '.join(MACHINES)}, and override its figures")
    return MACHINES[name]
