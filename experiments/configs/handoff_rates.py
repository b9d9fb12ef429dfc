"""Learning rates of ``compare_handoff.py``: of each system and arm the best trial on validation.

Chosen by the last weights' top-1 on the validation images of split 0, a tie by the smaller loss.
"""

# Data set to system to arm to rate; what is not there is at its first trial.
RATES: dict[str, dict[str, dict[str, float]]] = {
    "digits": {
        "resnet": {
            "A": 0.001,
            "B": 0.008,
            "C": 0.004,
            "D": 0.003,
            "E": 0.03,
            "F": 0.003,
            "M": 0.008,
            "S": 0.03,
        },
        "vit": {
            "A": 0.004,
            "B": 0.004,
            "C": 0.004,
            "D": 0.01,
            "E": 0.01,
            "F": 0.01,
            "M": 0.02,
            "S": 0.1,
        },
    },
}
