"""What a model costs: parameters, FLOPs, memory, images per second, energy."""

from cxv_jax.profile.compiled import flops, forward_program, memory, train_program
from cxv_jax.profile.energy import EnergyMeter
from cxv_jax.profile.parameters import count_parameters
from cxv_jax.profile.system import complete, profile

__all__ = [
    "EnergyMeter",
    "complete",
    "count_parameters",
    "flops",
    "forward_program",
    "memory",
    "profile",
    "train_program",
]
