"""zerosim: how ZeRO really works, and what it costs. Four stages trained in NumPy over MPI ranks, every byte counted.

import zerosim

config = zerosim.Config(epochs=3)
records = zerosim.run_threads(4, lambda comm: zerosim.train(config, comm))[0]
report = zerosim.build_report(records)
"""

from zerosim.signals import deadly_while_loading

deadly_while_loading()

from zerosim.comparison import compare
from zerosim.config import Config
from zerosim.data import make_dataset
from zerosim.errors import Diverged, InputError
from zerosim.loop import SGD, Adam, AdamW, Linear, Momentum, Parameter, ZeroRedundancyOptimizer
from zerosim.report import build_report, format_report
from zerosim.train import Records, Run, train
from zerosim.transport.mpi import world
from zerosim.transport.threads import run_threads

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Config",
    "Diverged",
    "InputError",
    "Linear",
    "Momentum",
    "Parameter",
    "Records",
    "Run",
    "ZeroRedundancyOptimizer",
    "build_report",
    "compare",
    "format_report",
    "make_dataset",
    "run_threads",
    "train",
    "world",
]
