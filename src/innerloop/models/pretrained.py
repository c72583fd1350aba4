"""Weights of transformers under the names that Hugging Face gives them, read from safetensors. No code is run."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from innerloop.core.trees import path_name
from innerloop.errors import InnerloopError
from innerloop.models.transformer import TransformerDescription, transformer
from innerloop.types import Params

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
STORED = ("F64", "F32", "F16", "BF16")
LISTED = 20
"""Names that a message lists at most."""


class Source(NamedTuple):
    """Where an array comes from: the public name, with `{}` for the block's number.

    Attributes:
        name: the name, without `transformer.` or `model.` in front.
        transposed: whether it is stored as `[outputs, inputs]`.
        third: which third of the columns it is, where queries, keys and values are stored side by side.
    """

    name: str
    transposed: bool = False
    third: int | None = None


def _layer(ours: str, theirs: str, shift: str = "bias") -> dict[str, Source]:
    """A layer that is stored as `[inputs, outputs]`, or a normalisation."""
    kernel = "scale" if shift == "shift" else "kernel"
    return {f"{ours}/{kernel}": Source(f"{theirs}.weight"), f"{ours}/{shift}": Source(f"{theirs}.bias")}


NAMES: dict[str, dict[str, Source]] = {
    "gpt2": {
        "tokens/embedding": Source("wte.weight"),
        "positions/embedding": Source("wpe.weight"),
        **_layer("norm", "ln_f", "shift"),
        **_layer("blocks/norm1", "h.{}.ln_1", "shift"),
        **_layer("blocks/norm2", "h.{}.ln_2", "shift"),
        **{
            f"blocks/{name}/{part}": Source(f"h.{{}}.attn.c_attn.{theirs}", third=third)
            for third, name in enumerate(("query", "key", "value"))
            for part, theirs in (("kernel", "weight"), ("bias", "bias"))
        },
        **_layer("blocks/output", "h.{}.attn.c_proj"),
        **_layer("blocks/up", "h.{}.mlp.c_fc"),
        **_layer("blocks/down", "h.{}.mlp.c_proj"),
        "head/kernel": Source("lm_head.weight", transposed=True),
    },
    "llama": {
        "tokens/embedding": Source("embed_tokens.weight"),
        "norm/scale": Source("norm.weight"),
        "blocks/norm1/scale": Source("layers.{}.input_layernorm.weight"),
        "blocks/norm2/scale": Source("layers.{}.post_attention_layernorm.weight"),
        **{
            f"blocks/{ours}/kernel": Source(f"layers.{{}}.{theirs}_proj.weight", transposed=True)
            for ours, theirs in {
                "query": "self_attn.q",
                "key": "self_attn.k",
                "value": "self_attn.v",
                "output": "self_attn.o",
                "gate": "mlp.gate",
                "up": "mlp.up",
                "down": "mlp.down",
            }.items()
        },
        "head/kernel": Source("lm_head.weight", transposed=True),
    },
}
NO_WEIGHTS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)|layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
"""Masks and wavelengths that some checkpoints hold beside the weights."""
ASKED: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    "llama": {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,), "rope_scaling": (None,)},
}
"""Options of which only these values are what the transformer does."""


def read_transformer(
    path: Path | str, description: TransformerDescription | None = None
) -> tuple[TransformerDescription, Params]:
    r"""The weights of a GPT-2 or a Llama from safetensors, under the names that Hugging Face gives them.

    Names are mapped, and shapes and types are checked before any weight is read. Half-precision weights become single
    precision. Nothing in the files is executed; pickled weights (`pytorch_model.bin`) are refused.

    Args:
        path: a folder with `config.json` and `model.safetensors`, in one file or with its index in many; or a single
            file, with a description.
        description: what the transformer is; what `config.json` says unless given. `model_type` may be `gpt2`, `llama`
            or `mistral`.

    Returns:
        The description, from which `models.transformer` makes the model, and its parameters.

    Raises:
        InnerloopError: if a file is missing or damaged, the configuration asks for what the transformer does not have,
            names do not map (the message lists them), or shapes differ.

    Example:
        >>> from innerloop import models
        >>> description, params = models.read_transformer("gpt2")  # doctest: +SKIP
        >>> model = models.transformer(description)  # doctest: +SKIP
    """
    path = Path(path)
    if description is None:
        description = _described(path / CONFIG)
    template = jax.eval_shape(transformer(description).init, jax.random.key(0))
    shapes = {path_name(place): leaf for place, leaf in jax.tree.leaves_with_path(template)}
    sources = {name: NAMES[description.kind][name] for name in shapes}
    try:
        with ExitStack() as stack:
            stored: dict[str, Any] = {}
            for file in _files(path):
                opened = stack.enter_context(safe_open(file, "numpy"))
                stored |= {_bare(name): (name, opened) for name in opened.keys()}  # noqa: SIM118 - no mapping
            _require_names(path, description, sources, stored)
            _require_shapes(path, description, sources, shapes, stored)
            return description, jax.tree.map_with_path(
                lambda place, leaf: jnp.asarray(_filled(sources[path_name(place)], leaf, stored)), template
            )
    except (SafetensorError, OSError) as error:
        raise InnerloopError(f"{path} holds no safetensors that can be read ({error}).") from error


def _files(path: Path) -> list[Path]:
    """The files that hold the weights."""
    if not path.is_dir():
        return [path]
    if (path / INDEX).exists():
        places = _json(path / INDEX).get("weight_map")
        names = list(dict.fromkeys(places.values())) if isinstance(places, dict) else []
        if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
            raise InnerloopError(f"{path / INDEX} does not say which files of its folder hold the weights.")
        return [path / name for name in names]
    if files := sorted(path.glob("*.safetensors")):
        return files
    pickled = next(iter(sorted(path.glob("*.bin"))), None)
    if pickled is not None:
        raise InnerloopError(
            f"{pickled} holds pickled weights, which can run code and are not read; convert them to safetensors."
        )
    raise InnerloopError(f"{path} holds no *.safetensors.")


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InnerloopError(f"{path} cannot be read ({why}); hand a description over instead.") from error
    if not isinstance(values, dict):
        raise InnerloopError(f"{path} holds no object of settings; hand a description over instead.")
    return values


def _described(path: Path) -> TransformerDescription:
    """What a configuration says."""
    values = _json(path)
    kind = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama"}.get(values.get("model_type", ""))
    if kind is None:
        raise InnerloopError(
            f"{path} is of the type {values.get('model_type')!r}; gpt2, llama and mistral can be read."
        )
    for option, offered in ASKED[kind].items():
        if values.get(option, offered[0]) not in offered:
            raise InnerloopError(
                f"{path} asks for {option}={values[option]!r}, which the transformer does not have; it has "
                f"{' or '.join(repr(value) for value in offered)}."
            )
    try:
        if kind == "gpt2":
            return TransformerDescription(
                vocabulary=values["vocab_size"],
                width=values["n_embd"],
                layers=values["n_layer"],
                heads=values["n_head"],
                length=values.get("n_positions", values.get("n_ctx", 1024)),
                hidden=values.get("n_inner"),
                tied=values.get("tie_word_embeddings", True),
                epsilon=values.get("layer_norm_epsilon", 1e-5),
            )
        return TransformerDescription(
            kind="llama",
            vocabulary=values["vocab_size"],
            width=values["hidden_size"],
            layers=values["num_hidden_layers"],
            heads=values["num_attention_heads"],
            length=values["max_position_embeddings"],
            hidden=values["intermediate_size"],
            key_heads=values.get("num_key_value_heads"),
            head_size=values.get("head_dim"),
            window=values.get("sliding_window"),
            tied=values.get("tie_word_embeddings", False),
            epsilon=values.get("rms_norm_eps", 1e-6),
            base=_base(path, values),
        )
    except KeyError as error:
        raise InnerloopError(f"{path} does not say {error}; hand a description over instead.") from error
    except TypeError as error:
        raise InnerloopError(f"{path} has a setting that is no number; hand a description over instead.") from error


def _base(path: Path, values: Mapping[str, Any]) -> float:
    """Of rotated positions, which newer configurations keep in an object of its own."""
    rotation = values.get("rope_parameters") or {}
    if rotation.get("rope_type", "default") != "default":
        raise InnerloopError(
            f"{path} asks for rope_type={rotation['rope_type']!r}, which the transformer does not have; it has "
            "'default'."
        )
    return float(rotation.get("rope_theta", values.get("rope_theta", 10_000.0)))


def _bare(name: str) -> str:
    return name.removeprefix("transformer.").removeprefix("model.")


def _named(description: TransformerDescription, source: Source) -> list[str]:
    """The public names of an array, one for each block where there are many."""
    return [source.name.format(i) for i in range(description.layers if "{}" in source.name else 1)]


def _require_names(
    path: Path, description: TransformerDescription, sources: Mapping[str, Source], stored: Mapping[str, Any]
) -> None:
    wanted = {name for source in sources.values() for name in _named(description, source)}
    extra = {name for name in stored if not NO_WEIGHTS.fullmatch(name)} - wanted
    if description.tied:
        extra -= {"lm_head.weight"}
    missing = wanted - stored.keys()
    if missing or extra:
        parts = [f"it lacks {_listed(missing)}"] if missing else []
        if extra:
            parts.append(f"{_listed({stored[name][0] for name in extra})} have no place in it")
        raise InnerloopError(
            f"The names in {path} do not map to a {description.kind} transformer of {description.layers} blocks: "
            f"{' and '.join(parts)}."
        )


def _listed(names: set[str]) -> str:
    ordered = sorted(
        names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    )
    more = f" and {len(ordered) - LISTED} more" if len(ordered) > LISTED else ""
    return ", ".join(ordered[:LISTED]) + more


def _require_shapes(
    path: Path,
    description: TransformerDescription,
    sources: Mapping[str, Source],
    shapes: Mapping[str, Any],
    stored: Mapping[str, Any],
) -> None:
    def wrong() -> Iterator[str]:
        for ours, source in sources.items():
            shape = list(shapes[ours].shape[1:] if "{}" in source.name else shapes[ours].shape)
            shape = shape[::-1] if source.transposed else shape
            if source.third is not None:
                shape[-1] *= 3
            for name in _named(description, source):
                public, file = stored[name]
                found = file.get_slice(public)
                if list(found.get_shape()) != shape:
                    yield f"{public} is {list(found.get_shape())} in the place of {shape}"
                elif found.get_dtype() not in STORED:
                    yield f"{public} is stored as {found.get_dtype()} in the place of floating-point numbers"

    found = list(dict.fromkeys(wrong()))
    if found:
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        raise InnerloopError(f"{path} does not fit its description: {'; '.join(found[:3])}{more}.")


def _filled(source: Source, leaf: Any, stored: Mapping[str, Any]) -> np.ndarray:
    """An array of ours from one or from those of all blocks."""

    def one(name: str) -> np.ndarray:
        public, file = stored[name]
        array = file.get_tensor(public).astype(np.float32)
        if source.third is not None:
            array = np.split(array, 3, axis=-1)[source.third]
        return array.T if source.transposed else array

    if "{}" not in source.name:
        return one(source.name)
    filled = np.empty(leaf.shape, np.float32)
    for i in range(leaf.shape[0]):
        filled[i] = one(source.name.format(i))
    return filled
