"""Several processes that train one model: how they find each other, and agree."""

import functools
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cxv_jax.errors import InputError, os_fault

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
ARGUMENTS = ("coordinator=HOST:PORT", "num_processes=COUNT", "process_id=NUMBER")
Result = TypeVar("Result")
SHUTDOWN_SECONDS = 30  # That those who are done, or failed alone, wait for the others.


def initialize(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Join the other processes, if there are any; call it before anything asks JAX for devices.

    What is not given is taken from ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and
    ``JAX_PROCESS_ID``; without those from Slurm, Open MPI or a Cloud TPU, as
    ``jax.distributed.initialize`` detects them; else this process is alone.

    Args:
      coordinator: ``HOST:PORT`` of process 0, the same for all.
      num_processes: how many there are.
      process_id: which of them this is, from 0.

    Raises:
      InputError: a part is missing or impossible, or the others cannot be reached.
    """
    given = _given((coordinator, num_processes, process_id), os.environ)
    if given is None and not launched_together(os.environ) and not _on_tpu_vm(os.environ):
        return
    address, count, number = given or (None, None, None)
    detection = "deactivate" if given else None
    try:
        jax.distributed.initialize(
            address,
            count,
            number,
            cluster_detection_method=detection,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError, OSError) as error:
        if "coordinator_address should be defined" in str(error) and _on_tpu_vm(os.environ):
            return  # A TPU host that is no part of a pod.
        who = f"process {number} of {count}, coordinator {address}" if given else "the processes"
        reason = str(error).strip().splitlines()[0][:200]
        raise InputError(f"could not start {who}: {reason}") from error


def launched_together(environment: Mapping[str, str]) -> bool:
    """Whether Slurm's ``srun`` or Open MPI started several processes of this program."""
    started = [("SLURM_STEP_NODELIST", "SLURM_NTASKS")]
    started += [("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE")]
    counts = [environment.get(number, "1") for mark, number in started if mark in environment]
    return any(count.isdigit() and int(count) > 1 for count in counts)


def _on_tpu_vm(environment: Mapping[str, str]) -> bool:
    """Whether this may be one host of a TPU pod: then JAX is to find out."""
    has_tpu = any(os.path.exists(path) for path in ("/dev/accel0", "/dev/vfio/0"))
    return has_tpu and find_spec("libtpu") is not None and "TPU_SKIP_MDS_QUERY" not in environment


def agree(value: Callable[[], int]) -> Callable[[], int]:
    """Ask all processes for ``value()`` now; the function returned waits for the highest.

    All processes must call both, in the same order. A process that is alone gets ``value`` back,
    so that nothing is late there. Costs one number of every device; whoever calls the result one
    step later does not wait for it.

    Example:
      >>> agree(lambda: 15)()
      15
    """
    if jax.process_count() == 1:
        return value
    places, highest = _highest()
    mine = np.full(jax.local_device_count(), value(), np.int32)
    found = highest(jax.make_array_from_process_local_data(places, mine))
    return lambda: int(found)


def together(work: Callable[[], Result]) -> Result:
    """``work()`` on all processes: if it fails on one of them, it fails on all, and none waits.

    Raises:
      InputError: what ``work`` raised here; elsewhere, that another process could not go on.
    """
    result, error = None, None
    try:
        result = work()
    except InputError as own:
        error = own
    except OSError as own:
        error = os_fault(own)
    if agree(lambda: int(error is not None))():
        raise error or InputError("another process could not go on, see what it says")
    return cast(Result, result)


@functools.cache
def _highest() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    mesh = Mesh(np.array(jax.devices()), ("device",))
    copied = NamedSharding(mesh, P())
    return NamedSharding(mesh, P("device")), jax.jit(jnp.max, out_shardings=copied)


def _given(
    arguments: tuple[str | None, int | None, int | None], environment: Mapping[str, str]
) -> tuple[str, int, int] | None:
    """Coordinator, count and number from arguments or variables; None if there is none of them."""
    pairs = zip(arguments, VARIABLES, strict=True)
    found = [environment.get(name) if given is None else given for given, name in pairs]
    if found == [None] * 3:
        return None
    missing = [name for name, x in zip(ARGUMENTS, found, strict=True) if x is None]
    if missing:
        raise InputError(
            f"{', '.join(ARGUMENTS)} (or {', '.join(VARIABLES)}) go together; missing: "
            f"{', '.join(missing)}"
        )
    address = str(found[0])
    count, number = _whole("num_processes", found[1], 1), _whole("process_id", found[2], 0)
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"coordinator={address} must be HOST:PORT of process 0")
    if not 0 <= number < count:
        raise InputError(
            f"process_id={number} must lie in 0..{count - 1}, below num_processes={count}"
        )
    return address, count, number


def _whole(name: str, value: str | int | None, least: int) -> int:
    if not str(value).isdigit() or int(str(value)) < least:
        raise InputError(f"{name}={value} must be a whole number of at least {least}")
    return int(str(value))
