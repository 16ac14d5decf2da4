"""The search space of a sweep.yaml in Optuna's terms, and its values as overrides of a config."""

import math
from dataclasses import dataclass

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from detection.utils.errors import UserError

# {W&B's distribution: the keys that it may have beside `distribution`}
_RANGE = {"min", "max"}
_KEYS = {
    "constant": {"value"},
    "categorical": {"values"},
    "int_uniform": _RANGE,
    "uniform": _RANGE,
    "q_uniform": _RANGE | {"q"},
    "log_uniform": _RANGE,
    "log_uniform_values": _RANGE,
    "q_log_uniform": _RANGE | {"q"},
    "q_log_uniform_values": _RANGE | {"q"},
    "inv_log_uniform": _RANGE,
    "inv_log_uniform_values": _RANGE,
}


@dataclass(frozen=True)
class Parameter:
    """
    A setting that a sweep varies, or sets to a constant.

    Attributes:
        name: its key in the config.
        distribution: what Optuna draws from; None for a constant.
        constant: its value then.
        q: values are rounded to multiples of it; None: they are not.
    """

    name: str
    distribution: BaseDistribution | None = None
    constant: object = None
    q: float | None = None

    def suggest(self, trial: optuna.Trial) -> object:
        """A trial's value: the one that it has, or else one that the study's sampler chooses."""
        kind, name = self.distribution, self.name
        if kind is None:
            return self.constant
        if isinstance(kind, CategoricalDistribution):
            return trial.suggest_categorical(name, kind.choices)
        if isinstance(kind, IntDistribution):
            return trial.suggest_int(name, kind.low, kind.high, step=kind.step)
        value = trial.suggest_float(name, kind.low, kind.high, step=kind.step, log=kind.log)
        return value if self.q is None else _rounded(value, self.q)

    def override(self, value: object) -> str:
        """The value as `key=value`, for a command line."""
        return f"{self.name}={value if isinstance(value, str) else as_text(value)}"

    def samples(self) -> list:
        """All choices, or the lowest and the highest value."""
        kind = self.distribution
        if kind is None:
            return [self.constant]
        if isinstance(kind, CategoricalDistribution):
            return list(kind.choices)
        return [v if self.q is None else _rounded(v, self.q) for v in (kind.low, kind.high)]

    def grid(self) -> list | None:
        """All values, as Optuna stores them; None if they are not countable, or it is constant."""
        kind = self.distribution
        if isinstance(kind, CategoricalDistribution):
            return list(kind.choices)
        if isinstance(kind, IntDistribution):
            return list(range(kind.low, kind.high + 1, kind.step))
        if isinstance(kind, FloatDistribution) and kind.step:
            steps = round((kind.high - kind.low) / kind.step)
            return [min(kind.low + k * kind.step, kind.high) for k in range(steps + 1)]
        return None


def read_space(path: str, sweep: dict) -> list[Parameter]:
    """
    The parameters of a sweep.

    Args:
        path: its file, for errors.
        sweep: of it.

    Raises:
        UserError: something is missing or malformed, W&B's alone, or uncountable in a grid.
    """
    specs = sweep.get("parameters")
    if not isinstance(specs, dict) or not specs:
        raise UserError(f"{path}: parameters: there have to be some")
    space = []
    for name, spec in specs.items():
        where = f"{path}: parameters.{name}"
        try:
            space.append(_parameter(str(name), spec))
        except (ValueError, OverflowError) as e:
            raise UserError(f"{where}: {e}") from e
        if sweep["method"] == "grid" and space[-1].distribution and space[-1].grid() is None:
            raise UserError(f"{where}: a grid needs values, whole numbers or q_uniform here")
    if not any(parameter.distribution for parameter in space):
        raise UserError(f"{path}: parameters: all are constants, nothing is to be searched")
    return space


def as_text(value: object) -> str:
    """A value of YAML in the grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(as_text, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{as_text(v)}" for key, v in value.items()) + "}"
    if isinstance(value, str):
        return "'" + value.replace("'", "\\'") + "'"
    return repr(value)


def _parameter(name: str, spec: object) -> Parameter:
    if not isinstance(spec, dict):
        raise ValueError("has to have a value, values, or min and max")
    if "parameters" in spec:
        raise ValueError("nested parameters are W&B's alone; write their keys with dots")
    kind = spec.get("distribution") or _default(spec)
    if kind not in _KEYS:
        raise ValueError(f"distribution: {kind} is W&B's alone; there are {', '.join(_KEYS)}")
    if unknown := spec.keys() - _KEYS[kind] - {"distribution"}:
        raise ValueError(f"{sorted(unknown)[0]}: {kind} has none")
    if missing := _KEYS[kind] - spec.keys() - {"q"}:
        raise ValueError(f"{sorted(missing)[0]}: {kind} needs one")
    if kind == "constant":
        return Parameter(name, constant=spec["value"])
    if kind == "categorical":
        if not isinstance(spec["values"], list) or not spec["values"]:
            raise ValueError("values: has to be a list")
        choices = [as_text(v) if isinstance(v, list | dict) else v for v in spec["values"]]
        return Parameter(name, CategoricalDistribution(choices))
    low, high, q = (_number(spec, key) for key in ("min", "max", "q"))
    if kind == "int_uniform" and not type(low) is type(high) is int:
        raise ValueError("min, max: int_uniform needs whole numbers")
    if low > high:
        raise ValueError(f"min: {low} is more than max, {high}")
    if q is None or q <= 0:
        raise ValueError(f"q: has to be more than 0, not {q}")
    if kind == "int_uniform":
        return Parameter(name, IntDistribution(low, high))
    if kind == "uniform":
        return Parameter(name, FloatDistribution(low, high))
    if kind == "q_uniform":
        low, high = _rounded(low, q), _rounded(high, q)
        distribution = IntDistribution if type(q) is int else FloatDistribution
        return Parameter(name, distribution(low, high, step=q), q=q)
    if kind.startswith("inv_") and not kind.endswith("_values"):
        low, high = -high, -low
    if not kind.endswith("_values"):
        low, high = math.exp(low), math.exp(high)
    if low <= 0:
        raise ValueError(f"min: has to be more than 0 for {kind}, not {low}")
    return Parameter(name, FloatDistribution(low, high, log=True), q=q if "q_" in kind else None)


def _default(spec: dict) -> str:
    """The distribution that W&B takes where none is named."""
    if "value" in spec:
        return "constant"
    if "values" in spec:
        return "categorical_w_probabilities" if "probabilities" in spec else "categorical"
    if type(spec.get("min")) is type(spec.get("max")) is int:
        return "int_uniform"
    return "uniform"


def _number(spec: dict, key: str) -> float:
    value = spec.get(key, 1)  # W&B's q
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        hint = "; YAML wants 1.0e-5 for 1e-5" if isinstance(value, str) else ""
        raise ValueError(f"{key}: {value!r} is not a number{hint}")
    return value


def _rounded(value: float, q: float) -> float:
    """The nearest multiple of q; a whole number if q is one."""
    steps = round(value / q)
    return steps * q if type(q) is int else float(f"{steps * q:.12g}")
