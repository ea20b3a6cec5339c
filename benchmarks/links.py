"""Run an MPI program whose processes are joined by links of a given rate and delay.

    python benchmarks/links.py --ranks 2 --rate 200 --delay 5 -- python -m mpi4py benchmarks/mpi_steps.py

Each rank runs in a network namespace of its own (Linux, as root), with a TUN device for its link. This program carries
the packets: a packet leaves when the link has sent those before it, and arrives the delay later. Rates up to some
400 Mbit/s are kept; the processes need time on the processors as well.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import heapq
import os
import select
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from itertools import count

MTU = 9000
EARLY = 1e-3  # seconds before a link is free when its next packet is chosen
NETWORK = "10.77.0"
TCP_BUFFERS = [f"net.ipv4.tcp_{way}mem=4096 8388608 16777216" for way in "rw"]  # of the size of a step's messages
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000  # linux/if_tun.h


def run(*words: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(words, check=True)


def remove(rank: int) -> None:
    """Remove a rank's namespace and link, if they are there."""
    subprocess.run(["ip", "netns", "delete", f"link{rank}"], stderr=subprocess.DEVNULL, check=False)


def link(rank: int) -> int:
    """Make a rank's namespace and the link in it; return the end of the link that is here."""
    name = f"link{rank}"
    here = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(here, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    remove(rank)  # of a run that was killed
    run("ip", "netns", "add", name)
    run("ip", "link", "set", name, "netns", name)
    inside = ("ip", "netns", "exec", name)
    run(*inside, "ip", "address", "add", f"{NETWORK}.{rank + 1}/24", "dev", name)
    run(*inside, "ip", "link", "set", name, "mtu", str(MTU), "txqueuelen", "10000", "up")
    run(*inside, "ip", "link", "set", "lo", "up")
    run(*inside, "sysctl", "-qw", "net.ipv4.tcp_slow_start_after_idle=0", *TCP_BUFFERS)
    run(*inside, "ip", "route", "change", f"{NETWORK}.0/24", "dev", name, "initcwnd", "500", "initrwnd", "500")
    return here


def acknowledges(packet: bytes) -> bool:
    """Whether a TCP packet has no data."""
    header = 4 * (packet[0] & 15)
    return packet[9] == 6 and len(packet) == header + 4 * (packet[header + 12] >> 4)


def carry(links: Sequence[int], rate: float, delay: float) -> None:
    """Carry packets for ever: `rate` in bits a second of each link and direction, `delay` in seconds."""
    ranks = range(len(links))
    rank_of = {here: rank for rank, here in enumerate(links)}
    network = bytes(int(part) for part in NETWORK.split("."))
    # Packets of each source by target: these take turns, as in fair queues.
    waiting: list[dict[int, deque[bytes]]] = [{} for _ in ranks]
    sent, received = [0.0] * len(links), [0.0] * len(links)  # when each link is free
    due: list[tuple[float, int, int, bytes]] = []
    numbers = count()
    while True:
        times = [sent[rank] - EARLY for rank in ranks if waiting[rank]] + [packet[0] for packet in due[:1]]
        wait = max(0.0, min(times) - time.monotonic()) if times else None
        for here in select.select(links, (), (), wait)[0]:
            source = rank_of[here]
            with contextlib.suppress(BlockingIOError):
                for _ in range(64):
                    packet = os.read(here, MTU)
                    if packet[0] >> 4 != 4 or packet[16:19] != network or not 1 <= packet[19] <= len(links):
                        continue
                    target = packet[19] - 1
                    if acknowledges(packet):  # those of one direction do not wait for the other's data
                        heapq.heappush(due, (time.monotonic() + delay, next(numbers), target, packet))
                    else:
                        waiting[source].setdefault(target, deque()).append(packet)
        now = time.monotonic()
        for source in ranks:
            while waiting[source] and sent[source] - EARLY <= now:
                target = next(iter(waiting[source]))
                others = waiting[source].pop(target)
                packet = others.popleft()
                if others:
                    waiting[source][target] = others  # behind all others
                takes = 8 * len(packet) / rate
                sent[source] = max(now, sent[source]) + takes
                received[target] = max(sent[source], received[target] + takes)
                heapq.heappush(due, (received[target] + delay, next(numbers), target, packet))
        while due and due[0][0] <= time.monotonic():
            _, _, target, packet = heapq.heappop(due)
            with contextlib.suppress(BlockingIOError):  # a full queue: the sender sends it again
                os.write(links[target], packet)


def main() -> int:
    """Make the links, run the program, remove them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rate", type=float, required=True, help="Mbit/s of each link, in each direction")
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds, one way")
    parser.add_argument("command", nargs="+")
    chosen = parser.parse_args()
    mpiexec = shutil.which("mpiexec", path=os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"])
    if mpiexec is None:
        raise SystemExit("mpiexec: got none on the PATH, needs MPICH's (pip install mpich)")
    environment = os.environ | {
        "FI_PROVIDER": "tcp",
        "MPIR_CVAR_CH4_NETMOD": "ofi",
        "MPIR_CVAR_NOLOCAL": "1",  # no shared memory
        "FUSEDSTEP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    inside = 'export FI_TCP_IFACE=link$PMI_RANK; exec ip netns exec link$PMI_RANK "$@"'
    made: list[int] = []
    carrier = 0
    try:
        for rank in range(chosen.ranks):
            made.append(link(rank))
        carrier = os.fork()
        if carrier == 0:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # the ranks spin while they wait
            carry(made, 1e6 * chosen.rate, 1e-3 * chosen.delay)
        command = [mpiexec, "-n", str(chosen.ranks), "sh", "-c", inside, "sh", *chosen.command]
        return subprocess.run(command, env=environment, check=False).returncode
    finally:
        if carrier:
            os.kill(carrier, 9)
        for rank in range(chosen.ranks):
            remove(rank)


if __name__ == "__main__":
    sys.exit(main())
