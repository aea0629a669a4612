"""Published causal language models, read like our own trunk (the ``hf`` extra).

``files`` finds a model and refuses what cannot be read before a weight is loaded, ``tensors`` looks into safetensors
files, ``families`` says where blocks, norms and head sit, ``encoder`` takes the states, ``tokenizer`` cuts words into
tokens, and ``loading`` puts them together::

    loaded = load_model("EleutherAI/pythia-70m", revision="step512")
    loaded.encoder.hidden_states(ids), loaded.tokenizer.encode_batch(texts), loaded.facts
"""

from emergence.model.huggingface.encoder import HuggingFaceEncoder
from emergence.model.huggingface.files import ModelFiles, find_model
from emergence.model.huggingface.loading import LoadedModel, load_model, random_twin
from emergence.model.huggingface.tokenizer import HuggingFaceTokenizer

__all__ = [
    "HuggingFaceEncoder",
    "HuggingFaceTokenizer",
    "LoadedModel",
    "ModelFiles",
    "find_model",
    "load_model",
    "random_twin",
]
