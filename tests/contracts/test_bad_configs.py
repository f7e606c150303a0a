# ruff: noqa: E501  (messages stand here as people see them)
"""What people are told about a bad config, word for word; and that nothing was done before."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import GOOD, house  # noqa: F401
from utils.config import ConfigError, load
from utils.schema import RunConfig, TrainerConfig

ROOT = Path(__file__).resolve().parents[2]

# (what is wrong, how x.yaml of tests/house.py is changed, what is said)
#   "edit": (old text, new text) in it; "FILE": a file's whole text; "files": what -c is given; "set": KEY=VALUEs
CASES: list[tuple[str, dict, str]] = [
    # the file
    (
        "no such file",
        {"files": ["y.yaml"]},
        "y.yaml: no such file; did you mean `x.yaml`? configs there: x.yaml",
    ),
    (
        "near file name",
        {"files": ["xx.yaml"]},
        "xx.yaml: no such file; did you mean `x.yaml`? configs there: x.yaml",
    ),
    (
        "a folder",
        {"files": ["."]},
        ".: cannot be read (Is a directory); a .yaml or .json file is accepted",
    ),
    (
        "empty file",
        {"x.yaml": ""},
        "x.yaml: the file is empty; a config is a mapping of keys: name, arch, data_loader, ...",
    ),
    (
        "only comments",
        {"x.yaml": "# nothing\n"},
        "x.yaml: the file is empty; a config is a mapping of keys: name, arch, data_loader, ...",
    ),
    (
        "a list",
        {"x.yaml": "- name: demo\n"},
        'x.yaml: [{"name": "demo"}] was given; a config is a mapping of keys: name, arch, data_loader, ...',
    ),
    (
        "binary",
        {"x.yaml": b"PK\x03\x04\xff\xfe"},
        "x.yaml: not a UTF-8 text; a checkpoint is continued with `-r`",
    ),
    (
        "null byte",
        {"x.yaml": "name: a\0b\n"},
        "x.yaml:1: this is not YAML (unacceptable character #x0000: special characters are not allowed)",
    ),
    (
        "too large",
        {"x.yaml": "#" * 1_000_001},
        "x.yaml: over 1 MB; this is not a config",
    ),
    (
        "tab",
        {"x.yaml": "name: demo\ntrainer:\n\tepochs: 3\n"},
        "x.yaml:3: a tab in the indentation; YAML accepts spaces only",
    ),
    (
        "bad indentation",
        {"x.yaml": "name: demo\n  arch: Net\n"},
        "x.yaml:2: this is not YAML (mapping values are not allowed here); look at indentation, colons, brackets and quotes here and just above",
    ),
    (
        "open bracket",
        {"x.yaml": "name: [demo\narch: Net\n"},
        "x.yaml:2: this is not YAML (expected ',' or ']', but got ':'); look at indentation, colons, brackets and quotes here and just above",
    ),
    (
        "two documents",
        {"x.yaml": "name: a\n---\nname: b\n"},
        "x.yaml:2: this is not YAML (but found another document); look at indentation, colons, brackets and quotes here and just above",
    ),
    (
        "duplicate key",
        {"x.yaml": "name: a\nseed: 1\nname: b\n"},
        "x.yaml:3: name: duplicate key, given before on line 1; keep one of the two",
    ),
    (
        "duplicate key, deep",
        {"edit": ("  epochs: 2\n", "  epochs: 2\n  epochs: 3\n")},
        "x.yaml:18: trainer.epochs: duplicate key, given before on line 17; keep one of the two",
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
        'x.yaml:1: seed: "two" cannot be read as a number',
    ),
    (
        "merge key",
        {"x.yaml": "a: &a {lr: 1}\noptimizer:\n  <<: *a\n"},
        "x.yaml:3: optimizer.<<: merge keys are not supported; share keys between files with `base: FILE`",
    ),
    (
        "key no word",
        {"x.yaml": "1: a\ntrue: b\n"},
        "x.yaml:1: 1: a key has to be a word; put it in quotes if it is meant as one\n"
        "x.yaml:2: true: a key has to be a word; put it in quotes if it is meant as one",
    ),
    (
        "alias bomb",
        {
            "x.yaml": "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{c}: &{c} [{','.join(['*' + p] * 10)}]\n" for p, c in zip("abcdef", "bcdefg", strict=True))
        },
        "x.yaml:1: more than 100,000 values once each *alias is written out",
    ),
    (
        "alias of itself",
        {"x.yaml": "a: &a [*a]\n"},
        "x.yaml:1: nested too deeply, or within itself",
    ),
    (
        "unknown alias",
        {"x.yaml": "a: *b\n"},
        "x.yaml:1: this is not YAML (found undefined alias 'b'); look at indentation, colons, brackets and quotes here and just above",
    ),
    (
        "deep",
        {"x.yaml": "a: " + "[" * 5000},
        "x.yaml:1: nested too deeply, or within itself",
    ),
    (
        "json trailing comma",
        {"x.json": '{\n  "name": "a",\n  "seed": 1,\n}\n', "files": ["x.json"]},
        "x.json:3: a comma before `}`, which JSON forbids; delete the comma",
    ),
    (
        "json trailing comma in list",
        {"x.json": '{"metrics": ["a",\n]}\n', "files": ["x.json"]},
        "x.json:1: a comma before `]`, which JSON forbids; delete the comma",
    ),
    (
        "json comment",
        {"x.json": '{\n  // hello\n  "name": "a"}\n', "files": ["x.json"]},
        "x.json:2: this is not JSON (Expecting property name enclosed in double quotes, column 3)",
    ),
    (
        "json single quotes",
        {"x.json": "{'name': 'a'}", "files": ["x.json"]},
        "x.json:1: this is not JSON (Expecting property name enclosed in double quotes, column 2)",
    ),
    (
        "json duplicate",
        {"x.json": '{"name": "a",\n "name": "b"}', "files": ["x.json"]},
        "x.json:2: name: duplicate key, given before on line 1; keep one of the two",
    ),
    (
        "json empty",
        {"x.json": "", "files": ["x.json"]},
        "x.json: the file is empty; a config is a mapping of keys: name, arch, data_loader, ...",
    ),
    (
        "base missing",
        {"edit": ("name: demo\n", "name: demo\nbase: y.yaml\n")},
        "x.yaml:2: base: y.yaml: no such file; did you mean `x.yaml`? configs there: x.yaml",
    ),
    (
        "base circle",
        {"edit": ("name: demo\n", "base: y.yaml\nname: demo\n"), "y.yaml": "base: [x.yaml]\n"},
        "y.yaml:1: base: a circle of files, x.yaml -> y.yaml -> x.yaml; remove one `base:`",
    ),
    (
        "base no file",
        {"edit": ("name: demo\n", "name: demo\nbase: 3\n")},
        "x.yaml:2: base: 3 was given; a file or a list of files is accepted",
    ),
    (
        "error in a base",
        {"edit": ("name: demo\n", "base: y.yaml\nname: demo\n"), "y.yaml": "seed: x\n"},
        'y.yaml:1: seed: "x" was given; a whole number of at least 0 is accepted (all randomness is a function of it)',
    ),
    (
        "error in the later file",
        {"files": ["x.yaml", "y.yaml"], "y.yaml": "trainer:\n  epohs: 5\n"},
        "y.yaml:2: trainer.epohs: unknown key; did you mean `epochs`? accepted: <TRAINER KEYS>",
    ),
    # keys
    (
        "unknown key",
        {"edit": ("name: demo\n", "name: demo\nsede: 3\n")},
        "x.yaml:2: sede: unknown key; did you mean `seed`? accepted: <KEYS>",
    ),
    (
        "unknown key, no idea",
        {"edit": ("name: demo\n", "name: demo\nvisualize: 3\n")},
        "x.yaml:2: visualize: unknown key; accepted: <KEYS>",
    ),
    (
        "unknown key in trainer",
        {"edit": ("  epochs: 2\n", "  epochs: 2\n  save_perod: 3\n")},
        "x.yaml:18: trainer.save_perod: unknown key; did you mean `save_period`? accepted: <TRAINER KEYS>",
    ),
    (
        "unknown key in a part",
        {"edit": ("  type: Net\n  args", "  type: Net\n  agrs")},
        "x.yaml:4: arch.agrs: unknown key; did you mean `args`? accepted: type, args",
    ),
    (
        "misspelled required key",
        {"edit": ("name: demo\n", "nmae: demo\n")},
        "x.yaml:1: nmae: unknown key; did you mean `name`? accepted: <KEYS>",
    ),
    (
        "misspelled type",
        {"edit": ("  type: Net\n", "  tpye: Net\n")},
        "x.yaml:3: arch.tpye: unknown key; did you mean `type`? accepted: type, args",
    ),
    (
        "misspelled type of the optimizer",
        {"edit": ("  type: Lion\n", "  typ: Lion\n")},
        "x.yaml:12: optimizer.typ: unknown key; did you mean `type`? accepted: type, args",
    ),
    (
        "misspelled base",
        {"edit": ("name: demo\n", "bas: y.yaml\nname: demo\n")},
        "x.yaml:1: bas: unknown key; did you mean `base`? accepted: <KEYS>",
    ),
    (
        "dotted key in a file",
        {"edit": ("name: demo\n", "name: demo\ntrainer.epochs: 3\n")},
        "x.yaml:2: trainer.epochs: unknown key; did you mean `trainer`? accepted: <KEYS>",
    ),
    (
        "missing section",
        {"edit": ("loss: nll\n", "")},
        "x.yaml: `loss` is missing; NAME or {type: NAME, args: {...}} is accepted (from model/loss.py or torch.nn)",
    ),
    (
        "missing type",
        {"edit": ("  type: Net\n", "")},
        "x.yaml:2: arch: `type` is missing; a text is accepted (name of a class or function of the project, or of the section's library)",
    ),
    (
        "missing in one of several optimizers",
        {"edit": ("  type: Lion\n  args: {lr: 1e-3}\n", "  a: {type: Lion, args: {lr: 1}}\n  b: {args: {lr: 1}}\n")},
        "x.yaml:13: optimizer.b: `type` is missing; a text is accepted (name of a class or function of the project, or of the section's library)",
    ),
    (
        "no end",
        {"edit": ("  epochs: 2\n", "")},
        "x.yaml:16: trainer: neither `epochs` nor `max_steps` was given; give one, for example epochs: 10",
    ),
    # values
    (
        "word for a number",
        {"edit": ("epochs: 2", "epochs: ten")},
        'x.yaml:17: trainer.epochs: "ten" was given; a whole number of at least 1 or null is accepted (passes over the training data)',
    ),
    (
        "text for a number",
        {"edit": ("epochs: 2", 'epochs: "2"')},
        'x.yaml:17: trainer.epochs: "2" was given; a whole number of at least 1 or null is accepted (passes over the training data)',
    ),
    (
        "zero epochs",
        {"edit": ("epochs: 2", "epochs: 0")},
        "x.yaml:17: trainer.epochs: 0 was given; a whole number of at least 1 or null is accepted (passes over the training data)",
    ),
    (
        "fraction",
        {"edit": ("epochs: 2", "epochs: 2.5")},
        "x.yaml:17: trainer.epochs: 2.5 was given; a whole number of at least 1 or null is accepted (passes over the training data)",
    ),
    (
        "true for a number",
        {"edit": ("epochs: 2", "epochs: true")},
        "x.yaml:17: trainer.epochs: true was given; a whole number of at least 1 or null is accepted (passes over the training data)",
    ),
    (
        "on for true",
        {"edit": ("epochs: 2", "epochs: 2\n  tensorboard: on")},
        'x.yaml:18: trainer.tensorboard: "on" was given; true or false is accepted (write TensorBoard event files)',
    ),
    (
        "sexagesimal",
        {"edit": ("epochs: 2", "epochs: 1:30")},
        'x.yaml:17: trainer.epochs: "1:30" was given; a whole number of at least 1 or null is accepted (passes over the training data)',
    ),
    (
        "underscore",
        {"edit": ("epochs: 2", "max_steps: 1_000")},
        'x.yaml:17: trainer.max_steps: "1_000" was given; a whole number of at least 1 or null is accepted (optimizer steps, in place of epochs)',
    ),
    (
        "negative seed",
        {"edit": ("name: demo\n", "name: demo\nseed: -1\n")},
        "x.yaml:2: seed: -1 was given; a whole number of at least 0 is accepted (all randomness is a function of it)",
    ),
    (
        "gpus",
        {"edit": ("name: demo\n", "name: demo\nn_gpu: all\n")},
        'x.yaml:2: n_gpu: "all" was given; a whole number of at least 0 or auto is accepted (GPUs to use; 0: the CPU, auto: all)',
    ),
    (
        "precision",
        {"edit": ("epochs: 2", "epochs: 2\n  precision: fp8")},
        'x.yaml:18: trainer.precision: "fp8" was given; fp32, bf16 or fp16 is accepted (number format of the forward pass)',
    ),
    (
        "verbosity",
        {"edit": ("epochs: 2", "epochs: 2\n  verbosity: 3")},
        "x.yaml:18: trainer.verbosity: 3 was given; 0, 1 or 2 is accepted (console: 0 warnings, 1 epochs, 2 everything)",
    ),
    (
        "clipping at nothing",
        {"edit": ("epochs: 2", "epochs: 2\n  clip_grad_norm: 0")},
        "x.yaml:18: trainer.clip_grad_norm: 0 was given; a number above 0 or null is accepted (largest norm of all gradients together)",
    ),
    (
        "clipping at nan",
        {"edit": ("epochs: 2", "epochs: 2\n  clip_grad_norm: .nan")},
        "x.yaml:18: trainer.clip_grad_norm: NaN was given; a number above 0 or null is accepted (largest norm of all gradients together)",
    ),
    (
        "name leaves the folder",
        {"edit": ("name: demo", "name: ../demo")},
        'x.yaml:1: name: "../demo" was given; the name of a folder is accepted, without / and \\',
    ),
    (
        "name is two dots",
        {"edit": ("name: demo", "name: ..")},
        'x.yaml:1: name: ".." was given; the name of a folder is accepted, without / and \\',
    ),
    (
        "name with a slash",
        {"edit": ("name: demo", "name: a/b")},
        'x.yaml:1: name: "a/b" was given; the name of a folder is accepted, without / and \\',
    ),
    (
        "name empty",
        {"edit": ("name: demo", "name: ''")},
        'x.yaml:1: name: "" was given; the name of a folder is accepted, without / and \\',
    ),
    (
        "name a number",
        {"edit": ("name: demo", "name: 2024")},
        "x.yaml:1: name: 2024 was given; a text is accepted (the run's folder in save_dir)",
    ),
    (
        "metrics no list",
        {"edit": ("metrics: [accuracy]", "metrics: accuracy")},
        'x.yaml:15: metrics: "accuracy" was given; a list, each entry NAME or {type: NAME, args: {...}} is accepted (from model/metric.py or torchmetrics)',
    ),
    (
        "metric a number",
        {"edit": ("metrics: [accuracy]", "metrics: [accuracy, 5]")},
        "x.yaml:15: metrics.1: 5 was given; NAME or {type: NAME, args: {...}} is accepted",
    ),
    (
        "metric twice",
        {"edit": ("metrics: [accuracy]", "metrics: [accuracy, top_k, accuracy]")},
        "x.yaml:15: metrics: accuracy more than once; a metric is known by its name, so each may stand once",
    ),
    (
        "part a list",
        {"edit": ("loss: nll", "loss: [nll]")},
        'x.yaml:14: loss: ["nll"] was given; NAME or {type: NAME, args: {...}} is accepted (from model/loss.py or torch.nn)',
    ),
    (
        "args a list",
        {"edit": ("args: {width: 8}", "args: [8]")},
        "x.yaml:4: arch.args: [8] was given; a mapping is accepted (its arguments by name)",
    ),
    (
        "interval",
        {"edit": ("loss: nll", "lr_scheduler: {type: Warmup, interval: steps}\nloss: nll")},
        'x.yaml:14: lr_scheduler.interval: "steps" was given; step or epoch or null is accepted (when it advances; null: what its type wants)',
    ),
    (
        "several schedules, one optimizer",
        {"edit": ("loss: nll", "lr_scheduler: {a: {type: Warmup}}\nloss: nll")},
        "x.yaml:14: lr_scheduler: several schedules for one optimizer; give one part",
    ),
    (
        "schedule of no optimizer",
        {
            "edit": (
                "  type: Lion\n  args: {lr: 1e-3}\n",
                "  a: {type: Lion, args: {lr: 1}}\nlr_scheduler:\n  b: {type: Warmup}\n",
            )
        },
        "x.yaml:13: lr_scheduler: no optimizer is called b; the optimizers are a",
    ),
    (
        "monitor a word",
        {"edit": ("monitor: min val_loss", "monitor: val_loss")},
        'x.yaml:18: trainer.monitor: "val_loss" was given; `min NAME`, `max NAME` or `off` is accepted, as in min val_loss',
    ),
    (
        "monitor minimal",
        {"edit": ("monitor: min val_loss", "monitor: minimum val_loss")},
        'x.yaml:18: trainer.monitor: "minimum val_loss" was given; `min NAME`, `max NAME` or `off` is accepted, as in min val_loss',
    ),
    (
        "monitor false",
        {"edit": ("monitor: min val_loss", "monitor: false")},
        "x.yaml:18: trainer.monitor: false was given; a text is accepted (what the best model is chosen by: min NAME, max NAME or off)",
    ),
    (
        "early_stop alone",
        {"edit": ("  monitor: min val_loss", "  early_stop: 3")},
        "x.yaml:18: trainer.early_stop: without `monitor` there is nothing to stop by; give one, as in monitor: min val_loss",
    ),
    # the command line
    (
        "KEY=VALUE unknown",
        {"set": ["optimzer.args.lr=1"]},
        "command line: optimzer.args.lr=1: unknown key; did you mean `optimizer`? accepted: <KEYS>",
    ),
    (
        "KEY=VALUE unknown in trainer",
        {"set": ["trainer.epohs=1"]},
        "command line: trainer.epohs=1: unknown key; did you mean `epochs`? accepted: <TRAINER KEYS>",
    ),
    (
        "KEY=VALUE wrong",
        {"set": ["trainer.epochs=many"]},
        'command line: trainer.epochs=many: "many" was given; a whole number of at least 1 or null is accepted (passes over the training data)',
    ),
    (
        "KEY=VALUE no value",
        {"set": ["trainer.epochs="]},
        "x.yaml:16: trainer: neither `epochs` nor `max_steps` was given; give one, for example epochs: 10",
    ),
    (
        "KEY=VALUE no YAML",
        {"set": ["metrics=[accuracy"]},
        "command line: metrics=[accuracy: this is not YAML (expected ',' or ']', but got '<stream end>'); look at indentation, colons, brackets and quotes here and just above",
    ),
    (
        "KEY=VALUE empty key",
        {"set": ["trainer..epochs=1"]},
        "command line: trainer..epochs=1: not KEY=VALUE; write for example trainer.epochs=3",
    ),
    (
        "KEY alone",
        {"set": ["trainer.epochs"]},
        "command line: trainer.epochs: not KEY=VALUE; write for example trainer.epochs=3",
    ),
    (
        "KEY=VALUE under a value",
        {"set": ["seed.x=3"]},
        'command line: seed.x=3: {"x": 3} was given; a whole number of at least 0 is accepted (all randomness is a function of it)',
    ),
    (
        "KEY=VALUE list index",
        {"set": ["metrics.1=top_k"]},
        "command line: metrics.1=top_k: `metrics` is a list with entries 0 to 0; `1` is none of them",
    ),
    (
        "KEY=VALUE list word",
        {"set": ["metrics.first=top_k"]},
        "command line: metrics.first=top_k: `metrics` is a list with entries 0 to 0; `first` is none of them",
    ),
    (
        "KEY=VALUE of a mapping",
        {"set": ["trainer={epochs: 3, valid_setps: 5}"]},
        "command line: trainer={epochs: 3, valid_setps: 5}: trainer.valid_setps: unknown key; did you mean `valid_steps`? accepted: <TRAINER KEYS>",
    ),
    (
        "KEY=VALUE duplicate",
        {"set": ["trainer={epochs: 3, epochs: 5}"]},
        "command line: trainer={epochs: 3, epochs: 5}: trainer.epochs: duplicate key, given before on line 1; keep one of the two",
    ),
    # names
    (
        "unknown model",
        {"set": ["arch.type=Nte"]},
        "command line: arch.type=Nte: unknown name; did you mean `Net`? model/model.py has Net, WideNet, torchvision.models ...",
    ),
    (
        "unknown optimizer",
        {"edit": ("type: Lion", "type: Loin")},
        "x.yaml:12: optimizer.type: unknown name; did you mean `Lion`? trainer/optim.py has Lion, torch.optim ...",
    ),
    (
        "unknown loader",
        {"edit": ("type: Letters", "type: Leters")},
        "x.yaml:6: data_loader.type: unknown name; did you mean `Letters`? data_loader/data_loaders.py has Letters",
    ),
    (
        "unknown metric",
        {"edit": ("metrics: [accuracy]", "metrics:\n  - accuracy\n  - acuracy")},
        "x.yaml:17: metrics.1: unknown name; did you mean `accuracy`? model/metric.py has accuracy, top_k, torchmetrics ...",
    ),
    (
        "unknown callback",
        {"edit": ("loss: nll", "callbacks: [EAM]\nloss: nll")},
        "x.yaml:14: callbacks.0: unknown name; did you mean `EMA`? trainer/callbacks.py has EMA",
    ),
    (
        "unknown trainer",
        {"edit": ("epochs: 2", "epochs: 2\n  type: GanTrainer")},
        "x.yaml:18: trainer.type: unknown name; did you mean `GANTrainer`? trainer/ has GANTrainer, Trainer",
    ),
    (
        "base class as trainer",
        {"edit": ("epochs: 2", "epochs: 2\n  type: BaseTrainer")},
        "x.yaml:18: trainer.type: unknown name; did you mean `Trainer`? trainer/ has GANTrainer, Trainer",
    ),
    (
        "dots in a loader's name",
        {"edit": ("type: Letters", "type: os.system")},
        "x.yaml:6: data_loader.type: unknown name; data_loader/data_loaders.py has Letters; for another library's, import its name in data_loader/data_loaders.py and give it without dots",
    ),
    (
        "an import of the module",
        {"edit": ("type: Letters", "type: BaseDataLoader")},
        "x.yaml:6: data_loader.type: unknown name; data_loader/data_loaders.py has Letters",
    ),
    # arguments
    (
        "unknown argument",
        {"edit": ("args: {width: 8}", "args: {width: 8, clases: 5}")},
        "x.yaml:4: arch.args.clases: unknown argument; did you mean `classes`? Net takes width, classes, widths",
    ),
    (
        "misspelled required argument",
        {"edit": ("args: {width: 8}", "args: {widht: 8}")},
        "x.yaml:4: arch.args.widht: unknown argument; did you mean `width`? Net takes width, classes, widths",
    ),
    (
        "missing argument",
        {"edit": ("args: {width: 8}", "args: {}")},
        "x.yaml:4: arch.args: the argument `width` is missing; Net takes width, classes, widths",
    ),
    (
        "missing argument, no args",
        {"edit": ("  args: {width: 8}\n", "")},
        "x.yaml:2: arch: the argument `width` is missing; Net takes width, classes, widths",
    ),
    (
        "missing argument of the base class",
        {"edit": ("    batch_size: 4\n", "")},
        "x.yaml:7: data_loader.args: the argument `batch_size` is missing; Letters takes data_dir, training, batch_size, shuffle, validation_split",
    ),
    (
        "argument of the base class misspelled",
        {"edit": ("batch_size", "batchsize")},
        "x.yaml:9: data_loader.args.batchsize: unknown argument; did you mean `batch_size`? Letters takes data_dir, training, batch_size, shuffle, validation_split",
    ),
    (
        "argument that the subclass gives",
        {"edit": ("  type: Net\n  args: {width: 8}", "  type: WideNet\n  args: {width: 8}")},
        "x.yaml:4: arch.args.width: unknown argument; did you mean `widths`? WideNet takes factor, act, classes, widths",
    ),
    (
        "argument a word",
        {"edit": ("lr: 1e-3", "lr: fast")},
        'x.yaml:13: optimizer.args.lr: "fast" was given; a number is accepted',
    ),
    (
        "argument a text",
        {"edit": ("lr: 1e-3", "lr: '1e-3'")},
        'x.yaml:13: optimizer.args.lr: "1e-3" was given; a number is accepted',
    ),
    (
        "argument a fraction",
        {"edit": ("batch_size: 4", "batch_size: 4.5")},
        "x.yaml:9: data_loader.args.batch_size: 4.5 was given; a whole number is accepted",
    ),
    (
        "argument a list",
        {"edit": ("lr: 1e-3", "lr: 1, betas: [0.9]")},
        "x.yaml:13: optimizer.args.betas: [0.9] was given; a list of 2 values is accepted",
    ),
    (
        "argument a list of words",
        {"edit": ("width: 8", "width: 8, widths: [a]")},
        'x.yaml:4: arch.args.widths: ["a"] was given; a list, each entry a whole number is accepted',
    ),
    (
        "argument null",
        {"edit": ("batch_size: 4", "batch_size: null")},
        "x.yaml:9: data_loader.args.batch_size: null was given; a whole number is accepted",
    ),
    (
        "argument yes",
        {"edit": ("batch_size: 4", "batch_size: 4\n    shuffle: yes")},
        'x.yaml:10: data_loader.args.shuffle: "yes" was given; true or false is accepted',
    ),
    (
        "argument that no config can hold",
        {"edit": ("  type: Net\n  args: {width: 8}", "  type: WideNet\n  args: {act: ReLU}")},
        'x.yaml:4: arch.args.act: "ReLU" was given; null is accepted',
    ),
    (
        "argument that the code gives",
        {"edit": ("lr: 1e-3", "lr: 1e-3, params: []")},
        "x.yaml:13: optimizer.args.params: unknown argument; Lion takes lr, betas",
    ),
    (
        "argument of the trainer",
        {"edit": ("epochs: 2", "epochs: 2\n  args: {latent: 3}")},
        "x.yaml:18: trainer.args.latent: unknown argument; Trainer takes no arguments",
    ),
    (
        "argument of a subclass",
        {"edit": ("  monitor: min val_loss", "  type: GANTrainer\n  args: {latent: x, model: 3}")},
        'x.yaml:19: trainer.args.latent: "x" was given; a whole number is accepted\n'
        "x.yaml:19: trainer.args.model: unknown argument; GANTrainer takes latent",
    ),
    (
        "argument of a metric",
        {"edit": ("metrics: [accuracy]", "metrics: [{type: top_k, args: {n: 5}}]")},
        "x.yaml:15: metrics.0.args.n: unknown argument; did you mean `k`? top_k takes k",
    ),
    # what fits together
    (
        "monitor what never comes",
        {"edit": ("min val_loss", "max val_acuracy")},
        "x.yaml:18: trainer.monitor: the run never produces `val_acuracy`; did you mean `val_accuracy`? it will produce val_loss, val_accuracy, loss, accuracy",
    ),
    (
        "monitor without validation",
        {"edit": ("validation_split: 0.1", "validation_split: 0")},
        "x.yaml:18: trainer.monitor: the run never produces `val_loss` without validation (validation_split is 0); it will produce loss, accuracy",
    ),
    (
        "monitor of another trainer",
        {"edit": ("epochs: 2", "epochs: 2\n  type: GANTrainer")},
        "x.yaml:19: trainer.monitor: the run never produces `val_loss`; did you mean `val_g_loss`? it will produce val_g_loss, val_d_loss, val_accuracy, g_loss, d_loss, accuracy",
    ),
    # several at once
    (
        "all at once",
        {"edit": ("name: demo\n", "sede: 1\n"), "set": ["trainer.epochs=0", "trainer.monitr=off"]},
        "x.yaml: `name` is missing; a text is accepted (the run's folder in save_dir)\n"
        "command line: trainer.epochs=0: 0 was given; a whole number of at least 1 or null is accepted (passes over the training data)\n"
        "command line: trainer.monitr=off: unknown key; did you mean `monitor`? accepted: <TRAINER KEYS>\n"
        "x.yaml:1: sede: unknown key; did you mean `seed`? accepted: <KEYS>",
    ),
    (
        "all parts at once",
        {"edit": ("width: 8", "wdth: 8"), "set": ["optimizer.args.lr=x", "loss=nl"]},
        "x.yaml:4: arch.args.wdth: unknown argument; did you mean `width`? Net takes width, classes, widths\n"
        'command line: optimizer.args.lr=x: "x" was given; a number is accepted\n'
        "command line: loss=nl: unknown name; did you mean `nll`? model/loss.py has nll, torch.nn ...",
    ),
]


@pytest.mark.parametrize("change, said", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_message(house: Path, change: dict, said: str) -> None:  # noqa: F811
    for name, text in change.items():
        if "." in name:
            (house / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    if "edit" in change:
        assert change["edit"][0] in GOOD
        (house / "x.yaml").write_text(GOOD.replace(*change["edit"]))
    before = sorted(house.iterdir())
    with pytest.raises(ConfigError) as error:
        load(change.get("files", ["x.yaml"]), change.get("set", [])).check()
    told = str(error.value)
    told = told.replace(", ".join([*RunConfig.model_fields, "base"]), "<KEYS>")
    told = told.replace(", ".join(TrainerConfig.model_fields), "<TRAINER KEYS>")
    assert re.sub(r"\d+ more|is not installed", "...", told) == said  # how many depends on the versions installed
    assert sorted(house.iterdir()) == before


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 40
    assert len({name for name, *_ in CASES}) == len(CASES)


def test_good(house: Path) -> None:  # noqa: F811
    """The config that the table spoils is good by itself."""
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
    """An error of the fixed part is told before torch is imported, which would take seconds."""
    command = [sys.executable, "-c", SCRIPT, "-c", str(ROOT / "config/digits.yaml"), "trainer.epochs=0"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True)
    assert done.returncode == 2, done.stderr


@pytest.mark.parametrize(
    "words, said",
    [
        (["-c", "nothing.yaml"], "nothing.yaml: no such file"),
        (["-c", "{config}", "trainer.epohs=3"], "trainer.epohs=3: unknown key; did you mean `epochs`?"),
        (["-c", "{config}", "--lr", "fast"], 'optimizer.args.lr=fast: "fast" was given; a number is accepted'),
        (["-c", "{config}", "arch.type=MnistModl"], "unknown name; did you mean `MnistModel`?"),
        (["-c", "{config}", "trainer.monitor=min val_accurcy"], "did you mean `val_accuracy`?"),
        (["-c", "{config}", "name=../elsewhere"], 'name=../elsewhere: "../elsewhere" was given'),
        (
            ["-c", "{config}", "trainer.epochs"],
            "trainer.epochs: no such file; configs there: none; a key of the config is set with KEY=VALUE",
        ),
        (["{config}"], "a config file goes behind -c"),
        ([], "no config was given"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_train_py(words: list[str], said: str, run, tmp_path: Path) -> None:
    """Exit code 2, one message without a traceback, and nothing made."""
    done = run("train.py", *(word.format(config=ROOT / "config/digits.yaml") for word in words))
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
    assert list(tmp_path.iterdir()) == []
