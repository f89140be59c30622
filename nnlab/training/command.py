"""``nnlab fit|validate|test|predict``: LightningCLI, with a folder for each run and errors of one line."""

import copy
import csv
import io
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping, ProgressBar
from lightning.pytorch.cli import LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from nnlab.config_files import CONFIG, UserError, choices
from nnlab.data import DataError, Own, spec_of
from nnlab.data.own import forget_own
from nnlab.files import claim_folder, write_whole
from nnlab.training.callbacks import (
    AtomicCheckpointIO,
    BestAndLast,
    EpochBar,
    EpochLines,
    KeepOnInterrupt,
    LearningCurve,
)
from nnlab.training.checkpoints import NEWEST, check_fits, class_names, newest_checkpoint, read_checkpoint
from nnlab.training.classifier import Classifier
from nnlab.training.datamodule import MNISTDataModule, check_source
from nnlab.training.messages import quiet
from nnlab.training.mlp import LitMLP
from nnlab.training.parser import FROM_DATA, Parser, learner_named, short_help
from nnlab.training.pictures import probabilities
from nnlab.training.ranks import follow_parent, needs_parent, run_ranks, tell
from nnlab.training.settings import SETTINGS, blamed, check_numbers, check_settings, settings_of, split, try_optimizer
from nnlab.validation import ArgumentError, resolve_device

FAILED, USER_ERROR = 1, 2  # exit statuses; after a signal 128 and its number: 130 after Ctrl-C, 143 after SIGTERM
TRAINER = {
    "default_root_dir": "runs",
    "devices": 1,
    "max_epochs": 10,
    "num_sanity_val_steps": 0,  # the data has been checked
    "enable_model_summary": False,  # EpochLines says what there is
    "log_every_n_steps": 1,  # only epochs are logged; the default warns about epochs under 50 steps
}


class ConfigFile(SaveConfigCallback):
    """Writes the settings of a run to ``config.yaml`` in its folder, and into its checkpoints."""

    def __init__(self, parser: Any, config: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self._text = parser.dump(config, skip_unset=False)
        kept, asked = split(yaml.safe_load(self._text))
        self._settings = {"kept": kept, "asked": asked}

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write the file."""
        if NNLabCLI.folder:
            write_whole(NNLabCLI.folder / "config.yaml", self._text)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the settings that need not be given again."""
        checkpoint[SETTINGS] = copy.deepcopy(self._settings)


class Figures(CSVLogger):
    """A CSVLogger that writes ``metrics.csv`` whole, with all columns from the first row on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rows: list[dict[str, float]] = []

    @rank_zero_only
    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: they are in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a row."""
        values = {name: float(value) for name, value in metrics.items()}
        row = values | {"step": step or 0}
        if "epoch" in row:
            row["epoch"] = int(row["epoch"])
        last = self._rows[-1] if self._rows else {"step": -1}
        if last == row:
            return  # FiguresFirst has logged it
        if last.items() <= row.items():  # or a part of it
            self._rows.pop()
        self._rows.append(row)
        self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write all rows."""
        if self._rows:
            columns = sorted({name for row in self._rows for name in row})
            _write_csv(
                Path(self.log_dir) / "metrics.csv", columns, [[row.get(c) for c in columns] for row in self._rows]
            )


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_whole(path, text.getvalue())


class _Outputs(Callback):
    """Keeps the outputs of all batches that are predicted."""

    def __init__(self) -> None:
        self.found: list[torch.Tensor] = []

    def on_predict_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Keep this batch's."""
        if isinstance(pl_module, Classifier) and pl_module.last_outputs is not None:
            self.found.append(pl_module.last_outputs.float().cpu())


class FiguresFirst(Callback):
    """Logs the metrics of an epoch before its checkpoint is written; Lightning logs them after.

    A kill between the two would lose them, as the next run begins with the next epoch.
    """

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log what Lightning will log."""
        known, names = trainer.callback_metrics, getattr(pl_module, "training_figures", ())
        if found := {name: known[name] for name in names if name in known}:
            step = trainer.fit_loop.epoch_loop.on_save_checkpoint()["_batches_that_stepped"] - 1
            for logger in trainer.loggers:
                if isinstance(logger, Figures):
                    logger.log_metrics(found | {"epoch": trainer.current_epoch}, step)


class Board(TensorBoardLogger):
    """A TensorBoardLogger without ``hparams.yaml``, which a kill could cut: the settings are in ``config.yaml``."""

    @rank_zero_only
    def save(self) -> None:
        """Write what was logged."""
        self.experiment.flush()


class NNLabCLI(LightningCLI):
    """LightningCLI for the learners of nnlab."""

    config: Any
    folder: Path | None = None  # of this run
    early_stopping = True
    settings: Any = None  # of the command, once they are parsed

    def __init__(self, arguments: Sequence[str]) -> None:
        super().__init__(
            model_class=Classifier,
            subclass_mode_model=True,
            datamodule_class=MNISTDataModule,
            trainer_defaults=TRAINER,
            seed_everything_default=1,
            parser_class=Parser,
            parser_kwargs={"prog": "nnlab"},  # also as python -m nnlab
            save_config_callback=ConfigFile,
            load_from_checkpoint_support=False,
            args=list(arguments),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands; none lets ``weights_only`` be turned off."""
        return {name: skip | {"weights_only"} for name, skip in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Add the checkpoint and early-stopping options, and let the data set the model's size."""
        parser.add_class_arguments(BestAndLast, "checkpoint", fail_untyped=False)
        defaults: dict[str, Any] = {"checkpoint.filename": "best", "checkpoint.monitor": "val_loss"}
        if self.early_stopping:
            parser.add_class_arguments(EarlyStopping, "early_stopping", fail_untyped=False)
            defaults |= {"early_stopping.monitor": "val_loss", "early_stopping.patience": 5}
        else:  # so that --print_config and config.yaml say so
            parser.add_argument("--early_stopping", type=type(None), default=None)
        parser.set_defaults({"model": {"class_path": "nnlab.training.LitMLP"}, **defaults})
        for name in sorted(FROM_DATA):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: Any, args: Any) -> None:
        """Parse the arguments given, not those of the process."""
        self.config = parser.parse_args(args)
        NNLabCLI.settings = self.config[self.config.subcommand]
        check_numbers(self.settings)

    def _parse_ckpt_path(self) -> None:
        """Check that the checkpoint fits the flags; Lightning would let its hyper-parameters silently win over them."""
        command = self.config.subcommand
        config = self.config[command]
        self.learner = learner_named(config.model.class_path)
        data = config.data
        check_source(data.name, data.root, data.path, data.label)
        spec = spec_of(data.name, data.path, data.label, keep=True)
        Parser.data_flag = "--data.path" if isinstance(spec, Own) else "--data.name"
        of_data = {"in_features": spec.in_features, "n_classes": spec.n_classes, "classes": list(spec.classes)}
        of_data["scaling"] = data.scaling
        wanted = {**config.model.init_args.as_dict(), **of_data}
        if isinstance(wanted.get("hidden"), int):
            wanted["hidden"] = [wanted["hidden"]]
        if config.ckpt_path in NEWEST or (config.ckpt_path is None and command != "fit"):
            root = Path(config.trainer.default_root_dir or ".")
            named = {"name": None if data.path else data.name or "mnist"}
            fits = partial(check_fits, learner=self.learner, wanted=wanted | named)
            path = newest_checkpoint(root, config.ckpt_path or "best", fits)
            _say(f"checkpoint: {path}")
            config.ckpt_path = str(path)
        if config.ckpt_path is not None:
            checkpoint = check_fits(config.ckpt_path, self.learner, wanted)
            if command == "fit":
                _check_beginning(checkpoint, config)

    def before_instantiate_classes(self) -> None:
        """Check the settings before anything is built."""
        command = self.config.subcommand
        check_settings(command, self.config[command], self.learner)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """The trainer, with the loggers, callbacks and checkpoint writer that every run has."""
        config, every = self._get(self.config_init, "trainer"), self.config_init[self.config.subcommand]
        if str(config["strategy"]).startswith(("ddp_spawn", "ddp_fork", "ddp_notebook")):
            raise ArgumentError("strategy", f"must be 'ddp', whose ranks are watched, got {config['strategy']!r}")
        root, fits = Path(config["default_root_dir"]).expanduser(), self.config.subcommand == "fit"
        if fits and not config["barebones"] and not config["fast_dev_run"] and getattr(rank_zero_only, "rank", 0) == 0:
            NNLabCLI.folder = claim_folder(root / self.learner.__name__)
        self.keeper, self.kept = KeepOnInterrupt(self.folder), every["checkpoint"]
        if self.folder and self.kept.dirpath is None:
            self.kept.dirpath = str(self.folder / "checkpoints")
        callbacks: list[Callback] = _listed(config["callbacks"])
        bare, keeps = config["barebones"], config["enable_checkpointing"] is not False
        if not bare:
            callbacks += [FiguresFirst(), self.keeper, LearningCurve(), EpochLines(), *[self.kept] * keeps]
            callbacks += [every["early_stopping"]] if self.early_stopping else []
            has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
            if config["enable_progress_bar"] is not False and not has_bar:
                if sys.stdout.isatty():
                    callbacks.append(EpochBar())
                else:
                    kwargs["enable_progress_bar"] = False
        plugins = _listed(config["plugins"])
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        logger = config["logger"]
        if bare:
            logger, kwargs = False, kwargs | {"log_every_n_steps": 0}
        elif logger is None or logger is True:
            logger = self._loggers(root) if fits else False
        # for Lightning, "auto" and "gpu" may also be mps, which nnlab does not run on
        chosen = {"auto": resolve_device("auto").type, "gpu": "cuda"}
        kwargs |= {"accelerator": chosen.get(config["accelerator"], config["accelerator"]), "default_root_dir": root}
        trainer: L.Trainer = super().instantiate_trainer(callbacks=callbacks, plugins=plugins, logger=logger, **kwargs)
        return trainer

    def _loggers(self, root: Path) -> list[Logger]:
        """A CSV log, and one for TensorBoard where it is installed, in a folder of this run alone."""
        name = self.learner.__name__
        version = self.folder.name if self.folder else "version_0"  # rank 0 shares its name with the other processes
        log = Figures(root, name=name, version=version)
        return [log, *([Board(root, name=name, version=version)] if find_spec("tensorboard") else [])]

    def before_fit(self) -> None:
        """Refuse a trainer or an optimizer that the model cannot be trained with; start the ranks."""
        self.model.check_trainer(self.trainer)
        optimizer, lr_scheduler = (self._get(self.config_init, key) for key in ("optimizer", "lr_scheduler"))
        if optimizer:
            try_optimizer(list(self.model.parameters()), optimizer, lr_scheduler, self.trainer.precision)
        self.before_validate()

    def before_validate(self) -> None:
        """Start the ranks of a run on several devices, and exit with their status."""
        if needs_parent(self.trainer):
            _remove(self.folder)  # rank 0 makes its own
            sys.exit(run_ranks(self.trainer, self.config.subcommand))

    before_test = before_validate

    def fit(self, model: Classifier, **kwargs: Any) -> None:
        """Train; print where the model is and how to test it, also after a signal."""
        try:
            self.trainer.fit(model, weights_only=True, **kwargs)
        except SystemExit:  # also how Lightning ends after a signal
            if self.keeper.signal is None:
                raise
            if path := self.keeper.ckpt_path:
                words = "interrupted" if self.keeper.signal == signal.SIGINT else "ended by SIGTERM"
                _say(f"{words}; the model is in {path}. To go on: nnlab fit {self._with_settings(path)}")
            sys.exit(128 + self.keeper.signal)
        if model_path := self.kept.best_model_path or self.kept.last_model_path:
            _say(f"nnlab test {self._with_settings(Path(model_path))}")

    def _with_settings(self, path: Path) -> str:
        """The flags that name a checkpoint, with the run's settings where it does not keep all of them."""
        _, asked = split(yaml.safe_load(self.parser.dump(self.config, skip_unset=False))[self.config.subcommand])
        files = {"--config": Path(self.folder or self.trainer.default_root_dir) / "config.yaml"} if asked else {}
        files["--ckpt_path"] = path
        here = {flag: os.path.relpath(p) if p.is_relative_to(Path.cwd()) else str(p) for flag, p in files.items()}
        return " ".join(f"{flag} {shlex.quote(name)}" for flag, name in here.items())

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
        kept = _Outputs()
        self.trainer.callbacks.append(kept)  # type: ignore[attr-defined]
        predictions = self.trainer.predict(model, datamodule=datamodule, weights_only=True, **kwargs)
        labels = datamodule.predict_dataloader().labels.tolist()
        predicted = [label for batch in predictions or [] for label in torch.as_tensor(batch).tolist()]
        # --trainer.limit_predict_batches predicts the first ones only
        names: Sequence[Any] = range(datamodule.n_classes) if datamodule.path is None else datamodule.classes
        index, columns = datamodule.test_index[: len(predicted)], ["index", "target", "prediction"]
        rows: list[tuple[Any, ...]] = [
            (i, names[y], names[p]) for i, y, p in zip(index, labels[: len(predicted)], predicted, strict=True)
        ]
        if kept.found and (of_classes := probabilities(torch.cat(kept.found), model.hparams.get("loss"))) is not None:
            columns += ["probability", *(f"p{name}" for name in class_names(datamodule.hparams, of_classes.shape[1]))]
            rows = [
                (*row, of_all[p], *of_all) for row, p, of_all in zip(rows, predicted, of_classes.tolist(), strict=True)
            ]
        path = claim_folder(Path(self.trainer.default_root_dir) / self.learner.__name__) / "predictions.csv"
        _write_csv(path, columns, rows)
        _say(f"predictions: {path}")


def _check_beginning(checkpoint: dict[str, Any], config: Any) -> None:
    """Refuse a change of the settings that only the start of a run uses."""
    record = checkpoint.get("training")
    old = {
        "seed_everything": record.get("seed") if isinstance(record, dict) else None,
        "seed": checkpoint.get("datamodule_hyper_parameters", {}).get("seed"),
        "init_std": checkpoint["hyper_parameters"].get("init_std"),
    }
    new = {"seed_everything": config.seed_everything, "seed": config.data.seed}
    new |= {"init_std": config.model.init_args.get("init_std")}
    for name, value in new.items():
        if value != old[name]:
            raise ArgumentError(name, f"must stay {old[name]} where a run goes on, got {value}")


def _remove(folder: Path | None) -> None:
    """Remove the folder of a run that did not start, and the folders above it that are then empty."""
    if folder is None or any(folder.rglob("*.ckpt")):
        return
    shutil.rmtree(folder)
    with suppress(OSError):  # raised where one is not empty
        for above in (folder.parent, folder.parent.parent):
            above.rmdir()


def _listed(value: Any) -> list[Any]:
    return [] if value is None else [*value] if isinstance(value, list) else [value]


def settings_of_checkpoint(command: str, flags: Sequence[str]) -> dict[str, Any]:
    """The settings of --ckpt_path where there is no --config; none without it.

    Raises:
        ArgumentError: the checkpoint cannot be used.
        UserError: a setting is not in the checkpoint, and must be given again.
    """
    given = {}
    for flag, after in zip(flags, [*flags, ""][1:], strict=True):
        name, equals, value = flag.partition("=")
        given[name] = value if equals else after
    path = given.get("--ckpt_path", "null")
    if path == "null" or not given.keys().isdisjoint(CONFIG):
        return {}
    if path in NEWEST:
        root = given.get("--trainer.default_root_dir", "runs")
        path = str(newest_checkpoint(Path(root).expanduser(), path, read_checkpoint))
    settings, asked = settings_of(read_checkpoint(path), command)
    for flag in asked:
        if not any(name == flag or name.startswith((f"{flag}.", f"{flag}+")) for name in given):
            raise UserError(
                f"{flag} was set in the run of {path}, which does not keep it: give it again, or by --config"
            )
    return settings


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)


def run(arguments: Sequence[str], chosen: Mapping[str, Any]) -> None:
    """Run a command of LightningCLI.

    Args:
        arguments: the command's name and its flags; ``--debug`` among them turns one-line errors into tracebacks.
        chosen: the classes that they choose, by name, and early stopping, None where it is off.

    Raises:
        SystemExit: 1 where training met NaN or infinity, or one of several processes failed, 2 for a user's error, 130
            after Ctrl-C, 143 after SIGTERM.
    """
    debug, arguments = "--debug" in arguments, [a for a in arguments if a != "--debug"]
    quiet()
    follow_parent(arguments[0])
    NNLabCLI.folder, NNLabCLI.settings, Parser.learner, Parser.chosen = None, None, LitMLP, dict(chosen)
    Parser.data_flag = "--data.name"
    try:
        if settings := settings_of_checkpoint(arguments[0], arguments[1:]):
            chosen = choices(settings) | dict(chosen)
            if chosen.get("early_stopping", 0) is None:
                settings.pop("early_stopping", None)
            arguments = [arguments[0], f"--config={yaml.safe_dump(settings)}", *arguments[1:]]
        explains = not {"-h", "--help"}.isdisjoint(arguments)
        NNLabCLI.early_stopping = explains or chosen.get("early_stopping", 0) is not None
        Parser.chosen, Parser.learner = dict(chosen), learner_named(chosen.get("model") or "LitMLP")
        if arguments[1:] and arguments[-1] in ("-h", "--help"):
            print(short_help(arguments[0], Parser.learner))
            return
        NNLabCLI([a for a in arguments if a != "all" or arguments[-1] != "all"])
    except Exception as error:
        status, line = _explained(error)
        told = tell(status, line)
        is_rank = torch.distributed.is_available() and torch.distributed.is_initialized()
        unexpected = status == FAILED and not isinstance(error, FloatingPointError)
        if debug or (unexpected and not told and not is_rank):
            raise
        if status == USER_ERROR:
            _remove(NNLabCLI.folder)
        rank = getattr(rank_zero_only, "rank", 0)
        if not told and (is_rank or rank == 0):
            print(f"nnlab {arguments[0]}: error: {f'rank {rank}: ' if is_rank else ''}{line}", file=sys.stderr)
        sys.exit(status)
    finally:
        forget_own()


def _explained(error: Exception) -> tuple[int, str]:
    """The exit status for an error, and its message."""
    if isinstance(error, FloatingPointError):  # training met NaN or infinity
        return FAILED, f"{error} ({', '.join([Parser.flag_of('lr'), *_large()])})"
    mistake = _users_mistake(error)
    if mistake is None:
        return FAILED, " ".join(f"{type(error).__name__}: {error}".split())
    return USER_ERROR, " ".join(mistake.split())


def _large() -> Iterator[str]:
    """The settings beside the learning rate that are so large that they may be why training met NaN or infinity."""
    groups = {"model": ("l2", "init_std"), "optimizer": ("weight_decay",)}
    for group, names in groups.items():
        given = (NNLabCLI.settings.get(group) or {}).get("init_args") or {}
        yield from (f"--{group}.{name}={given[name]:g}" for name in names if (given.get(name) or 0) > 1)


def _users_mistake(error: BaseException | None) -> str | None:
    """The user's mistake behind an error, and the flag to change; the parser wraps what a constructor raises."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    for mistake in chain:
        if isinstance(mistake, ArgumentError):
            return f"{mistake} ({Parser.flag_of(mistake.argument)})"
        if isinstance(mistake, (UserError, DataError)):
            return str(mistake)
    for mistake in chain[::-1]:
        if NNLabCLI.settings and (flags := blamed(mistake, NNLabCLI.settings, TRAINER)):
            return f"{str(mistake) or type(mistake).__name__} ({flags})"
    kinds = MisconfigurationException, OSError, ValueError, ZeroDivisionError  # what torch or Lightning refused
    return next((str(e) for kind in kinds for e in chain if isinstance(e, kind)), None)
