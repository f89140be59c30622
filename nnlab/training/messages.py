"""The log of nnlab and Lightning: on standard output, without lines that tell the user nothing."""

import logging
import sys
import warnings

EXPECTED = (
    # --optimizer takes the place of configure_optimizers on purpose
    (r".*configure_optimizers` will be overridden", ""),
    # every run has a folder of its own, so a resumed or tested checkpoint always comes from another
    ("The dirpath has changed from", ""),
    # bf16-mixed; the summary only estimates the size in megabytes
    ("Precision .* is not supported by the model summary", ""),
    # --data.val_size=0
    ("Total length of `list` across ranks is zero", ""),
    # --trainer.accelerator=cpu beside a CUDA device, or a device on which nnlab does not run, such as mps
    ("GPU available but not used", ""),
    # another monitor where a run goes on, of which EpochLines speaks, or --early_stopping=null
    (r"Be aware that when using `ckpt_path`.*: \[\"(EarlyStopping|BestAndLast)\{[^\]]*\]", ""),
    # Lightning's own use of torch.utils._pytree
    (r".*LeafSpec.*is deprecated", r"lightning\.pytorch\.utilities\._pytree"),
)
"""Warnings that are expected: message and module, as regular expressions."""


UNSAID = (
    *("Tip:", "GPU available: False", "TPU available: False", "Seed set to"),
    *("Detected KeyboardInterrupt", "Restoring states from the checkpoint", "Restored all states from the checkpoint"),
    "Loaded model weights from the checkpoint",
)
"""Lines that tell the user nothing."""


class _StandardOutput(logging.Handler):
    """Writes to the current ``sys.stdout``; standard error is for errors."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stdout)


def quiet() -> None:
    """Show the log of nnlab and Lightning on standard output, without expected warnings and advertisements."""
    for message, module in EXPECTED:
        warnings.filterwarnings("ignore", message, module=module)
    logging.getLogger("nnlab").setLevel(logging.INFO)
    for name in ("nnlab", "lightning"):
        handler = _StandardOutput()
        handler.addFilter(lambda record: not any(words in record.getMessage() for words in UNSAID))
        logging.getLogger(name).handlers = [handler]
    # these two add handlers of their own unless the root logger has one
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = [], True
