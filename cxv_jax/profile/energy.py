"""Energy that an NVIDIA GPU takes, by NVML: its counter, or sampled power, integrated."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax


class EnergyMeter:
    """Around some work: afterwards ``joules``, what the first device took meanwhile.

    The board's own counter (from Volta on), else its power, sampled and integrated. ``joules`` is
    None, that is not available, on anything but an NVIDIA GPU, without the package
    ``nvidia-ml-py``, and where NVML tells neither (a MIG slice). It is the whole board's energy,
    whoever uses it. NVML renews its figures up to a second late: measure several.

    Args:
      period: seconds between samples of power.

    Example:
      >>> with EnergyMeter() as meter:
      ...     pass  # Work.
      >>> meter.joules is None or meter.joules >= 0
      True
    """

    joules: float | None = None

    def __init__(self, period: float = 0.05):
        self._period = period
        self._counter = _reader("nvmlDeviceGetTotalEnergyConsumption")  # Joules.
        self._read = None if self._counter else _reader("nvmlDeviceGetPowerUsage")  # Watts.
        self._times: list[float] = []
        self._watts: list[float] = []
        self._stop = threading.Event()

    def __enter__(self) -> "EnergyMeter":
        if self._counter is not None:
            self._start = self._counter()
        elif self._read is not None:
            self._sample()
            self._thread = threading.Thread(target=self._sample_on, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._counter is not None:
            self.joules = self._counter() - self._start
        elif self._read is not None:
            self._stop.set()
            self._thread.join()
            self._sample()
            self.joules = integrate(self._times, self._watts)

    def _sample_on(self) -> None:
        while not self._stop.wait(self._period):
            self._sample()

    def _sample(self) -> None:
        assert self._read is not None
        self._watts.append(self._read())
        self._times.append(time.perf_counter())


def integrate(times: Sequence[float], watts: Sequence[float]) -> float:
    """Joules by the trapezoid rule: ``sum (t[i+1] - t[i]) (w[i] + w[i+1]) / 2``.

    Args:
      times: seconds, ascending.
      watts: the power at those times.

    Example:
      >>> integrate([0.0, 1.0, 3.0], [100.0, 200.0, 200.0])
      550.0
    """
    spans = zip(times[:-1], times[1:], watts[:-1], watts[1:], strict=True)
    return sum((end - start) * (first + second) / 2 for start, end, first, second in spans)


def _reader(name: str) -> Callable[[], float] | None:
    """The function of NVML of that name in joules or watts, or None where it gives no answer."""
    if jax.devices()[0].platform != "gpu":
        return None
    try:
        import pynvml

        pynvml.nvmlInit()
        read, handle = getattr(pynvml, name), _handle(pynvml)
        read(handle)
    except Exception:  # Not installed, no NVIDIA driver, not on this board: all the same here.
        return None
    return lambda: read(handle) / 1000  # It tells thousandths.


def _handle(pynvml: Any) -> Any:
    """NVML knows all boards of the machine; JAX's first is the first visible one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if visible and not visible.isdecimal():
        return pynvml.nvmlDeviceGetHandleByUUID(visible)
    return pynvml.nvmlDeviceGetHandleByIndex(int(visible or 0))
