"""What the Trainer's options mean here: Lightning's own descriptions are long, and some defaults are other ones."""

TRAINER_DEFAULTS = {"devices": 1, "enable_model_summary": False, "enable_autolog_hparams": False}
"""Defaults that differ from the Trainer's."""

EFFECTIVE_DEFAULTS = {
    "logger": True, "max_epochs": 10, "limit_train_batches": 1.0, "limit_val_batches": 1.0, "limit_test_batches": 1.0,
    "limit_predict_batches": 1.0, "val_check_interval": 1.0, "num_sanity_val_steps": 2, "log_every_n_steps": 50,
    "enable_checkpointing": True, "enable_progress_bar": True, "gradient_clip_algorithm": "norm",
    "deterministic": False, "default_root_dir": "runs",
}  # fmt: skip
"""What null, the Trainer's default of these options, means."""

DESCRIPTIONS = {
    "accelerator": "The kind of device: auto (the best one that the machine has), cpu, gpu, cuda, mps or tpu.",
    "strategy": "How several devices share the work, such as ddp; auto chooses by itself.",
    "devices": "How many devices, a list of their numbers, -1 for all of them, or auto.",
    "num_nodes": "Number of machines that train together.",
    "precision": "Number format of the computation: 32-true, bf16-mixed or 16-mixed. By default bf16-mixed where the "
    "hardware computes in bfloat16, otherwise 32-true.",
    "logger": "Loggers besides metrics.csv: true is TensorBoard, false is none; or a class of Lightning's, such as "
    "WandbLogger, or a list of them.",
    "callbacks": "Callbacks to add: a class of Lightning's, such as EarlyStopping, one of your own, "
    "my_module.MyCallback, or a list of them.",
    "fast_dev_run": "Try the code: train and validate this many batches, without checkpoints or logs; true is one.",
    "max_epochs": "Epochs to train; -1 for no limit. With max_steps, there is no limit by default.",
    "min_epochs": "Epochs to train at least, even if a callback wants to stop.",
    "max_steps": "Steps of the optimizer to train; -1 for no limit.",
    "min_steps": "Steps to train at least, even if a callback wants to stop.",
    "max_time": "Stop after this time, DD:HH:MM:SS. The learning rate still follows max_epochs.",
    "limit_train_batches": "Training batches in an epoch: a number, or below or at 1.0 a fraction.",
    "limit_val_batches": "Validation batches: a number, or a fraction.",
    "limit_test_batches": "Test batches: a number, or a fraction.",
    "limit_predict_batches": "Batches to predict: a number, or a fraction.",
    "overfit_batches": "Train and validate on the same few batches, to see whether the network can learn them: a "
    "number, or a fraction. 0 turns it off.",
    "val_check_interval": "How often to validate within an epoch: after a fraction of it (0.25), a number of batches "
    "(100), or a time (00:00:10:00).",
    "check_val_every_n_epoch": "Validate after every so many epochs.",
    "num_sanity_val_steps": "Validation batches to try before training starts; -1 for all.",
    "log_every_n_steps": "Log train/loss_step and the learning rate every so many steps.",
    "enable_checkpointing": "Whether best.ckpt and last.ckpt are written.",
    "enable_progress_bar": "Whether to show a progress bar.",
    "enable_model_summary": "Whether to print a table of the network's layers.",
    "accumulate_grad_batches": "Batches whose gradients are added up for one step of the optimizer.",
    "gradient_clip_val": "Clip gradients to this norm, or value; by default they are not clipped.",
    "gradient_clip_algorithm": "What gradient_clip_val limits: norm (of all gradients together) or value (of each).",
    "deterministic": "Use only algorithms that give the same result every time; true fails where there is none, warn "
    "warns.",
    "benchmark": "Whether cuDNN tries which algorithms are fastest. By default fit does, and test does not.",
    "inference_mode": "Use torch.inference_mode in evaluation; false uses torch.no_grad.",
    "use_distributed_sampler": "Let Lightning divide the data among processes; the data of this package are divided "
    "already.",
    "profiler": "Print where the time goes: simple, advanced, pytorch, or a class.",
    "detect_anomaly": "Find the operation whose gradient is NaN; slow.",
    "barebones": "Turn off all that Lightning does besides training, to measure its cost.",
    "plugins": "Plugins of Lightning: a class, or a list of them.",
    "sync_batchnorm": "Compute batch normalisation over all processes.",
    "reload_dataloaders_every_n_epochs": "Create the loaders again every so many epochs; 0 never does.",
    "default_root_dir": "The folder of all runs.",
    "enable_autolog_hparams": "Let Lightning log hyperparameters at the start; fit logs them with the result.",
    "model_registry": "Name of the model in a registry that Lightning uploads it to.",
}
"""One or two lines for each option."""
