"""Exercises that check themselves: `check_*(your_function)` says what is wrong in the terms of the lesson.

Each returns a `Verdict`, which shows itself at the end of a cell; the solutions are not here.
"""

from zerosim.exercises.activations import check_every, check_first_fit, check_kept_activations
from zerosim.exercises.claims import check_experiment, check_judge, check_refutes
from zerosim.exercises.collectives import check_all_gather, check_crossover, check_reduce_scatter, check_ring_cost
from zerosim.exercises.faults import check_commit_order, check_lost_steps, check_reshard
from zerosim.exercises.memory import check_activations, check_bytes_per_parameter, check_memory_at_rest
from zerosim.exercises.planning import check_devices, check_largest_model, check_least_stage
from zerosim.exercises.precision import check_agree, check_k, check_loss_scale
from zerosim.exercises.stages import check_stage_1, check_stage_2, check_stage_3
from zerosim.exercises.traffic import check_bytes_sent, check_convert, check_counter
from zerosim.exercises.verdict import Verdict

__all__ = [
    "Verdict",
    "check_activations",
    "check_agree",
    "check_all_gather",
    "check_bytes_per_parameter",
    "check_bytes_sent",
    "check_commit_order",
    "check_convert",
    "check_counter",
    "check_crossover",
    "check_devices",
    "check_every",
    "check_experiment",
    "check_first_fit",
    "check_judge",
    "check_k",
    "check_kept_activations",
    "check_largest_model",
    "check_least_stage",
    "check_loss_scale",
    "check_lost_steps",
    "check_memory_at_rest",
    "check_reduce_scatter",
    "check_refutes",
    "check_reshard",
    "check_ring_cost",
    "check_stage_1",
    "check_stage_2",
    "check_stage_3",
]
