"""Callbacks: yours too. One file each, delete freely; a config's `callbacks` finds a class in any file of this folder.

A callback is a class with one or more of five hooks:

    before_training(trainer)                     when a run begins or continues, and before steps are run again
    after_step(trainer)                          after each optimizer step; trainer.step counts completed steps
    during_eval(trainer)                         a context manager around each evaluation
    after_eval_batch(trainer, batch, outputs)    batch.indices are the samples, outputs what eval_step returned
    after_epoch(trainer, values)                 the means of the epoch; val_... are those of the validation

It reads, logs, keeps a state (`state_dict`, `load_state_dict`) and may call `trainer.stop(reason)`. What changes
gradients is a trainer of its own.
"""
