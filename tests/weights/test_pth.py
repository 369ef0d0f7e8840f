"""PyTorch's files read without PyTorch: what tensors are made of, and what is refused."""

import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from vision.errors import UsageError
from vision.weights import numpy_pickle, pth


class Pickle:
    """Writes a pickle opcode by opcode, as PyTorch's looks, for there is no PyTorch here to write one."""

    def __init__(self):
        self.content = b"\x80\x02"

    def add(self, value):
        if isinstance(value, Global):
            self.content += f"c{value.module}\n{value.name}\n".encode()
        elif isinstance(value, str):
            text = value.encode()
            self.content += b"X" + struct.pack("<I", len(text)) + text
        elif isinstance(value, bool):
            self.content += b"\x88" if value else b"\x89"
        elif isinstance(value, int):
            self.content += b"J" + struct.pack("<i", value)
        elif isinstance(value, tuple):
            self.content += b"("
            for item in value:
                self.add(item)
            self.content += b"t"
        elif isinstance(value, dict):
            self.content += b"}("
            for key, item in value.items():
                self.add(key)
                self.add(item)
            self.content += b"u"
        elif isinstance(value, Call):
            self.add(value.function)
            self.add(value.arguments)
            self.content += b"R"
            if value.state is not None:
                self.add(value.state)
                self.content += b"b"
        elif isinstance(value, Persistent):
            self.add(value.identity)
            self.content += b"Q"
        else:
            raise TypeError(value)
        return self

    def end(self):
        return self.content + b"."


class Global:
    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    def __init__(self, function, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state


class Persistent:
    def __init__(self, *identity):
        self.identity = identity


def storage(kind, key, count):
    return Persistent("storage", Global("torch", kind), key, "cpu", count)


def tensor(store, offset, shape, strides):
    hooks = Call(Global("collections", "OrderedDict"))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), store, offset, shape, strides, False, hooks)


def write(path, content, data, folder="archive", byteorder=None):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", Pickle().add(content).end())
        for key, array in data.items():
            archive.writestr(f"{folder}/data/{key}", array.tobytes())
        if byteorder:
            archive.writestr(f"{folder}/byteorder", byteorder)
        archive.writestr(f"{folder}/version", "3\n")
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


@pytest.mark.parametrize(
    "kind, dtype",
    [
        ("FloatStorage", np.float32),
        ("DoubleStorage", np.float64),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", ml_dtypes.bfloat16),
        ("LongStorage", np.int64),
        ("IntStorage", np.int32),
        ("ByteStorage", np.uint8),
        ("BoolStorage", np.bool_),
    ],
)
def test_types_of_numbers(path, kind, dtype):
    values = np.array([[1, 0, 3], [0, 5, 6]]).astype(dtype)
    write(path, {"a.weight": tensor(storage(kind, "0", 6), 0, (2, 3), (3, 1))}, {"0": values})
    (name, found), *others = pth.read(path).items()
    assert name == "a.weight" and found.dtype == dtype and not others
    np.testing.assert_array_equal(found, values)


def test_storages_are_shared_and_strides_kept(path):
    numbers = np.arange(12, dtype=np.float32)
    store = storage("FloatStorage", "7", 12)
    content = {
        "all": tensor(store, 0, (3, 4), (4, 1)),
        "transposed": tensor(store, 0, (4, 3), (1, 4)),
        "column": tensor(store, 2, (3,), (4,)),
        "scalar": tensor(store, 5, (), ()),
        "repeated": tensor(store, 1, (2, 2), (0, 1)),
        "empty": tensor(store, 12, (0, 4), (4, 1)),
    }
    found = pth.read(write(path, content, {"7": numbers}))
    table = numbers.reshape(3, 4)
    np.testing.assert_array_equal(found["all"], table)
    np.testing.assert_array_equal(found["transposed"], table.T)
    np.testing.assert_array_equal(found["column"], table[:, 2])
    assert found["scalar"] == 5 and found["scalar"].shape == () and found["empty"].shape == (0, 4)
    np.testing.assert_array_equal(found["repeated"], [[1, 2], [1, 2]])
    assert np.shares_memory(found["all"], found["column"])


def test_ordered_dicts_parameters_and_metadata(path):
    weight = tensor(storage("FloatStorage", "0", 2), 0, (2,), (1,))
    parameter = Call(
        Global("torch._utils", "_rebuild_parameter"), weight, True, Call(Global("collections", "OrderedDict"))
    )
    state_dict = Call(
        Global("collections", "OrderedDict"), (("w", parameter),), state={"_metadata": {"": {"version": 1}}}
    )
    found = pth.read(write(path, state_dict, {"0": np.float32([1, 2])}))
    np.testing.assert_array_equal(found["w"], [1, 2])


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_training_checkpoints(path, key):
    weight = tensor(storage("FloatStorage", "0", 2), 0, (2,), (1,))
    found = pth.read(write(path, {"epoch": 3, key: {"w": weight, "note": "text"}}, {"0": np.float32([1, 2])}))
    assert list(found) == ["w"]


def test_big_endian(path):
    content = {"w": tensor(storage("FloatStorage", "0", 2), 0, (2,), (1,))}
    found = pth.read(write(path, content, {"0": np.array([1, 2], ">f4")}, byteorder="big"))
    np.testing.assert_array_equal(found["w"], [1, 2])
    assert found["w"].dtype == np.float32


WEIGHT = tensor(storage("FloatStorage", "0", 4), 0, (2, 2), (2, 1))
NUMBERS = {"0": np.arange(4, dtype=np.float32)}


@pytest.mark.parametrize(
    "module, name",
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("numpy", "ndarray"),
        ("argparse", "Namespace"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("collections", "OrderedDict.__init__.__globals__"),
    ],
)
def test_nothing_else_is_called(path, tmp_path, module, name):
    trace = tmp_path / "executed"
    content = {"w": WEIGHT, "x": Call(Global(module, name), f"touch {trace}")}
    with pytest.raises(UsageError, match=rf"it holds a {module}.{name}, and only tensors are read"):
        pth.read(write(path, content, NUMBERS))
    assert not trace.exists()


def test_a_file_cannot_change_the_reader(path):
    """A pickle's BUILD sets attributes of whatever came before it: of a function it may call, too."""
    for target in (("torch._utils", "_rebuild_tensor_v2"), ("collections", "OrderedDict")):
        pickled = Pickle().add(Global(*target)).add({"__call__": "x", "__defaults__": "y"}).content + b"b."
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", pickled)
        with pytest.raises(UsageError, match=r"not a whole file of torch\.save"):
            pth.read(path)
        assert np.array_equal(pth.read(write(path, {"w": WEIGHT}, NUMBERS))["w"], [[0, 1], [2, 3]])


@pytest.mark.parametrize(
    "offset, shape, strides",
    [
        (1, (2, 2), (2, 1)),
        (0, (5,), (1,)),
        (0, (2, 2), (4, 1)),
        (-1, (2,), (1,)),
        (3, (2,), (-1,)),
        (0, (2,), (2**30,)),
    ],
)
def test_no_tensor_reaches_outside_of_its_storage(path, offset, shape, strides):
    content = {"w": tensor(storage("FloatStorage", "0", 4), offset, shape, strides)}
    with pytest.raises(UsageError, match=r"outside of its storage|described wrongly"):
        pth.read(write(path, content, NUMBERS))


def test_damaged_files(path, tmp_path):
    content = {"w": WEIGHT}
    with pytest.raises(UsageError, match="data/0 is cut short"):
        pth.read(write(path, content, {"0": np.zeros(3, np.float32)}))
    with pytest.raises(UsageError, match=r"not a whole file of torch\.save"):
        pth.read(write(path, content, {}))
    whole = write(path, content, NUMBERS).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="not a whole file"):
        pth.read(path)
    path.write_bytes(b"")
    with pytest.raises(UsageError, match="not a whole file"):
        pth.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", "text")
    with pytest.raises(UsageError, match=r"a zip file, but not one of torch\.save"):
        pth.read(path)
    with pytest.raises(UsageError, match="it has no state dict"):
        pth.read(write(path, {"epoch": 3}, {}))


def test_the_old_format_is_told_apart(path):
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2))
    with pytest.raises(UsageError, match=r"before version 1\.6.*save it again"):
        pth.read(path)


def test_pickled_arrays(tmp_path):
    arrays = {
        "a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.arange(3, dtype=">f8")},
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "note": "text",
    }
    for protocol in (3, 4, 5):
        path = tmp_path / f"{protocol}.ckpt"
        path.write_bytes(pickle.dumps(arrays, protocol=protocol))
        found = numpy_pickle.read(path)
        assert list(found) == ["a/kernel", "a/bias", "fortran"]
        np.testing.assert_array_equal(found["a/kernel"], arrays["a"]["kernel"])
        np.testing.assert_array_equal(found["a/bias"], [0, 1, 2])
        np.testing.assert_array_equal(found["fortran"], arrays["fortran"])


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_pickled_arrays_call_nothing(tmp_path):
    path, trace = tmp_path / "a.ckpt", tmp_path / "executed"
    path.write_bytes(pickle.dumps({"a": np.zeros(2), "b": Evil(trace)}, protocol=3))
    with pytest.raises(UsageError, match=r"it holds a (posix|nt).system"):
        numpy_pickle.read(path)
    path.write_bytes(pickle.dumps({"a": np.array([{}], object)}, protocol=3))
    with pytest.raises(UsageError, match="not of numbers"):
        numpy_pickle.read(path)
    path.write_bytes(pickle.dumps({"a": np.zeros(1000)}, protocol=3)[:200])
    with pytest.raises(UsageError, match="not a whole pickle"):
        numpy_pickle.read(path)
    assert not trace.exists()
