"""The train step lowered for CUDA, and counts of what its StableHLO text contains."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cxv_jax.phase import Phase
from cxv_jax.profile.system import session_of
from cxv_jax.session import Session

TILE = 16  # Rows, columns and depth that a tensor core takes at once in bfloat16.
AUGMENT = dict(  # As the recipe ``strong``.
    flip=True,
    crop_padding=4,
    policy="trivial",
    erase_probability=0.1,
    mixup_alpha=0.2,
    cutmix_alpha=1.0,
)
TITLES = [
    *("products", "in bfloat16, % of FLOPs", "result in float32, %", "16-wide, % of FLOPs"),
    *("convolutions", "in bfloat16, % of FLOPs", "transposes", "MB moved", "float64", "callbacks"),
]


class Product(NamedTuple):
    """A matrix product or a convolution: its kind, types, ``m x k`` times ``k x n``, how often."""

    kind: str
    inputs: str
    output: str
    batch: int
    m: int
    n: int
    k: int
    times: int

    @property
    def flops(self) -> float:
        """Of all times."""
        return 2.0 * self.times * self.batch * self.m * self.n * self.k


class Found(NamedTuple):
    """What a text contains: products, transposed bytes, mentions of float64, calls to others."""

    products: list[Product]
    transposes: list[int]
    float64: int
    calls: Counter[str]


def lowered(system: Mapping[str, Any], batch_size: int, **sizes: int) -> str:
    """The text of a system's train step, augmented as ``strong``, as a GPU would get it.

    Args:
      system: ``name`` and overrides.
      batch_size: images of a step.
      **sizes: ``image_size``, ``num_classes``, ``steps`` of one call.
    """
    sizes = {"num_classes": 10, "image_size": 32, "steps": 16, **sizes}
    made = session_of(system, batch_size=batch_size, **sizes)
    config = made.config.copy_and_resolve_references()
    config.phase1.augment.update(AUGMENT)
    session = Session.of(config, dataset=made.dataset, devices=1)
    _, feed = next(iter(session.train_loader.epoch(0)))
    update, state = session.phases[Phase.ONE].update, session.phases[Phase.ONE].template
    arguments = (state, session.rng, session.train_loader.data, feed)
    return update.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


def read(text: str) -> Found:
    """Count; what stands in a function counts as often as it is called, in a loop once."""
    bodies: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := re.search(r"func\.func \w+ @([\w.]+)", line):
            body = bodies.setdefault(match[1], [])
        elif bodies:
            body.append(line)
    times: Counter[str] = Counter()
    _count_calls("main", bodies, times)
    products: list[Product] = []
    transposes: list[int] = []
    calls: Counter[str] = Counter()
    for name, lines in bodies.items():
        for line in lines if times[name] else []:
            products += _products(line, times[name])
            if match := re.search(r"stablehlo\.transpose.*-> tensor<([\dx]*)x(\w+)>", line):
                transposes += [_bytes(match[1], match[2])] * times[name]
            if match := re.search(r"stablehlo\.custom_call @([\w.]+)", line):
                calls[match[1]] += times[name]
    return Found(products, transposes, len(re.findall(r"\bf64\b|xf64>", text)), calls)


def callbacks(found: Found) -> list[str]:
    """Calls that go to Python on the host."""
    return [name for name in found.calls if "callback" in name or "python" in name]


def cells(found: Found) -> list[str]:
    """A row of :data:`TITLES`."""
    dots = [p for p in found.products if p.kind == "dot_general"]
    convolutions = [p for p in found.products if p.kind == "convolution"]
    return [
        f"{sum(p.times for p in dots)}",
        _share(dots, lambda p: p.inputs == "bf16"),
        _share(dots, lambda p: p.output == "f32"),
        _share(dots, lambda p: min(p.m, p.n, p.k) >= TILE),
        f"{sum(p.times for p in convolutions)}",
        _share(convolutions, lambda p: p.inputs == "bf16"),
        f"{len(found.transposes)}",
        f"{sum(found.transposes) / 1e6:,.0f}",
        f"{found.float64}",
        f"{len(callbacks(found))}",
    ]


def notes(found: Found) -> list[str]:
    """The largest products outside tensor cores' tiles or types, and what else is called."""
    bad = [p for p in found.products if min(p.m, p.n, p.k) < TILE or p.inputs != "bf16"]
    total = sum(p.flops for p in found.products)
    merged: dict[str, float] = defaultdict(float)
    for p in bad:
        of = f"{p.kind} {p.inputs} to {p.output}, {p.batch} x ({p.m} x {p.k} times {p.k} x {p.n})"
        merged[of] += p.flops
    largest = sorted(merged.items(), key=lambda item: -item[1])[:8]
    lines = [f"{100 * v / total:.2f} % of FLOPs: {of}" for of, v in largest]
    return [*lines, f"calls: {', '.join(f'{k} {v}' for k, v in found.calls.items()) or 'none'}"]


def _share(products: list[Product], of: Any) -> str:
    total = sum(p.flops for p in products)
    return f"{100 * sum(p.flops for p in products if of(p)) / total:.1f}" if total else ""


def _count_calls(name: str, bodies: dict[str, list[str]], times: Counter[str]) -> None:
    times[name] += 1
    for line in bodies.get(name, []):
        for inner in re.findall(r"\bcall @([\w.]+)", line):
            if inner in bodies:
                _count_calls(inner, bodies, times)


def _products(line: str, times: int) -> Iterator[Product]:
    """The product of a line, if it has one."""
    kind = re.search(r"stablehlo\.(dot_general|convolution)\b", line)
    types = re.search(r": \(tensor<(.*?)>, tensor<(.*?)>\) -> tensor<(.*?)>", line)
    if not kind or not types:
        return
    (left, a), (right, b), (out, c) = (_type(each) for each in types.groups())
    inputs = a if a == b else f"{a} and {b}"
    if kind[1] == "convolution":
        spec = re.search(r"dim_numbers = \[.*?\]x\[(.*?)\]->\[(.*?)\]", line)
        assert spec is not None
        where = [each.strip() for each in spec[1].split(",")]
        n, depth = right[where.index("o")], math.prod(right) // right[where.index("o")]
        count = max(map(int, re.findall(r"group_count = (\d+)", line)), default=1)
        yield Product(kind[1], inputs, c, count, math.prod(out) // n, n // count, depth, times)
        return
    sides = [_dims(line, name) for name in ("batching_dims", "contracting_dims")]
    batch = math.prod(left[i] for i in sides[0][0])
    k = math.prod(left[i] for i in sides[1][0])
    m, n = math.prod(left) // (batch * k), math.prod(right) // (batch * k)
    yield Product(kind[1], inputs, c, batch, m, n, k, times)


def _dims(line: str, name: str) -> tuple[list[int], list[int]]:
    match = re.search(rf"{name} = \[(.*?)\] x \[(.*?)\]", line)
    if not match:
        return [], []
    left, right = ([int(i) for i in each.split(",") if i.strip()] for each in match.groups())
    return left, right


def _type(text: str) -> tuple[list[int], str]:
    *shape, dtype = text.split("x")
    return [int(n) for n in shape], dtype


def _bytes(shape: str, dtype: str) -> int:
    bits = int(re.sub(r"\D", "", dtype) or 8)
    return math.prod(int(n) for n in shape.split("x") if n) * bits // 8
