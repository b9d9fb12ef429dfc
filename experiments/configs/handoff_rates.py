"""Learning rates of ``compare_handoff.py``: of each system and arm the best trial on validation.

Chosen by the last weights' top-1 on the validation images of split 0, a tie by the smaller loss.
"""

# Data set to system to arm to rate; what is not there is at its first trial.
RATES: dict[str, dict[str, dict[str, float]]] = {}
