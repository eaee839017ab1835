"""Processes that see each other, forked from one that has imported torch already."""

import os
import socket

import torch
from torch.multiprocessing import start_processes
from torch.multiprocessing.spawn import ProcessContext


def start_ranks(world: int, work, *arguments) -> ProcessContext:
    """Start work(rank, *arguments) in `world` processes; join() of what returns waits for them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    everything = (world, port, work, arguments)
    return start_processes(_enter, everything, world, join=False, start_method="forkserver")


def on_ranks(world: int, work, *arguments) -> None:
    """Run work(rank, *arguments) in `world` processes that see each other."""
    started = start_ranks(world, work, *arguments)
    while not started.join():
        pass


def _enter(rank: int, world: int, port: int, work, arguments) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    work(rank, *arguments)
