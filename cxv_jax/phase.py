"""The two phases of a training, and the event between them: the handoff."""

import enum


class Phase(enum.IntEnum):
    """A phase: 1 or 2 as a number, ``phase 1`` in prose, ``phase1`` as a key.

    Example:
      >>> f"{Phase.ONE}", Phase.ONE.key, int(Phase.ONE), Phase.of_key("phase2")
      ('phase 1', 'phase1', 1, <Phase.TWO: 2>)
    """

    ONE = 1
    TWO = 2

    @property
    def key(self) -> str:
        """Its name in configs, checkpoints and summaries."""
        return f"phase{self.value}"

    @classmethod
    def of_key(cls, key: str) -> "Phase":
        """The phase that a config or a checkpoint calls ``key``."""
        return cls(int(key.removeprefix("phase")))

    def __str__(self) -> str:
        return f"phase {self.value}"

    def __format__(self, spec: str) -> str:  # IntEnum's own would print the number.
        return format(str(self), spec)
