"""A trial's configuration: frozen dataclasses of plain values, checked on construction, hashed to a trial key."""

import dataclasses
import hashlib
import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sigma_ray import checks, components, tasks

CODE_VERSION = 4
"""Part of every trial key. Raise it when a change of the code changes results."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """The frozen network by VFM or timm name; `weights` is "bundled", "hub", a file, or None for random ones."""

    name: str
    weights: str | None = "hub"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation of one trial.

    `batch_size` is global: it does not change with `num_workers`. `backbone_lr_scale` multiplies the learning rate
    of what is tuned of the pre-trained backbone (full, partial, bitfit, ViT-Split's copies), not of an adapter's own
    parameters. `select` says which step's weights are tested: the best on validation, or the last. `cache_features`
    keeps on disk what leading frozen blocks compute, for the methods that leave any; `gradient_checkpointing` computes
    the blocks' activations again in the backward pass instead of keeping them. The `schedule` "step" multiplies the
    rate by `decay_factor` at every one of `decay_steps`.
    """

    num_steps: int
    batch_size: int = 16
    micro_batch_size: int | None = None
    learning_rate: float = 1e-3
    backbone_lr_scale: float = 1.0
    weight_decay: float = 0.05
    warmup_steps: int = 0
    schedule: str = "cosine"
    decay_steps: tuple[int, ...] = ()
    decay_factor: float = 0.1
    clip_grad_norm: float | None = 1.0
    eval_interval: int | None = None
    eval_batch_size: int = 32
    precision: str = "auto"
    horizontal_flip: bool = True
    select: str = "best"
    log_interval: int = 20
    cache_features: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "learning_rate", "eval_batch_size", "log_interval", "decay_factor"):
            checks.positive(f"train.{name}", getattr(self, name))
        for name in ("backbone_lr_scale", "weight_decay", "warmup_steps"):
            checks.non_negative(f"train.{name}", getattr(self, name))
        for name in ("micro_batch_size", "clip_grad_norm", "eval_interval"):
            if getattr(self, name) is not None:
                checks.positive(f"train.{name}", getattr(self, name))
        checks.one_of("train.schedule", self.schedule, ("cosine", "poly", "step", "constant"))
        if (self.schedule == "step") != bool(self.decay_steps):
            raise ValueError(
                f"train.decay_steps must be given with train.schedule=step and with no other, but got "
                f"{self.decay_steps} with {self.schedule}; set both."
            )
        checks.one_of("train.precision", self.precision, ("auto", "float32", "bfloat16"))
        checks.one_of("train.select", self.select, ("best", "last"))


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """Everything that decides a trial's result, and the GPUs it gets, which do not.

    `adapter`, `head` and `data` are `Config`s of their components. `gpus_per_worker` below 1 lets several trials of one
    worker share a GPU, 0 keeps a trial on the CPU, None is one where the cluster has any.
    """

    backbone: BackboneConfig
    adapter: Any
    head: Any
    data: Any
    task: str = "segmentation"
    train: TrainConfig
    seed: int = 0
    num_workers: int = 1
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        tasks.get(self.task)
        self._check_kinds()
        checks.non_negative("seed", self.seed)
        checks.positive("num_workers", self.num_workers)
        share = self.gpus_per_worker
        if share is not None and (not 0 <= share <= 1 or (self.num_workers > 1 and share not in (0, 1))):
            raise ValueError(
                f"gpus_per_worker must be between 0 and 1, and 0 or 1 with several workers, but got {share} with "
                f"num_workers {self.num_workers}; workers that exchange gradients need a GPU each."
            )
        if self.train.batch_size % self.num_workers:
            raise ValueError(
                f"train.batch_size must be a multiple of num_workers, but got {self.train.batch_size} and "
                f"{self.num_workers}; the global batch is split evenly."
            )

    def _check_kinds(self) -> None:
        """Refuse a head of another task, and data without its targets."""
        for kind, fits in (
            ("head", lambda part: part.task == self.task),
            ("data", lambda part: self.task in part.tasks),
        ):
            part = getattr(self, kind)
            if not fits(part):
                names = [name for name in components.names(kind) if fits(components.config_class(kind, name))]
                raise ValueError(
                    f"{kind} must be one for task {self.task} ({', '.join(names)}), but got "
                    f"{components.name_of(part)}; set {kind}=... or task=..."
                )


def component(kind: str, name: str, **options: Any) -> Any:
    """A checked `Config` of component `name`; `options` are its fields, typed or as text.

    Raises:
        ValueError: unknown component or field, or a value its `Config` refuses.
    """
    cls = components.config_class(kind, name)
    known = {field.name: field for field in dataclasses.fields(cls)}
    values = {key: _parse(f"{kind}.{key}", _field(kind, name, known, key).type, v) for key, v in options.items()}
    return cls(**values)


def override(config: TrialConfig, path: str, value: Any) -> TrialConfig:
    """A copy of `config` with one field changed, e.g. `override(config, "adapter.bottleneck_dim", "16")`.

    `adapter=lora` (or `adapter.name=lora`) replaces the component by another one with that one's defaults.
    Text values are parsed by the field's type; `3,5,7` is a tuple, `none` is None.

    Raises:
        ValueError: no such path, or a value of the wrong kind.
    """
    return override_all(config, [(path, value)])


def override_all(config: TrialConfig, edits: Iterable[tuple[str, Any]]) -> TrialConfig:
    """`override` for several edits that are checked together: components are replaced first, then fields set.

    So the order does not matter, and two fields that only make sense together can be changed together.
    """
    split = [(path.partition(".")[0], path.partition(".")[2], value) for path, value in edits]
    replaced = {
        head: component(head, str(value))
        for head, rest, value in split
        if head in components.KINDS and rest in ("", "name")
    }
    known = {field.name: field for field in dataclasses.fields(TrialConfig)}
    inner: dict[str, dict[str, Any]] = {}
    for head, rest, value in split:
        if head in components.KINDS and rest in ("", "name"):
            continue
        path = f"{head}.{rest}" if rest else head
        current = replaced.get(head, getattr(config, head, None)) if head in known else None
        if not dataclasses.is_dataclass(current):
            replaced[path] = _parse(path, _field("", "", known, path).type, value)
            continue
        fields = {field.name: field for field in dataclasses.fields(current)}
        if not rest:
            example = f", e.g. {head}.{next(iter(fields))}=..." if fields else ""
            raise ValueError(f"{head} is a group of fields; set one of {', '.join(fields)}{example}")
        owner = components.name_of(current) if head in components.KINDS else ""
        parsed = _parse(path, _field(head, owner, fields, rest).type, value)
        inner.setdefault(head, {})[rest] = parsed
    for head, values in inner.items():
        replaced[head] = dataclasses.replace(replaced.get(head, getattr(config, head)), **values)
    return dataclasses.replace(config, **replaced)


def to_dict(config: TrialConfig) -> dict[str, Any]:
    """Plain nested values (for JSON, Ray and MLflow); components carry their `name`. Inverse of `from_dict`."""
    plain = dataclasses.asdict(config)
    for kind in components.KINDS:
        plain[kind] = {"name": components.name_of(getattr(config, kind)), **plain[kind]}
    return json.loads(json.dumps(plain))


def from_dict(plain: Mapping[str, Any]) -> TrialConfig:
    """The configuration that `to_dict` wrote."""
    parts = dict(plain)
    for kind in components.KINDS:
        options = dict(parts[kind])
        parts[kind] = component(kind, options.pop("name"), **options)
    train: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in parts["train"].items()
    }
    return TrialConfig(**{**parts, "backbone": BackboneConfig(**parts["backbone"]), "train": TrainConfig(**train)})


def flatten(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted path, the same paths that `override` takes."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def trial_key(config: TrialConfig, *, data_fingerprint: str, weights_fingerprint: str) -> str:
    """Hash of what decides the result: configuration, data and weights by content, and `CODE_VERSION`.

    What `identity` leaves out is replaced by the fingerprints: the same trial has the same key on every machine.
    """
    plain = identity(config)
    plain["backbone"]["weights"] = weights_fingerprint
    text = json.dumps([CODE_VERSION, data_fingerprint, plain], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def identity(config: TrialConfig) -> dict[str, Any]:
    """`to_dict` without what may differ between two attempts at one trial: paths, and the share of a GPU."""
    plain = to_dict(config)
    plain["data"].pop("root", None)
    plain["backbone"].pop("weights")
    plain.pop("gpus_per_worker")
    return plain


def _field(kind: str, owner: str, known: Mapping[str, dataclasses.Field], name: str) -> dataclasses.Field:
    if name not in known:
        where = f"{kind} {owner!r}".strip() if owner else (kind or "the trial configuration")
        path = f"{kind}.{name}" if kind else name
        raise ValueError(f"Unknown field {path!r}; {where} has {', '.join(known) or 'no fields'}.")
    return known[name]


def _parse(path: str, annotation: Any, value: Any) -> Any:
    """`value` as `annotation` wants it; pydantic does the conversion."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    if isinstance(value, str):
        if value.lower() == "none" and type(None) in typing.get_args(annotation):
            value = None
        elif "tuple" in str(annotation):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
    elif isinstance(value, list):
        value = tuple(value)
    try:
        return TypeAdapter(annotation, config=ConfigDict(coerce_numbers_to_str=True)).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        kind = getattr(annotation, "__name__", str(annotation)) if "[" not in str(annotation) else str(annotation)
        raise ValueError(f"{path} must be {kind}, but got {value!r} ({reason.lower()}).") from None
