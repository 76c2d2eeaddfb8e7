"""Run directories: the one room that opens, reads and writes what lies in them. Other rooms ask it.

What is in a run directory W, on a disk or in a store (gs://BUCKET/PATH), and which module keeps it:

    config.json          directory    the exact config that the run was started with
    versions.json        directory    packages, Python, devices and commit at its start
    data.json            directory    sizes of the dataset, shape of an image, scale of sequences
    classes.json         directory    of a supervised run: the labels, in the order of the classifier's outputs
    parameters.txt       directory    every parameter with its shape
    data/train_*.npy     directory    images or sequences, where they were given as arrays
    .lock                directory    held by the process that trains; a store has none
    checkpoints/STEP/    checkpoint   `train`: step, parameters, optimizer state; `ema`: averaged parameters; `config`;
                                      digest.json: the SHA-256 of each file
    corrupt/STEP/        checkpoint   checkpoints that were found damaged, moved aside
    metrics.jsonl        log          a line each `train.log_every` steps
    tensorboard/         log          the same as an event file
    samples/             outcome      STEP.png, which training draws, and NAME.png, which `ddm_embed.sample` draws
    probe/NAME/          outcome      results.json, predictions.npz (classes given to the test images), atlas.npz (what
                                      the report draws), profile.png and report.html

Every file but the event file and the lines of metrics.jsonl is written whole or not at all (`files`). JSON is
checked to be of the form that is expected; what is not ends in one line that names the file.
"""
