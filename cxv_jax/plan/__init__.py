"""The memory planner: the largest micro-batch that fits a budget, told before anything runs."""

from cxv_jax.plan.choose import GB, Plan, fit, recommend, rounded_up
from cxv_jax.plan.planner import Planner, override
from cxv_jax.plan.training import apply, overrides

__all__ = [
    "GB",
    "Plan",
    "Planner",
    "apply",
    "fit",
    "override",
    "overrides",
    "recommend",
    "rounded_up",
]
