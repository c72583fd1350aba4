"""Checkpoints with Hugging Face's names, written by hand, against a forward pass in plain NumPy on these names."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from innerloop import InnerloopError, models
from oracles import relative_error

TOKENS = np.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])
GPT2 = {"model_type": "gpt2", "vocab_size": 11, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 9}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "intermediate_size": 12,
    "max_position_embeddings": 9,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500.0,
}
CONFIGS = {"gpt2": GPT2, "llama": LLAMA}


def gpt2_shapes(prefix=""):
    shapes = {"wte.weight": (11, 8), "wpe.weight": (9, 8), "ln_f.weight": (8,), "ln_f.bias": (8,)}
    for i in range(2):
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h.{i}.{norm}.weight": (8,), f"h.{i}.{norm}.bias": (8,)}
        for layer, size in {
            "attn.c_attn": (8, 24),
            "attn.c_proj": (8, 8),
            "mlp.c_fc": (8, 32),
            "mlp.c_proj": (32, 8),
        }.items():
            shapes |= {f"h.{i}.{layer}.weight": size, f"h.{i}.{layer}.bias": size[1:]}
        shapes[f"h.{i}.attn.bias"] = (1, 1, 9, 9)  # the mask, which is no weight
    return {prefix + name: shape for name, shape in shapes.items()}


def llama_shapes():
    shapes = {"model.embed_tokens.weight": (11, 8), "model.norm.weight": (8,), "lm_head.weight": (11, 8)}
    for i in range(2):
        layer = f"model.layers.{i}"
        shapes |= {f"{layer}.{norm}_layernorm.weight": (8,) for norm in ("input", "post_attention")}
        for name, size in {"q": (16, 8), "k": (8, 8), "v": (8, 8), "o": (8, 16)}.items():
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = size
        for name, size in {"gate": (12, 8), "up": (12, 8), "down": (8, 12)}.items():
            shapes[f"{layer}.mlp.{name}_proj.weight"] = size
    return shapes


def drawn(shapes):
    rng = np.random.default_rng(0)
    return {name: rng.normal(0.3, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def written(folder, kind, tensors, **changes):
    (folder / "config.json").write_text(json.dumps(CONFIGS[kind] | changes))
    save_file(tensors, folder / "model.safetensors")
    return folder


def attended(q, k, v, window):
    """One head, position by position."""
    rows = []
    for t in range(len(q)):
        first = 0 if window is None else max(0, t + 1 - window)
        weights = np.exp(k[first : t + 1] @ q[t] / np.sqrt(q.shape[1]))
        rows.append(weights @ v[first : t + 1] / weights.sum())
    return np.stack(rows)


def gpt2_logits(w, tokens, window):
    def norm(name, x):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def layer(name, x):
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]
    for i in range(2):
        q, k, v = np.split(layer(f"h.{i}.attn.c_attn", norm(f"h.{i}.ln_1", x)), 3, axis=1)
        heads = [attended(q[:, at], k[:, at], v[:, at], window) for at in (slice(0, 4), slice(4, 8))]
        x = x + layer(f"h.{i}.attn.c_proj", np.concatenate(heads, axis=1))
        up = layer(f"h.{i}.mlp.c_fc", norm(f"h.{i}.ln_2", x))
        up = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
        x = x + layer(f"h.{i}.mlp.c_proj", up)
    return norm("ln_f", x) @ w["wte.weight"].T


def llama_logits(w, tokens, window):
    def norm(name, x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"]

    def turned(x):
        """Numbers 0 and 2 of a head, and 1 and 3, as complex numbers turned by the position."""
        turns = np.exp(1j * np.arange(len(x))[:, None] * np.array([1, 500**-0.5]))
        pairs = (x[:, :2] + 1j * x[:, 2:]) * turns
        return np.concatenate([pairs.real, pairs.imag], axis=1)

    x = w["model.embed_tokens.weight"][tokens]
    for i in range(2):
        layer = f"model.layers.{i}"
        of = lambda name, y, layer=layer: y @ w[f"{layer}.{name}_proj.weight"].T  # noqa: E731
        y = norm(f"{layer}.input_layernorm", x)
        q, k, v = (of(f"self_attn.{name}", y) for name in "qkv")
        heads = []
        for head in range(4):
            own, shared = slice(4 * head, 4 * head + 4), slice(4 * (head // 2), 4 * (head // 2) + 4)
            heads.append(attended(turned(q[:, own]), turned(k[:, shared]), v[:, shared], window))
        x = x + of("self_attn.o", np.concatenate(heads, axis=1))
        y = norm(f"{layer}.post_attention_layernorm", x)
        gate = of("mlp.gate", y)
        x = x + of("mlp.down", gate / (1 + np.exp(-gate)) * of("mlp.up", y))
    return norm("model.norm", x) @ w["lm_head.weight"].T


WAYS = {"gpt2": (gpt2_shapes, gpt2_logits), "llama": (llama_shapes, llama_logits)}


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("kind", WAYS)
def test_a_checkpoint_has_the_logits_of_numpy(tmp_path, kind, window):
    shapes, logits = WAYS[kind]
    tensors = drawn(shapes())
    description, params = models.read_transformer(written(tmp_path, kind, tensors))
    found = jax.jit(models.transformer(replace(description, window=window)).apply)(params, TOKENS)
    wide = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    for tokens, one in zip(TOKENS, found, strict=True):
        assert relative_error(one, logits(wide, tokens, window)) < 1e-5


def test_prefixes_files_and_short_types_do_not_matter(tmp_path):
    tensors = drawn(gpt2_shapes())
    _, wanted = models.read_transformer(written(tmp_path, "gpt2", tensors))
    parts = tmp_path / "parts"
    parts.mkdir()
    (parts / "config.json").write_text(json.dumps(GPT2))
    halved = {f"transformer.{name}": tensor.astype(np.float16) for name, tensor in tensors.items()}
    halved["lm_head.weight"] = halved["transformer.wte.weight"]
    names = sorted(halved)
    for number, part in enumerate((names[:9], names[9:])):
        save_file({name: halved[name] for name in part}, parts / f"{number}.safetensors")
    places = {name: f"{int(index >= 9)}.safetensors" for index, name in enumerate(names)}
    (parts / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    _, found = models.read_transformer(parts)
    assert relative_error(found, wanted) < 1e-3
    description, _ = models.read_transformer(tmp_path)
    _, alone = models.read_transformer(tmp_path / "model.safetensors", description)
    jax.tree.map(np.testing.assert_array_equal, alone, wanted)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (
            lambda tensors: tensors | {"h.0.attn.rotary": np.zeros(2), "encoder.weight": np.zeros(2)},
            {},
            r"do not map to a gpt2 transformer of 2 blocks: encoder.weight, h.0.attn.rotary have no place in it\.$",
        ),
        (
            lambda tensors: {name: t for name, t in tensors.items() if "h.1." not in name and "ln_f" not in name},
            {},
            r"it lacks h.1.attn.c_attn.bias, h.1.attn.c_attn.weight, .* ln_f.bias, ln_f.weight\.$",
        ),
        (lambda tensors: tensors, {"n_layer": 1}, "of 1 blocks: h.1.attn.c_attn.bias, .* have no place"),
        (lambda tensors: tensors, {"n_layer": 40}, r"it lacks h.2.attn.c_attn.bias, .* and 436 more\.$"),
        (
            lambda tensors: tensors | {"wte.weight": np.zeros((11, 7), np.float32)},
            {},
            r"does not fit its description: wte.weight is \[11, 7\] in the place of \[11, 8\]\.$",
        ),
        (lambda tensors: tensors | {"wte.weight": np.zeros((11, 8), np.int8)}, {}, "wte.weight is stored as I8"),
        (lambda tensors: tensors, {"model_type": "bert"}, "of the type 'bert'; gpt2, llama and mistral can be read"),
        (lambda tensors: tensors, {"activation_function": "relu"}, "asks for activation_function='relu'"),
        (lambda tensors: tensors, {"n_head": "two"}, "has a setting that is no number"),
    ],
)
def test_what_does_not_map_is_listed(tmp_path, change, config, message):
    written(tmp_path, "gpt2", change(drawn(gpt2_shapes())), **config)
    with pytest.raises(InnerloopError, match=message):
        models.read_transformer(tmp_path)


def test_what_cannot_be_read_is_refused(tmp_path):
    folder = written(tmp_path, "llama", drawn(llama_shapes()), rope_parameters={"rope_type": "yarn"})
    with pytest.raises(InnerloopError, match="asks for rope_type='yarn'"):
        models.read_transformer(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(InnerloopError, match="does not say 'vocab_size'; hand a description over"):
        models.read_transformer(folder)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InnerloopError, match="holds no safetensors that can be read"):
        models.read_transformer(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InnerloopError, match="holds pickled weights, which can run code"):
        models.read_transformer(folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(InnerloopError, match="does not say which files of its folder"):
        models.read_transformer(folder)
