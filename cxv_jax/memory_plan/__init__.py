"""The memory planner: the largest micro-batch that fits a budget, told before anything runs."""

from cxv_jax.memory_plan.choose import GB, Plan, fit, recommend, rounded_up
from cxv_jax.memory_plan.planner import Planner
from cxv_jax.memory_plan.training import fit_session, overrides

__all__ = ["GB", "Plan", "Planner", "fit", "fit_session", "overrides", "recommend", "rounded_up"]
