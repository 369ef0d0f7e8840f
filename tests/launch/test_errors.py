"""What a user can mend: one sentence on standard error, exit code 1, and a traceback only with --debug."""

import re
import resource
import shutil

import pytest

DIGITS = "--config=configs/digits.py:mlp"
SHORT = [DIGITS, "--config.train.steps=30", "--config.model.hidden=(8,)", "--config.data.eval={}"]
EVAL = "--config.data.eval.test"

# What is given to `launch.train` -> what the sentence says. A new folder for each, where none is named.
TRAIN = {
    "unknown key of the config": (["--config.sed=1"], "config.sed: unknown key; did you mean 'seed'?"),
    "unknown section": (["--config.modle.name=mlp"], "config.modle: unknown key; did you mean 'model'?"),
    "unknown key of the model": (["--config.model.hiden=(3,)"], "config.model.hiden: .* did you mean 'hidden'?"),
    "unknown key of the task": (["--config.task.topk=3"], "config.task.topk: .* did you mean 'top_k'?"),
    "unknown key of data": (["--config.data.trian.name=x"], "config.data.trian: .* did you mean 'train'?"),
    "unknown key of data.train": (["--config.data.train.batchsize=3"], "config.data.train.batchsize: .*'batch_size'?"),
    "unknown key of data.eval": ([f"{EVAL}.transform=decode"], "config.data.eval.test.transform: .*'transforms'?"),
    "unknown key of preprocess": (["--config.data.preprocess.men=1"], "config.data.preprocess.men: .*'mean'?"),
    "unknown key of the optimiser": (
        ["--config.optimizer.weight_deacy=1"],
        "config.optimizer.weight_deacy: .*'weight_decay'?",
    ),
    "unknown key of the schedule": (
        ["--config.optimizer.schedule={'name': 'polynomial', 'powr': 2.0}"],
        "config.optimizer.schedule.powr: .*'power'?",
    ),
    "misspelled name of the schedule": (["--config.optimizer.schedule.nmae=cosine"], "schedule.nmae: .*'name'?"),
    "misspelled name of the task": (["--config.task.nmae=classification"], "config.task.nmae: .* did you mean 'name'?"),
    "weights that are not there": (["--config.init.weights=none.npz"], "config.init.weights: none.npz: no such file"),
    "unknown key of train": (["--config.train.step=4"], "config.train.step: .*'steps'?"),
    "unknown key of evaluate": (["--config.evaluate.evry=4"], "config.evaluate.evry: .*'every'?"),
    "unknown key of checkpoint": (["--config.checkpoint.kep=4"], "config.checkpoint.kep: .*'keep'?"),
    "unknown key of log": (["--config.log.evry=4"], "config.log.evry: .*'every'?"),
    "unknown model": (["--config.model.name=mpl"], "config.model.name: unknown model 'mpl'; did you mean 'mlp'?"),
    "unknown task": (
        ["--config.task.name=clasification"],
        "config.task.name: unknown task 'clasification'; did you mean 'classification'?",
    ),
    "unknown optimiser": (["--config.optimizer.name=adamm"], "config.optimizer.name: unknown .* did you mean 'adam'?"),
    "unknown schedule": (["--config.optimizer.schedule=cosin"], "config.optimizer.schedule: .* did you mean 'cosine'?"),
    "unknown transform": (
        ["--config.data.train.transforms=decode|filp"],
        "config.data.train.transforms: unknown transform 'filp'; did you mean 'flip'?",
    ),
    "unknown metric": (
        ["--config.checkpoint.best=test/acuracy"],
        "config.checkpoint.best: unknown metric 'test/acuracy'; did you mean 'test/accuracy'?",
    ),
    "wrong type: a float for an int": (
        ["--config.data.train.batch_size=4.5"],
        "config.data.train.batch_size: .*int.*4.5",
    ),
    "wrong type: a word for a number": (["--config.optimizer.learning_rate=fast"], "learning_rate: .*float.*'fast'"),
    "wrong type: a number for a tuple": (["--config.model.hidden=32"], "config.model.hidden: .*tuple.*32"),
    "wrong type: no choice": (["--config.parallel=pmapp"], "config.parallel: expected 'jit' or 'pmap', given 'pmapp'"),
    "no duration": (["--config.train.steps=soon"], "config.train: 'soon' is not a duration"),
    "batch size zero": (["--config.data.train.batch_size=0"], "config.data.train.batch_size: .*at least 1, given 0"),
    "batch size not divisible": (
        ["--config.data.train.batch_size=63"],
        "config.data.train.batch_size: 63 cannot be divided over 2 device.* nearest are 62 or 64",
    ),
    "evaluation batch size not divisible": ([f"{EVAL}.batch_size=7"], "config.data.eval.test.batch_size: 7 cannot"),
    "missing data set": (
        ["--config.data.train.name=digist"],
        "config.data.train.name: unknown data set 'digist'; .*'digits'",
    ),
    "unprepared data set": (
        ["--config.data.train.name=cifar10"],
        "config.data.train.name: .*'cifar10' is not prepared.* tfds build cifar10 --file_format=array_record",
    ),
    "missing folder of images": (["--config.data.train.name=folder:/nowhere"], "config.data.train.name: .*'/nowhere'"),
    "unknown split": (
        [f"{EVAL}.split=tset"],
        "config.data.eval.test.split: unknown split 'tset'; did you mean 'test'?",
    ),
    "missing config file": (
        ["--config=configs/digit.py"],
        "--config=configs/digit.py: no such file: .*configs/digits.py",
    ),
    "unknown argument of a config": (["--config=configs/digits.py:resnt"], "unknown network 'resnt'; .*'resnet'?"),
    "no config file": (["--config=notes.txt"], "--config=notes.txt: expected a config file"),
    "no config": (["--config="], "--config is missing"),
    "misspelled flag": (["--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: workdir"),
    "a misspelled config": (["--confg.seed=1"], "unknown flag --confg.seed; did you mean --config.seed?"),
    "a key without a value": (["--config.seed"], "--config.seed: expected a value"),
    "a stray argument": (["configs/digits.py"], "unexpected argument 'configs/digits.py'"),
    "no steps to profile": (["--profile=5:3"], "--profile=5:3: expected START:STOP"),
    "unwritable workdir": (["--workdir=/proc/nothing"], "--workdir=/proc/nothing: cannot be written"),
    "workdir below a file": (["--workdir=notes.txt/a"], "--workdir=notes.txt/a: cannot be written: Not a directory"),
    "unwritable workdir for a picture": (["--show_batch=1", "--workdir=notes.txt"], "--workdir=notes.txt: cannot be"),
    "workdir of another config": (
        ["--workdir=runs/digits-mlp"],
        "--workdir=runs/digits-mlp: holds a run of another config .*optimizer.learning_rate: 0.02 there, 0.002 now",
    ),
    "checkpoint whose shapes do not fit": (
        ["--workdir=runs/unlabelled", "--config.model.hidden=(16,)"],
        r"checkpoint .*unlabelled/checkpoints/24.*dense_1.*\(64, 32\).*\(64, 16\)",
    ),
    "NaN": (
        [*SHORT, "--config.optimizer={'name': 'sgd', 'learning_rate': 1e30}", "--config.checkpoint.every=1"],
        r"step \d: \w+ is (nan|inf); stopped \(the checkpoint of step \d is the last good one\)",
    ),
    "full disk": ([*SHORT, "--workdir=runs/full"], "The disk is full"),
}
EVALUATE = {
    "missing workdir": (["--workdir=runs/none"], "--workdir=runs/none: no such folder.* launch.train"),
    "no workdir": ([], "--workdir is missing"),
    "no run": (["--workdir=configs"], "no checkpoints: no such folder"),
    "missing checkpoint": (["--workdir=runs/digits-mlp", "--checkpoint=7"], "no checkpoint 7 .*24"),
    "unknown checkpoint": (["--workdir=runs/digits-mlp", "--checkpoint=lst"], "--checkpoint=lst: expected best, last"),
    "unknown split": (["--workdir=runs/digits-mlp", "--split=tset"], "unknown evaluation split 'tset'; .*'test'?"),
    "a config key": (["--workdir=runs/digits-mlp", "--config.seed=1"], "unexpected --config.seed"),
    "batch size not divisible": (
        ["--workdir=runs/digits-mlp"],
        "config.data.eval.test.batch_size: 120 cannot be divided",
    ),
}
IMAGES = "--images=configs/digits.py"
PREDICT = {
    "missing workdir": (["--workdir=runs/none", IMAGES], "--workdir=runs/none: no such folder"),
    "no image": (["--workdir=runs/digits-mlp"], "--images is missing"),
    "no image matches a pattern": (["--workdir=runs/digits-mlp", "--images=no/*.png"], r"--images=no/\*.png: no image"),
    "no image matches a folder": (
        ["--workdir=runs/digits-mlp", "--images=configs"],
        "--images=configs: no image matches",
    ),
    "no image matches a file": (["--workdir=runs/digits-mlp", "--images=no.png"], "--images=no.png: no image matches"),
    "not an image": (["--workdir=runs/digits-mlp", IMAGES], "configs/digits.py: not an image"),
    "unwritable folder": (
        ["--workdir=runs/digits-mlp", IMAGES, "--out=notes.txt"],
        "--out=notes.txt: cannot be written",
    ),
    "batch size zero": (["--workdir=runs/digits-mlp", IMAGES, "--batch_size=0"], "--batch_size=0"),
}


# For the session: tests of this module that another worker steals leave holes, after which a module begins again.
@pytest.fixture(scope="session")
def prepared(trained, launcher):
    """The folder with what the cases above name."""
    assert trained.code == 0, trained.err
    folder = launcher.folder
    (folder / "notes.txt").write_text("no config\n")
    shutil.copytree(folder / "runs" / "digits-mlp", folder / "runs" / "unlabelled")
    (folder / "runs" / "unlabelled" / "config.json").unlink()
    # A device that is always full, in place of a file that is written early.
    (folder / "runs" / "full").mkdir()
    (folder / "runs" / "full" / "log.txt").symlink_to("/dev/full")
    from vision.data.images import opencv

    opencv().imwrite(str(folder / "one.png"), opencv().imread(str(folder / "runs/digits-mlp/plots/loss.png"))[:8, :8])
    return launcher


@pytest.fixture(scope="session")
def ended(prepared):
    """How each of the cases ended: {(command, case): Done}."""
    train = [
        [DIGITS, f"--workdir=runs/wrong {number}", *arguments] for number, (arguments, _) in enumerate(TRAIN.values())
    ]
    results = {("train", name): done for name, done in zip(TRAIN, prepared.run_many("train", train, 2), strict=True)}
    # 120 images are no batch for 7 devices; all other cases fail before that.
    for command, cases, devices in (("evaluate", EVALUATE, 7), ("predict", PREDICT, 1)):
        found = prepared.run_many(command, [arguments for arguments, _ in cases.values()], devices)
        results |= {(command, name): done for name, done in zip(cases, found, strict=True)}
    return results


ALL = {
    (command, name): message
    for command, cases in (("train", TRAIN), ("evaluate", EVALUATE), ("predict", PREDICT))
    for name, (_, message) in cases.items()
}


@pytest.mark.slow
@pytest.mark.parametrize(("command", "name"), ALL)
def test_one_sentence_and_exit_code_1(ended, command, name):
    done = ended[command, name]
    assert done.code == 1, done
    assert done.err.startswith("error: ") and done.err.endswith("\n")
    assert done.err.count("\n") == 1, done.err
    assert re.search(ALL[command, name].replace("?", r"\?"), done.err), done.err


@pytest.mark.slow
def test_nothing_is_left_of_a_run_that_was_never_started(ended, prepared):
    number = list(TRAIN).index("unknown model")
    assert ended["train", "unknown model"].code == 1
    assert not (prepared.folder / f"runs/wrong {number}").exists()


@pytest.mark.parametrize(
    "command", ["train", *(pytest.param(name, marks=pytest.mark.slow) for name in ("evaluate", "predict"))]
)
def test_debug_shows_the_traceback(launcher, command):
    arguments = {"train": ["--config=none.py"]}.get(
        command, ["--workdir=none", "--images=none"][: 1 + (command == "predict")]
    )
    plain, debug = launcher.run(command, *arguments), launcher.run(command, *arguments, "--debug")
    assert plain.code == debug.code == 1
    assert plain.err.count("\n") == 1 and plain.err.startswith("error: ")
    assert "Traceback (most recent call last)" in debug.err
    assert plain.err.removeprefix("error: ").strip() in debug.err


@pytest.mark.slow
def test_a_disk_that_is_full_for_checkpoints(launcher, tmp_path):
    """A limit on the size of files; what Orbax's threads have to say of it stays off the terminal."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    arguments = [DIGITS, "--config.train.steps=4", "--config.checkpoint.every=2", "--config.model.hidden=(512,)"]
    environment = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # whose files may be large as well
    done = launcher.run("train", *arguments, f"--workdir={tmp_path}/a", environment=environment, preexec_fn=limit)
    assert done.code == 1
    assert done.err.count("\n") == 1, done.err
    assert re.match(rf"error: cannot write checkpoints to {tmp_path}/a/checkpoints: .*nothing was saved", done.err)
    assert done.err.removeprefix("error: ") in (tmp_path / "a" / "log.txt").read_text()
