"""``nnlab fit|validate|test|predict``: LightningCLI, with runs that keep to one folder and errors of one line."""

import csv
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from nnlab.data import SPECS, DataError
from nnlab.training.callbacks import BestAndLast, EpochBar, KeepOnInterrupt, LearningCurve
from nnlab.training.checkpoints import AtomicCheckpointIO, check_fits
from nnlab.training.classifier import Classifier
from nnlab.training.datamodule import MNISTDataModule
from nnlab.training.messages import quiet
from nnlab.training.parser import FROM_DATA, Parser, UserError, chosen_learner, flag_of, learner_named, with_recipes
from nnlab.training.settings import check_settings
from nnlab.validation import ArgumentError, resolve_device

FAILED, USER_ERROR, INTERRUPTED = 1, 2, 130  # exit statuses
USER_ERRORS = (UserError, ArgumentError, DataError, MisconfigurationException, OSError)


class NNLabCLI(LightningCLI):
    """LightningCLI for the learners of nnlab."""

    config: Any

    def __init__(self, arguments: Sequence[str]) -> None:
        super().__init__(
            model_class=Classifier,
            subclass_mode_model=True,
            datamodule_class=MNISTDataModule,
            trainer_defaults={
                "default_root_dir": "runs",
                "devices": 1,
                "max_epochs": 10,
                "num_sanity_val_steps": 0,  # the data has been checked
                "log_every_n_steps": 1,  # only epochs are logged; the default warns about epochs under 50 steps
            },
            seed_everything_default=1,
            parser_class=Parser,
            parser_kwargs={"prog": "nnlab"},  # also as python -m nnlab
            save_config_kwargs={"overwrite": True},
            load_from_checkpoint_support=False,
            args=list(arguments),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands; none lets ``weights_only`` be turned off."""
        return {name: skip | {"weights_only"} for name, skip in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Add the checkpoint and early-stopping options, and let the data set the model's size."""
        parser.add_lightning_class_args(BestAndLast, "checkpoint")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults(
            {
                "model": {"class_path": "nnlab.training.LitMLP"},
                "checkpoint.filename": "best",
                "checkpoint.monitor": "val_loss",
                "early_stopping.monitor": "val_loss",
                "early_stopping.patience": 5,
            }
        )
        for name in sorted(FROM_DATA):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Parse the arguments given, not those of the process."""
        self.config = parser.parse_args(args)
        seed = self.config[self.config.subcommand].seed_everything
        if not 0 <= seed < 2**32:
            raise ArgumentError("seed_everything", f"must be a whole number from 0 to {2**32 - 1}, got {seed}")

    def _parse_ckpt_path(self) -> None:
        """Check that the checkpoint fits the flags; Lightning would let its hyper-parameters silently win over them."""
        command = self.config.subcommand
        config = self.config[command]
        self.learner = learner_named(config.model.class_path)
        spec = SPECS[config.data.name]
        of_data = {"in_features": spec.in_features, "n_classes": spec.n_classes, "scaling": config.data.scaling}
        wanted = {**config.model.init_args.as_dict(), **of_data}
        if config.ckpt_path is not None:
            check_fits(config.ckpt_path, self.learner, wanted)
        elif command != "fit":
            root = Path(config.trainer.default_root_dir or ".")
            config.ckpt_path = self._newest_checkpoint(root, wanted | {"name": config.data.name})

    def _newest_checkpoint(self, root: Path, wanted: dict[str, Any]) -> str:
        """The newest that fits; where none does, what is wrong with the newest."""
        pattern, problem = f"{self.learner.__name__}/*/checkpoints/best.ckpt", None
        for path in sorted(root.glob(pattern), key=lambda p: p.stat().st_mtime, reverse=True):
            try:
                check_fits(path, self.learner, wanted)
            except ArgumentError as error:
                problem = problem or error
            else:
                _say(f"checkpoint: {path}")
                return str(path)
        raise problem or UserError(
            f"there is no checkpoint of {self.learner.__name__} under {root}: train one with nnlab fit, or name "
            "one with --ckpt_path"
        )

    def before_instantiate_classes(self) -> None:
        """Refuse settings that would fail only after the data is loaded, or train something else than was meant."""
        command = self.config.subcommand
        check_settings(command, self.config[command], self.learner)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer, with the loggers, callbacks and checkpoint writer that every run has."""
        config = self._get(self.config_init, "trainer")
        given = config["callbacks"] or []
        self.keeper = KeepOnInterrupt()
        callbacks: list[Callback] = [
            *(given if isinstance(given, list) else [given]),
            self.keeper,
            LearningCurve(),
        ]
        if config["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(EpochBar())
        plugins = config["plugins"] or []
        plugins = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        logger = config["logger"]
        if logger is None or logger is True:
            logger = _loggers(Path(config["default_root_dir"]), self.learner.__name__)
        # for Lightning, "auto" and "gpu" may also be mps, which nnlab does not run on
        chosen = {"auto": resolve_device("auto").type, "gpu": "cuda"}
        kwargs["accelerator"] = chosen.get(config["accelerator"], config["accelerator"])
        trainer: L.Trainer = super().instantiate_trainer(callbacks=callbacks, plugins=plugins, logger=logger, **kwargs)
        return trainer

    def fit(self, model: Classifier, **kwargs: Any) -> None:
        """Train, and say where the model is and how to test it, also after an interrupt."""
        model.check_trainer(self.trainer)  # before anything is written
        try:
            self.trainer.fit(model, weights_only=True, **kwargs)
        except SystemExit:  # how Lightning ends after Ctrl-C
            if path := self.keeper.ckpt_path:
                _say(f"interrupted; the model is in {path}. To go on, add --ckpt_path {path}")
            sys.exit(INTERRUPTED)
        kept = self.trainer.checkpoint_callback
        if isinstance(kept, BestAndLast) and (model_path := kept.best_model_path or kept.last_model_path):
            paths = Path(self.trainer.log_dir or self.trainer.default_root_dir) / "config.yaml", Path(model_path)
            config, model_file = (
                shlex.quote(os.path.relpath(p) if p.is_relative_to(Path.cwd()) else str(p)) for p in paths
            )
            _say(f"nnlab test --config {config} --ckpt_path {model_file}")

    def validate(self, model: L.LightningModule, **kwargs: Any) -> None:
        """Measure on the validation images."""
        self.trainer.validate(model, weights_only=True, **kwargs)

    def test(self, model: L.LightningModule, **kwargs: Any) -> None:
        """Measure on the test images; the last line is the accuracy."""
        self.trainer.test(model, weights_only=True, **kwargs)
        _say(f"test accuracy: {self.trainer.callback_metrics['test_acc']:.4f}")

    def predict(self, model: L.LightningModule, datamodule: MNISTDataModule, **kwargs: Any) -> None:
        """Write the predictions for the test images to ``predictions.csv`` in the run's folder."""
        if self.trainer.world_size > 1:
            raise ArgumentError("devices", f"must be 1 to predict, got {self.trainer.world_size} processes")
        predictions = self.trainer.predict(model, datamodule=datamodule, weights_only=True, **kwargs)
        labels = [label for _, batch in datamodule.predict_dataloader() for label in batch.tolist()]
        predicted = [label for batch in predictions or [] for label in torch.as_tensor(batch).tolist()]
        # --trainer.limit_predict_batches predicts the first ones only
        rows = [(i, *row) for i, row in enumerate(zip(labels[: len(predicted)], predicted, strict=True))]
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "predictions.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("index", "target", "prediction"), *rows])
        _say(f"predictions: {folder / 'predictions.csv'}")


def _loggers(root: Path, name: str) -> list[Logger]:
    """A CSV log, and one for TensorBoard where it is installed, in the same new folder."""
    log = CSVLogger(root, name=name)
    if find_spec("tensorboard") is None:
        return [log]
    return [log, TensorBoardLogger(root, name=name, version=f"version_{log.version}")]


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)


def run(arguments: Sequence[str]) -> None:
    """Run a command of LightningCLI.

    Args:
        arguments: the command's name and its flags; ``--debug`` among them turns one-line errors into tracebacks.

    Raises:
        SystemExit: 1 where training met NaN or infinity, 2 for a user's error, 130 after Ctrl-C.
    """
    debug, arguments = "--debug" in arguments, [a for a in arguments if a != "--debug"]
    quiet()
    learner = None
    try:
        arguments = with_recipes(arguments)
        learner = Parser.learner = chosen_learner(arguments)
        NNLabCLI(arguments)
    except FloatingPointError as error:  # training met NaN or infinity
        if debug:
            raise
        if getattr(rank_zero_only, "rank", 0) == 0:
            change = f" ({flag_of('lr', learner)})" if learner else ""
            print(f"nnlab {arguments[0]}: error: {error}{change}", file=sys.stderr)
        sys.exit(FAILED)
    except Exception as error:
        mistake = _users_mistake(error)
        if debug or mistake is None:
            raise
        change = f" ({flag_of(mistake.argument, learner)})" if isinstance(mistake, ArgumentError) and learner else ""
        if getattr(rank_zero_only, "rank", 0) == 0:
            print(f"nnlab {arguments[0]}: error: {' '.join(str(mistake).split())}{change}", file=sys.stderr)
        sys.exit(USER_ERROR)


def _users_mistake(error: BaseException | None) -> BaseException | None:
    """The mistake behind an error: the parser wraps what a constructor raises in errors of its own."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    kinds: tuple[Any, ...] = USER_ERRORS, (ValueError, ZeroDivisionError)  # second: what torch or Lightning refused
    return next((e for kind in kinds for e in chain if isinstance(e, kind)), None)
