# ruff: noqa: E501  (messages stand here as people see them)
"""The error messages of bad configs, word for word; and that nothing is done before."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import GOOD, house  # noqa: F401
from utils.config import ConfigError, load
from utils.config.schema import RunConfig, TrainerConfig

ROOT = Path(__file__).resolve().parents[2]

# (what is wrong, how x.yaml of tests/house.py is changed, the message)
#   "edit": (old text, new text) in it; "FILE": a file's whole text; "files": what -c is given; "set": KEY=VALUEs
CASES: list[tuple[str, dict, str]] = [
    # the file
    (
        "no such file",
        {"files": ["y.yaml"]},
        "y.yaml: no such file (did you mean 'x.yaml'?)",
    ),
    (
        "near file name",
        {"files": ["xx.yaml"]},
        "xx.yaml: no such file (did you mean 'x.yaml'?)",
    ),
    (
        "file in config/",
        {"config/letters.yaml": "", "files": ["leters.yaml"]},
        "leters.yaml: no such file (did you mean 'config/letters.yaml'?)",
    ),
    (
        "a folder",
        {"files": ["."]},
        ".: cannot read it (Is a directory); expected a .yaml or .json file",
    ),
    (
        "empty file",
        {"x.yaml": ""},
        "x.yaml: the file is empty, expected a mapping with the keys name, arch, data_loader, ...",
    ),
    (
        "only comments",
        {"x.yaml": "# nothing\n"},
        "x.yaml: the file is empty, expected a mapping with the keys name, arch, data_loader, ...",
    ),
    (
        "a list",
        {"x.yaml": "- name: demo\n"},
        'x.yaml: got [{"name": "demo"}], expected a mapping with the keys name, arch, data_loader, ...',
    ),
    (
        "binary",
        {"x.yaml": b"PK\x03\x04\xff\xfe"},
        "x.yaml:1: not UTF-8 text; save the file as UTF-8",
    ),
    (
        "null byte",
        {"x.yaml": "name: a\0b\n"},
        "x.yaml:1: this is not valid YAML (unacceptable character #x0000: special characters are not allowed); check indentation (spaces, no tabs), colons, brackets and quotes in this line and the one above",
    ),
    (
        "too large",
        {"x.yaml": "#" * 1_000_001},
        "x.yaml: larger than 1 MB; this is not a config",
    ),
    (
        "tab",
        {"x.yaml": "name: demo\ntrainer:\n\tepochs: 3\n"},
        "x.yaml:3: this is not valid YAML (found character '\\t' that cannot start any token); check indentation (spaces, no tabs), colons, brackets and quotes in this line and the one above",
    ),
    (
        "bad indentation",
        {"x.yaml": "name: demo\n  arch: Net\n"},
        "x.yaml:2: this is not valid YAML (mapping values are not allowed here); check indentation (spaces, no tabs), colons, brackets and quotes in this line and the one above",
    ),
    (
        "open bracket",
        {"x.yaml": "name: [demo\narch: Net\n"},
        "x.yaml:2: this is not valid YAML (expected ',' or ']', but got ':'); check indentation (spaces, no tabs), colons, brackets and quotes in this line and the one above",
    ),
    (
        "two documents",
        {"x.yaml": "name: a\n---\nname: b\n"},
        "x.yaml:2: this is not valid YAML (found another document); check indentation (spaces, no tabs), colons, brackets and quotes in this line and the one above",
    ),
    (
        "duplicate key",
        {"x.yaml": "name: a\nseed: 1\nname: b\n"},
        "x.yaml:3: name: duplicate key, first given on line 1; keep one of the two",
    ),
    (
        "duplicate key, deep",
        {"edit": ("  epochs: 2\n", "  epochs: 2\n  epochs: 3\n")},
        "x.yaml:18: trainer.epochs: duplicate key, first given on line 17; keep one of the two",
    ),
    (
        "python tag",
        {"x.yaml": "name: !!python/object/apply:os.system [ls]\n"},
        "x.yaml:1: name: the tag !!python/object/apply:os.system is not accepted; write a plain value",
    ),
    (
        "own tag",
        {"x.yaml": "name: !env HOME\n"},
        "x.yaml:1: name: the tag !env is not accepted; write a plain value",
    ),
    (
        "bad explicit number",
        {"x.yaml": "seed: !!int two\n"},
        'x.yaml:1: seed: "two" is not a number',
    ),
    (
        "key no word",
        {"x.yaml": "1: a\ntrue: b\n"},
        "x.yaml:1: 1: a key must be a string; put it in quotes\n"
        "x.yaml:2: true: a key must be a string; put it in quotes",
    ),
    (
        "alias bomb",
        {
            "x.yaml": "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{c}: &{c} [{','.join(['*' + p] * 10)}]\n" for p, c in zip("abcdef", "bcdefg", strict=True))
        },
        "x.yaml:1: more than 100,000 values after aliases are expanded",
    ),
    (
        "alias of itself",
        {"x.yaml": "a: &a [*a]\n"},
        "x.yaml:1: nested too deeply, or an alias that contains itself",
    ),
    (
        "unknown alias",
        {"x.yaml": "a: *b\n"},
        "x.yaml:1: this is not valid YAML (found undefined alias 'b'); check indentation (spaces, no tabs), colons, brackets and quotes in this line and the one above",
    ),
    (
        "deep",
        {"x.yaml": "a: " + "[" * 5000},
        "x.yaml:1: nested too deeply, or an alias that contains itself",
    ),
    (
        "json duplicate",
        {"x.json": '{"name": "a",\n "name": "b"}', "files": ["x.json"]},
        "x.json:2: name: duplicate key, first given on line 1; keep one of the two",
    ),
    (
        "json empty",
        {"x.json": "", "files": ["x.json"]},
        "x.json: the file is empty, expected a mapping with the keys name, arch, data_loader, ...",
    ),
    (
        "base missing",
        {"edit": ("name: demo\n", "name: demo\nbase: y.yaml\n")},
        "x.yaml:2: base: y.yaml: no such file (did you mean 'x.yaml'?)",
    ),
    (
        "base circle",
        {"edit": ("name: demo\n", "base: y.yaml\nname: demo\n"), "y.yaml": "base: [x.yaml]\n"},
        "y.yaml:1: base: files include each other: x.yaml -> y.yaml -> x.yaml; remove one base:",
    ),
    (
        "base no file",
        {"edit": ("name: demo\n", "name: demo\nbase: 3\n")},
        "x.yaml:2: base: got 3, expected a file or a list of files",
    ),
    (
        "error in a base",
        {"edit": ("name: demo\n", "base: y.yaml\nname: demo\n"), "y.yaml": "seed: x\n"},
        'y.yaml:1: seed: got "x", expected a non-negative integer (determines all randomness of the run)',
    ),
    (
        "error in the later file",
        {"files": ["x.yaml", "y.yaml"], "y.yaml": "trainer:\n  epohs: 5\n"},
        "y.yaml:2: trainer.epohs: unknown key 'epohs' (did you mean 'epochs'?)\n"
        "accepted keys of trainer: <TRAINER KEYS>",
    ),
    # keys
    (
        "unknown key",
        {"edit": ("name: demo\n", "name: demo\nsede: 3\n")},
        "x.yaml:2: sede: unknown key 'sede' (did you mean 'seed'?); keys of your own go under custom:\n"
        "accepted keys: <KEYS>",
    ),
    (
        "unknown key, no idea",
        {"edit": ("name: demo\n", "name: demo\nvisualize: 3\n")},
        "x.yaml:2: visualize: unknown key 'visualize'; keys of your own go under custom:\naccepted keys: <KEYS>",
    ),
    (
        "unknown key in trainer",
        {"edit": ("  epochs: 2\n", "  epochs: 2\n  save_perod: 3\n")},
        "x.yaml:18: trainer.save_perod: unknown key 'save_perod' (did you mean 'save_period'?)\n"
        "accepted keys of trainer: <TRAINER KEYS>",
    ),
    (
        "unknown key in a part",
        {"edit": ("  type: Net\n  args", "  type: Net\n  agrs")},
        "x.yaml:4: arch.agrs: unknown key 'agrs' (did you mean 'args'?)\naccepted keys of arch: type, args",
    ),
    (
        "misspelled required key",
        {"edit": ("name: demo\n", "nmae: demo\n")},
        "x.yaml:1: nmae: unknown key 'nmae' (did you mean 'name'?); keys of your own go under custom:\n"
        "accepted keys: <KEYS>",
    ),
    (
        "misspelled type",
        {"edit": ("  type: Net\n", "  tpye: Net\n")},
        "x.yaml:3: arch.tpye: unknown key 'tpye' (did you mean 'type'?)\naccepted keys of arch: type, args",
    ),
    (
        "misspelled type of the optimizer",
        {"edit": ("  type: Lion\n", "  typ: Lion\n")},
        "x.yaml:12: optimizer.typ: unknown key 'typ' (did you mean 'type'?)\naccepted keys of optimizer: type, args, groups, no_decay, layer_decay",
    ),
    (
        "misspelled base",
        {"edit": ("name: demo\n", "bas: y.yaml\nname: demo\n")},
        "x.yaml:1: bas: unknown key 'bas' (did you mean 'base'?); keys of your own go under custom:\n"
        "accepted keys: <KEYS>",
    ),
    (
        "dotted key in a file",
        {"edit": ("name: demo\n", "name: demo\ntrainer.epochs: 3\n")},
        "x.yaml:2: trainer.epochs: unknown key 'trainer.epochs' (did you mean 'trainer'?); keys of your own go under custom:\n"
        "accepted keys: <KEYS>",
    ),
    (
        "missing section",
        {"edit": ("loss: nll\n", "")},
        "x.yaml: 'loss' is missing; expected NAME or {type: NAME, args: {...}} (from model/ or torch.nn)",
    ),
    (
        "missing type",
        {"edit": ("  type: Net\n", "")},
        "x.yaml:2: arch: 'type' is missing; expected a string (name of a class or function of the project, or of the section's library)",
    ),
    (
        "missing in one of several optimizers",
        {"edit": ("  type: Lion\n  args: {lr: 1e-3}\n", "  a: {type: Lion, args: {lr: 1}}\n  b: {args: {lr: 1}}\n")},
        "x.yaml:13: optimizer.b: 'type' is missing; expected a string (name of a class or function of the project, or of the section's library)",
    ),
    (
        "no end",
        {"edit": ("  epochs: 2\n", "")},
        "x.yaml:16: trainer: 'epochs' or 'max_steps' is missing; give one, for example epochs: 10",
    ),
    # values
    (
        "word for a number",
        {"edit": ("epochs: 2", "epochs: ten")},
        'x.yaml:17: trainer.epochs: got "ten", expected a positive integer or null (passes over the training data)',
    ),
    (
        "text for a number",
        {"edit": ("epochs: 2", 'epochs: "2"')},
        'x.yaml:17: trainer.epochs: got "2", expected a positive integer or null (passes over the training data)',
    ),
    (
        "zero epochs",
        {"edit": ("epochs: 2", "epochs: 0")},
        "x.yaml:17: trainer.epochs: got 0, expected a positive integer or null (passes over the training data)",
    ),
    (
        "fraction",
        {"edit": ("epochs: 2", "epochs: 2.5")},
        "x.yaml:17: trainer.epochs: got 2.5, expected a positive integer or null (passes over the training data)",
    ),
    (
        "true for a number",
        {"edit": ("epochs: 2", "epochs: true")},
        "x.yaml:17: trainer.epochs: got true, expected a positive integer or null (passes over the training data)",
    ),
    (
        "on for true",
        {"edit": ("epochs: 2", "epochs: 2\n  tensorboard: on")},
        'x.yaml:18: trainer.tensorboard: got "on", expected true or false (write TensorBoard event files, where there is no key `logger`)',
    ),
    (
        "sexagesimal",
        {"edit": ("epochs: 2", "epochs: 1:30")},
        'x.yaml:17: trainer.epochs: got "1:30", expected a positive integer or null (passes over the training data)',
    ),
    (
        "underscore",
        {"edit": ("epochs: 2", "max_steps: 1_000")},
        'x.yaml:17: trainer.max_steps: got "1_000", expected a positive integer or null (optimizer steps, instead of epochs)',
    ),
    (
        "negative seed",
        {"edit": ("name: demo\n", "name: demo\nseed: -1\n")},
        "x.yaml:2: seed: got -1, expected a non-negative integer (determines all randomness of the run)",
    ),
    (
        "gpus",
        {"edit": ("name: demo\n", "name: demo\nn_gpu: all\n")},
        'x.yaml:2: n_gpu: got "all", expected a non-negative integer or auto (GPUs to use; 0: the CPU, auto: all)',
    ),
    (
        "precision",
        {"edit": ("epochs: 2", "epochs: 2\n  precision: fp8")},
        'x.yaml:18: trainer.precision: got "fp8", expected fp32, bf16 or fp16 (number format of the forward pass)',
    ),
    (
        "verbosity",
        {"edit": ("epochs: 2", "epochs: 2\n  verbosity: 3")},
        "x.yaml:18: trainer.verbosity: got 3, expected 0, 1 or 2 (console output: 0 warnings, 1 epochs, 2 everything)",
    ),
    (
        "clipping at nothing",
        {"edit": ("epochs: 2", "epochs: 2\n  clip_grad_norm: 0")},
        "x.yaml:18: trainer.clip_grad_norm: got 0, expected a positive number or null (maximum global gradient norm)",
    ),
    (
        "clipping at nan",
        {"edit": ("epochs: 2", "epochs: 2\n  clip_grad_norm: .nan")},
        "x.yaml:18: trainer.clip_grad_norm: got NaN, expected a positive number or null (maximum global gradient norm)",
    ),
    (
        "name leaves the folder",
        {"edit": ("name: demo", "name: ../demo")},
        'x.yaml:1: name: got "../demo", expected a folder name without / and \\, of at most 255 bytes',
    ),
    (
        "name is two dots",
        {"edit": ("name: demo", "name: ..")},
        'x.yaml:1: name: got "..", expected a folder name without / and \\, of at most 255 bytes',
    ),
    (
        "name with a slash",
        {"edit": ("name: demo", "name: a/b")},
        'x.yaml:1: name: got "a/b", expected a folder name without / and \\, of at most 255 bytes',
    ),
    (
        "name empty",
        {"edit": ("name: demo", "name: ''")},
        'x.yaml:1: name: got "", expected a folder name without / and \\, of at most 255 bytes',
    ),
    (
        "name a number",
        {"edit": ("name: demo", "name: 2024")},
        "x.yaml:1: name: got 2024, expected a string (the run's folder in save_dir)",
    ),
    (
        "metrics no list",
        {"edit": ("metrics: [accuracy]", "metrics: accuracy")},
        'x.yaml:15: metrics: got "accuracy", expected a list, each entry NAME or {type: NAME, args: {...}} (from model/ or torchmetrics)',
    ),
    (
        "metric a number",
        {"edit": ("metrics: [accuracy]", "metrics: [accuracy, 5]")},
        "x.yaml:15: metrics.1: got 5, expected NAME or {type: NAME, args: {...}}",
    ),
    (
        "metric twice",
        {"edit": ("metrics: [accuracy]", "metrics: [accuracy, top_k, accuracy]")},
        "x.yaml:15: metrics: duplicate metric accuracy; give one of the two another, name: NAME",
    ),
    (
        "metric called as something else in the log",
        {"edit": ("metrics: [accuracy]", "metrics: [{type: top_k, name: loss}]")},
        "x.yaml:15: metrics.0: a metric cannot be called loss, as the log has that; give it another, name: NAME",
    ),
    *(
        (
            f"metric {name}",
            {"edit": ("metrics: [accuracy]", f"metrics: [accuracy, {name}]")},
            f"x.yaml:15: metrics.1: a metric cannot be called {name}, as the log has that; give it another, name: NAME",
        )
        for name in ("lr", "step", "epoch", "split", "weight", "val_loss")
    ),
    (
        "metric called like another",
        {"edit": ("metrics: [accuracy]", "metrics: [accuracy, {type: top_k, name: accuracy}]")},
        "x.yaml:15: metrics: duplicate metric accuracy; give one of the two another, name: NAME",
    ),
    (
        "metric of two words",
        {"edit": ("metrics: [accuracy]", "metrics: [{type: top_k, name: top 1}]")},
        'x.yaml:15: metrics.0.name: got "top 1", expected a string or null (what the log and `monitor` call it; null: its type)',
    ),
    (
        "metric called like a loss of the trainer",
        {
            "edit": ("metrics: [accuracy]", "metrics: [{type: top_k, name: d_loss}]"),
            "set": ["trainer={type: GANTrainer, epochs: 1}"],
        },
        "x.yaml:15: metrics: GANTrainer logs a d_loss itself; give the metric another, name: NAME",
    ),
    (
        "misspelled name of a metric",
        {"edit": ("metrics: [accuracy]", "metrics: [{type: top_k, nam: top}]")},
        "x.yaml:15: metrics.0.nam: unknown key 'nam' (did you mean 'name'?)\naccepted keys of metrics.0: type, args, name",
    ),
    (
        "monitor a metric by its type",
        {
            "edit": ("metrics: [accuracy]", "metrics: [{type: top_k, name: top1}]"),
            "set": ["trainer.monitor=max val_top_k"],
        },
        "command line: trainer.monitor=max val_top_k: the run never produces 'val_top_k' (did you mean 'val_top1'?); it will produce val_loss, val_top1, loss, top1",
    ),
    (
        "name of 300 letters",
        {"edit": ("name: demo", f"name: {'a' * 300}")},
        f'x.yaml:1: name: got "{"a" * 56}..., expected a folder name without / and \\, of at most 255 bytes',
    ),
    (
        "one schedule for several optimizers",
        {
            "edit": (
                "  type: Lion\n  args: {lr: 1e-3}\n",
                "  a: {type: Lion, args: {lr: 1}}\n  b: {type: Lion, args: {lr: 1}}\nlr_scheduler: Warmup\n",
            )
        },
        "x.yaml:14: lr_scheduler: got one schedule for several optimizers; give each its own, such as {a: Warmup, b: Warmup}, or null",
    ),
    (
        "misspelled type of the optimizer, alone",
        {"edit": ("  type: Lion\n  args: {lr: 1e-3}\n", "  typ: Lion\n")},
        "x.yaml:12: optimizer.typ: unknown key 'typ' (did you mean 'type'?)\naccepted keys of optimizer: type, args, groups, no_decay, layer_decay",
    ),
    (
        "unknown variable in save_dir",
        {"edit": ("epochs: 2", "epochs: 2\n  save_dir: $NOT_SET_ANYWHERE/runs")},
        "x.yaml:18: trainer.save_dir: the environment variable NOT_SET_ANYWHERE is not set",
    ),
    (
        "part a list",
        {"edit": ("loss: nll", "loss: [nll]")},
        'x.yaml:14: loss: got ["nll"], expected NAME or {type: NAME, args: {...}} (from model/ or torch.nn)',
    ),
    (
        "args a list",
        {"edit": ("args: {width: 8}", "args: [8]")},
        "x.yaml:4: arch.args: got [8], expected a mapping (its arguments by name)",
    ),
    (
        "interval",
        {"edit": ("loss: nll", "lr_scheduler: {type: Warmup, interval: steps}\nloss: nll")},
        'x.yaml:14: lr_scheduler.interval: got "steps", expected step or epoch or null (when it advances; null: what its type expects)',
    ),
    (
        "several schedules, one optimizer",
        {"edit": ("loss: nll", "lr_scheduler: {a: {type: Warmup}}\nloss: nll")},
        "x.yaml:14: lr_scheduler: got several schedules for one optimizer, expected one",
    ),
    (
        "schedule of no optimizer",
        {
            "edit": (
                "  type: Lion\n  args: {lr: 1e-3}\n",
                "  a: {type: Lion, args: {lr: 1}}\nlr_scheduler:\n  b: {type: Warmup}\n",
            )
        },
        "x.yaml:13: lr_scheduler: no optimizer b; the optimizers are a",
    ),
    (
        "monitor a word",
        {"edit": ("monitor: min val_loss", "monitor: val_loss")},
        'x.yaml:18: trainer.monitor: got "val_loss", expected min NAME, max NAME or off, for example min val_loss',
    ),
    (
        "monitor minimal",
        {"edit": ("monitor: min val_loss", "monitor: minimum val_loss")},
        'x.yaml:18: trainer.monitor: got "minimum val_loss", expected min NAME, max NAME or off, for example min val_loss',
    ),
    (
        "monitor false",
        {"edit": ("monitor: min val_loss", "monitor: false")},
        "x.yaml:18: trainer.monitor: got false, expected a string (how to choose the best model: min NAME, max NAME or off)",
    ),
    (
        "early_stop alone",
        {"edit": ("  monitor: min val_loss", "  early_stop: 3")},
        "x.yaml:18: trainer.early_stop: early stopping needs a monitor, for example monitor: min val_loss",
    ),
    (
        "early_stop negative",
        {"edit": ("epochs: 2", "epochs: 2\n  early_stop: -1")},
        "x.yaml:18: trainer.early_stop: got -1, expected a non-negative integer or null (stop after this many validations without a better `monitor`; 0 or null: off)",
    ),
    (
        "compile another word",
        {"edit": ("epochs: 2", "epochs: 2\n  compile: max")},
        'x.yaml:18: trainer.compile: got "max", expected true or false (compile the model with torch.compile)',
    ),
    (
        "custom no mapping",
        {"edit": ("name: demo\n", "name: demo\ncustom: [a]\n")},
        'x.yaml:2: custom: got ["a"], expected a mapping (keys of your own, in code config.custom)',
    ),
    (
        "accepted keys once",
        {"edit": ("name: demo\n", "name: demo\nfoo: 1\nbar: 2\n")},
        "x.yaml:2: foo: unknown key 'foo'; keys of your own go under custom:\n"
        "x.yaml:3: bar: unknown key 'bar'; keys of your own go under custom:\n"
        "accepted keys: <KEYS>",
    ),
    # the command line
    (
        "KEY=VALUE unknown",
        {"set": ["optimzer.args.lr=1"]},
        "command line: optimzer.args.lr=1: unknown key 'optimzer' (did you mean 'optimizer'?); keys of your own go under custom:\n"
        "accepted keys: <KEYS>",
    ),
    (
        "KEY=VALUE unknown in trainer",
        {"set": ["trainer.epohs=1"]},
        "command line: trainer.epohs=1: unknown key 'epohs' (did you mean 'epochs'?)\n"
        "accepted keys of trainer: <TRAINER KEYS>",
    ),
    (
        "KEY=VALUE wrong",
        {"set": ["trainer.epochs=many"]},
        'command line: trainer.epochs=many: got "many", expected a positive integer or null (passes over the training data)',
    ),
    (
        "KEY=VALUE no value",
        {"set": ["trainer.epochs="]},
        "x.yaml:16: trainer: 'epochs' or 'max_steps' is missing; give one, for example epochs: 10",
    ),
    (
        "KEY=VALUE no YAML",
        {"set": ["metrics=[accuracy"]},
        "command line: metrics=[accuracy: this is not valid YAML (expected ',' or ']', but got '<stream end>'); close all brackets, or put the value in quotes",
    ),
    (
        "KEY=VALUE empty key",
        {"set": ["trainer..epochs=1"]},
        "command line: trainer..epochs=1: not KEY=VALUE, for example trainer.epochs=3",
    ),
    (
        "KEY alone",
        {"set": ["trainer.epochs"]},
        "command line: trainer.epochs: not KEY=VALUE, for example trainer.epochs=3",
    ),
    (
        "KEY=VALUE under a value",
        {"set": ["seed.x=3"]},
        'command line: seed.x=3: got {"x": 3}, expected a non-negative integer (determines all randomness of the run)',
    ),
    (
        "KEY=VALUE list index",
        {"set": ["metrics.1=top_k"]},
        "command line: metrics.1=top_k: no entry '1'; 'metrics' is a list with entries 0 to 0",
    ),
    (
        "KEY=VALUE list word",
        {"set": ["metrics.first=top_k"]},
        "command line: metrics.first=top_k: no entry 'first'; 'metrics' is a list with entries 0 to 0",
    ),
    (
        "KEY=VALUE of a mapping",
        {"set": ["trainer={epochs: 3, valid_setps: 5}"]},
        "command line: trainer={epochs: 3, valid_setps: 5}: trainer.valid_setps: unknown key 'valid_setps' (did you mean 'valid_steps'?)\n"
        "accepted keys of trainer: <TRAINER KEYS>",
    ),
    (
        "KEY=VALUE duplicate",
        {"set": ["trainer={epochs: 3, epochs: 5}"]},
        "command line: trainer={epochs: 3, epochs: 5}: trainer.epochs: duplicate key, first given on line 1; keep one of the two",
    ),
    # names
    (
        "argument beside args, that looks like a key",
        {"edit": ("  args: {lr: 1e-3}\n", "  args: {lr: 1e-3}\n  weight_decay: 0.1\n")},
        "x.yaml:14: optimizer.weight_decay: unknown key 'weight_decay'; arguments go under args:\naccepted keys of optimizer: type, args, groups, no_decay, layer_decay",
    ),
    (
        "None",
        {"set": ["lr_scheduler=None"]},
        "command line: lr_scheduler=None: unknown name 'None'; no value is null in a config; trainer/ has Warmup; torch.optim.lr_scheduler ...",
    ),
    (
        "a call",
        {"set": ["arch=Net(width=3)"]},
        "command line: arch=Net(width=3): unknown name 'Net(width=3)' (did you mean 'Net'?); model/ has Net, WideNet; torchvision.models ...",
    ),
    (
        "unknown model",
        {"set": ["arch.type=Nte"]},
        "command line: arch.type=Nte: unknown name 'Nte' (did you mean 'Net'?); model/ has Net, WideNet; torchvision.models ...",
    ),
    (
        "unknown optimizer",
        {"edit": ("type: Lion", "type: Loin")},
        "x.yaml:12: optimizer.type: unknown name 'Loin' (did you mean 'Lion'?); trainer/ has Lion; torch.optim ...",
    ),
    (
        "unknown loader",
        {"edit": ("type: Letters", "type: Leters")},
        "x.yaml:6: data_loader.type: unknown name 'Leters' (did you mean 'Letters'?); data_loader/ has Letters",
    ),
    (
        "unknown metric",
        {"edit": ("metrics: [accuracy]", "metrics:\n  - accuracy\n  - acuracy")},
        "x.yaml:17: metrics.1: unknown name 'acuracy' (did you mean 'accuracy'?); model/ has accuracy, top_k; torchmetrics ...",
    ),
    (
        "unknown callback",
        {"edit": ("loss: nll", "callbacks: [EAM]\nloss: nll")},
        "x.yaml:14: callbacks.0: unknown name 'EAM' (did you mean 'EMA'?); trainer/callbacks/ and trainer/ have EMA",
    ),
    (
        "unknown trainer",
        {"edit": ("epochs: 2", "epochs: 2\n  type: GanTrainer")},
        "x.yaml:18: trainer.type: unknown name 'GanTrainer' (did you mean 'GANTrainer'?); trainer/ has Trainer, GANTrainer",
    ),
    (
        "base class as trainer",
        {"edit": ("epochs: 2", "epochs: 2\n  type: BaseTrainer")},
        "x.yaml:18: trainer.type: unknown name 'BaseTrainer' (did you mean 'Trainer'?); trainer/__init__.py imports it, but it is not recognizably a class derived from BaseTrainer; define it there; trainer/ has Trainer, GANTrainer",
    ),
    (
        "dots in a loader's name",
        {"edit": ("type: Letters", "type: os.system")},
        "x.yaml:6: data_loader.type: unknown name 'os.system'; to use one of another library, import it in data_loader/data_loaders.py and give its name without dots; data_loader/ has Letters",
    ),
    (
        "an import of the module",
        {"edit": ("type: Letters", "type: BaseDataLoader")},
        "x.yaml:6: data_loader.type: unknown name 'BaseDataLoader'; data_loader/data_loaders.py imports it, but it is not recognizably a class derived from BaseDataLoader or torch.utils.data.Dataset, or a function that builds one; define it there; data_loader/ has Letters",
    ),
    # arguments
    (
        "unknown argument",
        {"edit": ("args: {width: 8}", "args: {width: 8, clases: 5}")},
        "x.yaml:4: arch.args.clases: unknown argument 'clases' (did you mean 'classes'?); Net accepts width, classes, widths",
    ),
    (
        "misspelled required argument",
        {"edit": ("args: {width: 8}", "args: {widht: 8}")},
        "x.yaml:4: arch.args.widht: unknown argument 'widht' (did you mean 'width'?); Net accepts width, classes, widths",
    ),
    (
        "missing argument",
        {"edit": ("args: {width: 8}", "args: {}")},
        "x.yaml:4: arch.args: argument 'width' is missing; Net accepts width, classes, widths",
    ),
    (
        "missing argument, no args",
        {"edit": ("  args: {width: 8}\n", "")},
        "x.yaml:2: arch: argument 'width' is missing; Net accepts width, classes, widths",
    ),
    (
        "missing argument of the base class",
        {"edit": ("    batch_size: 4\n", "")},
        "x.yaml:7: data_loader.args: argument 'batch_size' is missing; Letters accepts data_dir, training, batch_size, shuffle, validation_split",
    ),
    (
        "argument of the base class misspelled",
        {"edit": ("batch_size", "batchsize")},
        "x.yaml:9: data_loader.args.batchsize: unknown argument 'batchsize' (did you mean 'batch_size'?); Letters accepts data_dir, training, batch_size, shuffle, validation_split",
    ),
    (
        "argument that the subclass gives",
        {"edit": ("  type: Net\n  args: {width: 8}", "  type: WideNet\n  args: {width: 8}")},
        "x.yaml:4: arch.args.width: unknown argument 'width' (did you mean 'widths'?); WideNet accepts factor, act, classes, widths",
    ),
    (
        "argument a word",
        {"edit": ("lr: 1e-3", "lr: fast")},
        'x.yaml:13: optimizer.args.lr: got "fast", expected a number',
    ),
    (
        "argument a text",
        {"edit": ("lr: 1e-3", "lr: '1e-3'")},
        'x.yaml:13: optimizer.args.lr: got "1e-3", expected a number',
    ),
    (
        "argument a fraction",
        {"edit": ("batch_size: 4", "batch_size: 4.5")},
        "x.yaml:9: data_loader.args.batch_size: got 4.5, expected an integer",
    ),
    (
        "argument a list",
        {"edit": ("lr: 1e-3", "lr: 1, betas: [0.9]")},
        "x.yaml:13: optimizer.args.betas: got [0.9], expected a list of 2 values",
    ),
    (
        "argument a list of words",
        {"edit": ("width: 8", "width: 8, widths: [a]")},
        'x.yaml:4: arch.args.widths: got ["a"], expected a list, each entry an integer',
    ),
    (
        "argument null",
        {"edit": ("batch_size: 4", "batch_size: null")},
        "x.yaml:9: data_loader.args.batch_size: got null, expected an integer",
    ),
    (
        "argument yes",
        {"edit": ("batch_size: 4", "batch_size: 4\n    shuffle: yes")},
        'x.yaml:10: data_loader.args.shuffle: got "yes", expected true or false',
    ),
    (
        "argument that no config can hold",
        {"edit": ("  type: Net\n  args: {width: 8}", "  type: WideNet\n  args: {act: ReLU}")},
        'x.yaml:4: arch.args.act: got "ReLU", expected {type: NAME, args: {...}} or null',
    ),
    (
        "argument that the code gives",
        {"edit": ("lr: 1e-3", "lr: 1e-3, params: []")},
        "x.yaml:13: optimizer.args.params: unknown argument 'params'; Lion accepts lr, betas",
    ),
    (
        "argument of the trainer",
        {"edit": ("epochs: 2", "epochs: 2\n  args: {latent: 3}")},
        "x.yaml:18: trainer.args.latent: unknown argument 'latent'; Trainer accepts no arguments",
    ),
    (
        "argument of a subclass",
        {"edit": ("  monitor: min val_loss", "  type: GANTrainer\n  args: {latent: x, model: 3}")},
        'x.yaml:19: trainer.args.latent: got "x", expected an integer\n'
        "x.yaml:19: trainer.args.model: unknown argument 'model'; GANTrainer accepts latent",
    ),
    (
        "argument of a metric",
        {"edit": ("metrics: [accuracy]", "metrics: [{type: top_k, args: {n: 5}}]")},
        "x.yaml:15: metrics.0.args.n: unknown argument 'n' (did you mean 'k'?); top_k accepts k",
    ),
    # what fits together
    (
        "monitor what never comes",
        {"edit": ("min val_loss", "max val_acuracy")},
        "x.yaml:18: trainer.monitor: the run never produces 'val_acuracy' (did you mean 'val_accuracy'?); it will produce val_loss, val_accuracy, loss, accuracy",
    ),
    (
        "monitor without validation",
        {"edit": ("validation_split: 0.1", "validation_split: 0")},
        "x.yaml:18: trainer.monitor: the run never produces 'val_loss' without validation (validation_split is 0); it will produce loss, accuracy",
    ),
    (
        "monitor of another trainer",
        {"edit": ("epochs: 2", "epochs: 2\n  type: GANTrainer")},
        "x.yaml:19: trainer.monitor: the run never produces 'val_loss' (did you mean 'val_g_loss'?); it will produce val_g_loss, val_d_loss, val_accuracy, g_loss, d_loss, accuracy",
    ),
    # several at once
    (
        "all at once",
        {"edit": ("name: demo\n", "sede: 1\n"), "set": ["trainer.epochs=0", "trainer.monitr=off"]},
        "x.yaml: 'name' is missing; expected a string (the run's folder in save_dir)\n"
        "command line: trainer.epochs=0: got 0, expected a positive integer or null (passes over the training data)\n"
        "command line: trainer.monitr=off: unknown key 'monitr' (did you mean 'monitor'?)\n"
        "x.yaml:1: sede: unknown key 'sede' (did you mean 'seed'?); keys of your own go under custom:\n"
        "accepted keys of trainer: <TRAINER KEYS>\n"
        "accepted keys: <KEYS>",
    ),
    (
        "all parts at once",
        {"edit": ("width: 8", "wdth: 8"), "set": ["optimizer.args.lr=x", "loss=nl"]},
        "command line: loss=nl: unknown name 'nl' (did you mean 'nll'?); model/ has nll; torch.nn ...\n"
        "x.yaml:4: arch.args.wdth: unknown argument 'wdth' (did you mean 'width'?); Net accepts width, classes, widths\n"
        'command line: optimizer.args.lr=x: got "x", expected a number',
    ),
]


@pytest.mark.parametrize("change, said", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_message(house: Path, change: dict, said: str) -> None:  # noqa: F811
    for name, text in change.items():
        if "." in name:
            (house / name).parent.mkdir(exist_ok=True)
            (house / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    if "edit" in change:
        assert change["edit"][0] in GOOD
        (house / "x.yaml").write_text(GOOD.replace(*change["edit"]))
    before = sorted(house.iterdir())
    with pytest.raises(ConfigError) as error:
        load(change.get("files", ["x.yaml"]), change.get("set", [])).check()
    reported = str(error.value)
    reported = reported.replace(", ".join([*RunConfig.model_fields, "base"]), "<KEYS>")
    reported = reported.replace(", ".join(TrainerConfig.model_fields), "<TRAINER KEYS>")
    assert (
        re.sub(r"has \d+ more|is not installed", "...", reported) == said
    )  # how many depends on the versions installed
    assert sorted(house.iterdir()) == before


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 40
    assert len({name for name, *_ in CASES}) == len(CASES)


def test_good(house: Path) -> None:  # noqa: F811
    """The config that the cases change is valid itself."""
    load(["x.yaml"]).check()


SCRIPT = """
import sys
from utils import cli, config
arguments = cli.parse("", {})
try:
    config.load(arguments.config_files, arguments.overrides)
except config.ConfigError:
    heavy = {"torch", "numpy", "torchvision"} & set(sys.modules)
    sys.exit(f"imported {heavy}" if heavy else 2)
"""


def test_the_fixed_part_needs_no_torch(tmp_path: Path) -> None:
    """An error in the fixed part is reported before torch is imported, which takes seconds."""
    command = [sys.executable, "-c", SCRIPT, "-c", str(ROOT / "config/digits.yaml"), "trainer.epochs=0"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True)
    assert done.returncode == 2, done.stderr


@pytest.mark.parametrize(
    "words, said",
    [
        (["-c", "nothing.yaml"], "nothing.yaml: no such file"),
        (["-c", "{config}", "trainer.epohs=3"], "trainer.epohs=3: unknown key 'epohs' (did you mean 'epochs'?)"),
        pytest.param(
            ["-c", "{config}", "--lr", "fast"],
            'optimizer.args.lr=fast: got "fast", expected a number',
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["-c", "{config}", "arch.type=MnistModl"],
            "unknown name 'MnistModl' (did you mean 'MnistModel'?)",
            marks=pytest.mark.slow,
        ),
        (["-c", "{config}", "trainer.monitor=min val_accurcy"], "did you mean 'val_accuracy'?"),
        pytest.param(
            ["-c", "{config}", "name=../elsewhere"],
            'name=../elsewhere: got "../elsewhere", expected a folder name',
            marks=pytest.mark.slow,
        ),
        (
            ["-c", "{config}", "trainer.epochs"],
            "trainer.epochs: no such file; to set a key of the config, write KEY=VALUE without spaces",
        ),
        pytest.param(["{config}"], "to use a config file, write -c FILE", marks=pytest.mark.slow),
        ([], "no config given"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_train_py(words: list[str], said: str, run, tmp_path: Path) -> None:
    """Exit code 2, one message without a traceback, and no files."""
    done = run("train.py", *(word.format(config=ROOT / "config/digits.yaml") for word in words))
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
    assert list(tmp_path.iterdir()) == []
