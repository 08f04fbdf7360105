"""Words of reports that a reader may not know, as `graphopt explain WORD` and the guide have them."""

from __future__ import annotations

import re
from collections.abc import Mapping

WORDS: Mapping[str, str] = {
    "agreement": (
        "The part of the held-out inputs for which the class that comes first is the original's. It is "
        "told where outputs are known to be class scores, with the interval in which it lies for all "
        "inputs of the kind."
    ),
    "aim": (
        "What exact rewrites go by. `time`, the default, leaves out those that a static time model "
        "expects to be slower though they save MACs; `macs` takes all that save MACs."
    ),
    "approximate": (
        "A rewrite that changes what the network computes by an error that is measured: a convolution "
        "becomes cheaper ones that are fitted to calibration inputs. Only under a budget."
    ),
    "budget": (
        "What the result has to reach: a part of the input's cost, such as macs=0.7 or latency=0.8, or a "
        "quality, such as agreement=0.98. Exit code 3 where no network does."
    ),
    "calibration": (
        "Inputs as the network gets them in use, without labels. Three quarters are fitted to, and a "
        "quarter is held out, to measure on."
    ),
    "damage": (
        "What an error in one layer costs the network's outputs, as probes of that layer tell. A plan "
        "reaches its budget with the least damage."
    ),
    "declined": (
        "A place where a rewrite would work and was not taken: it is expected to be slower, another one "
        "does more there, or verification found a difference."
    ),
    "depthwise": (
        "A convolution in which every channel has a kernel of its own. `depthwise ×4` is one with four "
        "kernels a channel, in front of a 1x1 that mixes what they make."
    ),
    "error": (
        "What a layer loses: the mean squared difference as a part of what its outputs vary. 0 is equal, "
        "and 1 is as much as is lost where an output never changes. `predicted` is what the plan was made"
        " by, `error` what held-out inputs measure."
    ),
    "exact": (
        "A rewrite that computes the same in real arithmetic, so that only rounding may differ. On by "
        "default, and verified."
    ),
    "held-out": "Calibration inputs that nothing was fitted to: figures on them hold for other inputs.",
    "latency": (
        "The time of one run in onnxruntime, original and result measured in turns, by the median of the "
        "ratios."
    ),
    "macs": (
        "Multiply-accumulates of one run: of convolutions and matrix products, the unit of cost. One is "
        "two FLOPs."
    ),
    "predicted": "The error that the plan expected of a layer, before it was fitted.",
    "rank": (
        "Channels between the factors of a convolution. `1x1 24/–` puts a 1x1 with 24 channels in front "
        "of it, `1x1 –/24` behind it, and `1x1 24/32` both."
    ),
    "rejected": (
        "A place where a rewrite looked and a condition of its algebra failed, with the number that was "
        "wrong."
    ),
    "relative": "The largest difference of an output as a part of its largest value.",
    "sqnr": (
        "Signal to quantisation noise ratio, in decibels: how much larger what an output varies is than "
        "its error. 10 dB is a tenth of the variance lost, 20 dB a hundredth, 30 dB a thousandth. The "
        "worst group of channels is told."
    ),
    "verified": (
        "Run in onnxruntime beside what it replaces, with a difference that rounding explains. "
        "Approximate rewrites are measured, and never called verified."
    ),
}
"""By word, in lower case: what it means, in the text of a terminal, with code in backquotes."""
ALIKE: Mapping[str, str] = {
    "db": "sqnr",
    "flops": "macs",
    "heldout": "held-out",
    "measured": "error",
    "ranks": "rank",
}
"""Other words for them."""
FORMS = {r"1x1 .*/.*": "rank", r"(1x1 → )?depthwise.*": "depthwise"}
"""Forms of layers as tables show them, by patterns."""


def meaning(word: str) -> str | None:
    """What a word or a layer's form means; None where it is none of these."""
    plain = word.strip().lower()
    form = next((known for pattern, known in FORMS.items() if re.fullmatch(pattern, plain)), None)
    return WORDS.get(form or ALIKE.get(plain, plain))
