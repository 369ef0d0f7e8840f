"""Writes a network's features of a data set, and tells what simple classifiers make of them.

python -m launch.features --workdir=runs/a --out=features.npz --probe=logistic
python -m launch.features --config=configs/transfer.py:frozen --probe=svm        # with the weights of config.init
"""

from pathlib import Path

from absl import flags

from launch import command
from vision.errors import UsageError

WORKDIR = flags.DEFINE_string("workdir", None, "A run folder: its network, weights and data.")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, last or a step.")
CONFIG = flags.DEFINE_string("config", None, "In place of --workdir: a config, whose config.init has the weights.")
OUTPUT = flags.DEFINE_string("output", "pooled", "Output of the network: pooled, logits or features/STRIDE.")
OUT = flags.DEFINE_string("out", "features.npz", "The file to write.")
PROBE = flags.DEFINE_multi_string("probe", [], "logistic, svm or knn; may be given several times.")


def main(arguments: list[str], overrides: dict[str, str]) -> None:
    """Writes SPLIT_features, SPLIT_label and SPLIT_index for training and each evaluation split."""
    import numpy as np

    from vision import features
    from vision.errors import pick
    from vision.explain import probe
    from vision.sections import data_paths
    from vision.train.progress import table
    from vision.train.writers import Console
    from vision.training import use_compilation_cache

    if arguments:
        raise UsageError(f"unexpected argument {arguments[0]!r}; flags begin with --, as in --workdir=runs/a.")
    for name in PROBE.value:
        pick(probe.PROBES, "probe", name, "--probe")
    out = Path(OUT.value)
    if out.suffix != ".npz":
        raise UsageError(f"--out={out}: features are written as .npz; choose a name that ends so.")
    use_compilation_cache()
    run = command.open_run(WORKDIR.value, CHECKPOINT.value, CONFIG.value, overrides)
    found = {path.rpartition(".")[2]: features.extract(run, path, OUTPUT.value) for path in data_paths(run.config)}
    arrays = {f"{split}_{name}": values for split, parts in found.items() for name, values in parts.items()}
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        np.savez(out, **arrays)
    except OSError as error:
        raise UsageError(f"--out={out}: cannot be written: {error.strerror or error}.") from error
    for split, parts in found.items():
        print(f"{split}: {OUTPUT.value} of {len(parts['index']):,} images, {parts['features'].shape[1]} numbers each")
    print(f"Wrote {out}")
    if PROBE.value:
        if "label" not in found["train"]:
            raise UsageError(f"--probe: {run.config.data.train.name!r} has no labels to learn.")
        rows = []
        for name in PROBE.value:
            fitted = probe.fit(name, found["train"]["features"], found["train"]["label"])
            rows.append((name, *(float(fitted.score(p["features"], p["label"])) for p in found.values())))
        console = Console()
        console.print("\nAccuracy of a classifier trained on the features of train\n")
        console.print(table(rows, ("probe", *found)))


if __name__ == "__main__":
    command.run(main)
