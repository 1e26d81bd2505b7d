"""What magika does around its model, as two stages: bytes to features, and scores to labels.

    source.bytes ──▶ Features ──▶ tokens ──▶ model.onnx ──▶ target_label ──▶ Labels ──▶ label, score
                         └──────▶ answer ──────────────────────────────────────▲

Follows `Magika._extract_features_from_seekable` ("features extraction v2") and
`Magika._get_output_label_from_dl_label_and_score` of the magika 1.0 package (Apache-2.0). Sizes, thresholds and names
of labels are read from that package's own configuration, so they always belong to its model.

Not here: the model. It runs in the `onnx` stage between these two (job.yaml).
"""

import importlib.util
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

MODEL_NAME = "standard_v3_3"
"""The folder of magika's default model; job.yaml names the same one."""


def magika_folder() -> Path:
    """Where magika is installed. Importing it would load ONNX Runtime into a process that has no use for it.

    Raises:
        ModuleNotFoundError: it isn't installed.
    """
    spec = importlib.util.find_spec("magika")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("magika isn't installed: pip install 'headrace[examples]'", name="magika")
    return Path(spec.submodule_search_locations[0])


def model_config() -> dict[str, Any]:
    """The configuration beside the model: sizes, labels, thresholds."""
    config: dict[str, Any] = json.loads((magika_folder() / "models" / MODEL_NAME / "config.min.json").read_text())
    return config


class Features:
    """The bytes of each file as the tokens that the model reads, and the answer where the model isn't needed.

    A token is a byte or, where the stripped file is too short, the padding token: `beg_size` tokens from the first
    block without leading whitespace, then `end_size` from the last block without trailing whitespace.
    """

    def __init__(self) -> None:
        config = model_config()
        if config["mid_size"] or config["use_inputs_at_offsets"]:
            raise ValueError(f"model {MODEL_NAME} wants features that magika 1.0 doesn't extract")
        self._beg_size: int = config["beg_size"]
        self._end_size: int = config["end_size"]
        self._block_size: int = config["block_size"]
        self._padding_token: int = config["padding_token"]
        self._bytes_min: int = config["min_file_size_for_dl"]

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`content`, bytes per row, to `tokens`, int32 ``[rows, beg_size + end_size]``, and `answer`, str per row.

        An answer is "" where the model decides. A row with an answer has tokens all the same; its score is not used.
        """
        contents = batch["content"]
        tokens = np.full((len(contents), self._beg_size + self._end_size), self._padding_token, dtype=np.int32)
        answers = [self._fill(row, content) for row, content in zip(tokens, contents, strict=True)]
        return {"tokens": tokens, "answer": np.array(answers, dtype=object)}

    def _fill(self, row: np.ndarray, content: bytes) -> str:
        head = content[: self._block_size]
        if len(content) < self._bytes_min:
            return answer_without_model(head)
        beg = head.lstrip()[: self._beg_size]
        end = content[-self._block_size :].rstrip()[-self._end_size :]
        row[: len(beg)] = np.frombuffer(beg, dtype=np.uint8)
        row[len(row) - len(end) :] = np.frombuffer(end, dtype=np.uint8)
        return answer_without_model(head) if len(beg) < self._bytes_min else ""


def answer_without_model(head: bytes) -> str:
    """The label of a file that is empty, tiny, or has next to nothing but whitespace in its first block `head`."""
    if not head:
        return "empty"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError:
        return "unknown"
    return "txt"


class Labels:
    """The label of each file from the model's scores, or a generic one where the model is not sure enough.

    Modes are magika's: `high_confidence` asks for a threshold of each label's own, `medium_confidence` for one over
    all, `best_guess` for none.
    """

    def __init__(self, mode: Literal["high_confidence", "medium_confidence", "best_guess"] = "high_confidence") -> None:
        config = model_config()
        names: list[str] = config["target_labels_space"]
        kinds = json.loads((magika_folder() / "config" / "content_types_kb.min.json").read_text())
        output = [config["overwrite_map"].get(name, name) for name in names]
        unsure = ["txt" if kinds[name]["is_text"] else "unknown" for name in output]
        medium: float = config["medium_confidence_threshold"]
        thresholds = {
            "high_confidence": [config["thresholds"].get(name, medium) for name in names],
            "medium_confidence": [medium] * len(names),
            "best_guess": [0.0] * len(names),
        }
        if mode not in thresholds:
            raise ValueError(f"mode: expected one of {', '.join(thresholds)}, found {mode!r}")
        self._output = np.array(output, dtype=object)
        self._unsure = np.array(unsure, dtype=object)
        self._thresholds = np.array(thresholds[mode], dtype=np.float64)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`scores`, float32 ``[rows, labels]``, and `answer`, str per row, to `label`, str, and `score`, float64."""
        scores, answers = batch["scores"], batch["answer"]
        best = scores.argmax(axis=1)
        # As magika does: a threshold such as 0.9 is compared as float64, the nearest float32 is another number.
        score = scores[np.arange(len(scores)), best].astype(np.float64)
        label = np.where(score >= self._thresholds[best], self._output[best], self._unsure[best])
        answered = answers != ""
        return {"label": np.where(answered, answers, label), "score": np.where(answered, 1.0, score)}
