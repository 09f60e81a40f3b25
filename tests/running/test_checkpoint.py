"""Checkpoints: exact, atomic, checked, and never executed."""

import errno
import os
import pickle
import random
import zipfile

import numpy as np
import pytest
import torch

from dreamerv2.common import files
from dreamerv2.common.errors import UsageError, match_state
from dreamerv2.common.files import write_atomically
from dreamerv2.running import statefile
from dreamerv2.running.statefile import load_checkpoint, save_checkpoint


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "variables.pt"


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
    elif isinstance(a, (np.ndarray, np.generic)):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    else:
        assert a == b or a != a and b != b


def test_every_kind_of_value_comes_back_as_it_was(path):
    state = {
        "plain": [None, True, False, 0, -5, 0.1, -0.0, float("inf"), "text ü", ""],
        "nan": float("nan"),
        "big": [2**63, -(2**64), 2**127 + 1, -(2**5000), 2**2039],
        "bytes": [b"", b"\x00\xff"],
        "tuple": (1, (2.0, "x"), []),
        "tensors": [
            torch.arange(6).reshape(2, 3),
            torch.rand(3, dtype=torch.bfloat16),
            torch.tensor(True),
            torch.zeros(0, 4),
        ],
        "arrays": [
            np.arange(6, dtype=np.uint32).reshape(2, 3),
            np.array(2.5, np.float16),
            np.zeros((0, 3)),
            np.array(["a", "bcd"]),
            np.array([True, False]),
            np.arange(4, dtype=">i8"),
        ],
        "scalars": [np.int64(3), np.float32(0.1), np.bool_(True), np.float64(0.1)],
        3: {"nested": {}},
    }
    save_checkpoint(path, state)
    assert_same(load_checkpoint(path), state)


def test_random_states_continue_where_they_were(path):
    python, numpy = random.Random(3), np.random.default_rng(3)
    legacy, torch_rng = np.random.RandomState(3), torch.Generator().manual_seed(3)
    python.gauss(0, 1)
    save_checkpoint(
        path,
        {
            "python": python.getstate(),
            "numpy": numpy.bit_generator.state,
            "legacy": legacy.get_state(),
            "torch": torch_rng.get_state(),
        },
    )
    wanted = [python.gauss(0, 1), numpy.random(), legacy.rand()]
    wanted.append(torch.rand(1, generator=torch_rng).item())

    state = load_checkpoint(path)
    python, numpy = random.Random(), np.random.default_rng()
    legacy, torch_rng = np.random.RandomState(), torch.Generator()
    python.setstate(state["python"])
    numpy.bit_generator.state = state["numpy"]
    legacy.set_state(state["legacy"])
    torch_rng.set_state(state["torch"])
    got = [python.gauss(0, 1), numpy.random(), legacy.rand()]
    assert got + [torch.rand(1, generator=torch_rng).item()] == wanted


def test_an_optimizer_goes_on_as_if_never_stopped(path):
    def make():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.Adam(model.parameters(), lr=0.1)

    def update(model, opt):
        opt.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        opt.step()

    model, opt = make()
    update(model, opt)
    state = {"model": model.state_dict(), "opt": opt.state_dict()}
    save_checkpoint(path, state)
    update(model, opt)
    other, other_opt = make()
    loaded = load_checkpoint(path)
    other.load_state_dict(loaded["model"])
    other_opt.load_state_dict(loaded["opt"])
    update(other, other_opt)
    assert torch.equal(model.weight, other.weight)


def test_a_view_does_not_bring_its_whole_tensor_into_the_file(path):
    whole = torch.rand(1000, 1000, requires_grad=True)
    save_checkpoint(path, {"row": whole[3]})
    assert path.stat().st_size < 20_000
    row = load_checkpoint(path)["row"]
    assert torch.equal(row, whole[3])
    assert not row.requires_grad


def test_the_file_opens_with_torch_alone(path):
    save_checkpoint(path, {"weight": torch.ones(2), "step": 7})
    state = torch.load(path, weights_only=True)["state"]
    assert state["step"] == 7
    assert torch.equal(state["weight"], torch.ones(2))


@pytest.mark.parametrize(
    "value, words",
    [
        (object(), "object"),
        ({1.5: 0}, "key 1.5"),
        ({"__numpy__": 0}, "__numpy__"),
        (np.array([object()]), "dtype object"),
        (lambda: 0, "function"),
        (torch.eye(2).to_sparse(), "dense"),
        ({1, 2}, "set"),
    ],
)
def test_what_cannot_be_saved_is_named_and_leaves_the_old_file(path, value, words):
    save_checkpoint(path, 1)
    with pytest.raises(TypeError, match=words) as caught:
        save_checkpoint(path, {"agent": [0, value]})
    assert "state['agent'][1]" in str(caught.value)
    assert load_checkpoint(path) == 1


# Atomic


def test_a_kill_while_writing_leaves_the_old_file_and_is_cleaned_up_later(
    path, monkeypatch
):
    save_checkpoint(path, {"step": 1})

    class Killed(BaseException):
        pass

    def kill(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", kill)
        patch.setattr(type(path), "unlink", lambda *args, **kwargs: None)
        with pytest.raises(Killed):
            save_checkpoint(path, {"step": 2})
    assert len(list(path.parent.iterdir())) == 2  # the kill left something
    assert load_checkpoint(path) == {"step": 1}
    save_checkpoint(path, {"step": 3})
    assert list(path.parent.iterdir()) == [path]
    assert load_checkpoint(path) == {"step": 3}


def test_bytes_reach_the_disk_before_the_name_changes(path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync") or fsync(fd))
    monkeypatch.setattr(
        os, "replace", lambda a, b: calls.append("replace") or replace(a, b)
    )
    save_checkpoint(path, {})
    assert calls == ["fsync", "replace", "fsync"]


class FullFile:
    """A file on a disk with so many bytes left, or with another error after them."""

    def __init__(self, file, left, error=None):
        self.file, self.left = file, left
        self.error = error or OSError(errno.ENOSPC, "No space left on device")

    def write(self, data):
        self.left -= memoryview(data).nbytes
        if self.left < 0:
            raise self.error
        return self.file.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("left", [0, 100, 1000, 3000])
def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(path, monkeypatch, left):
    state = {"weight": torch.arange(1000.0), "step": 1}
    save_checkpoint(path, state)

    def open_full(*args):
        return FullFile(open(*args), left)

    monkeypatch.setattr(files, "open", open_full, raising=False)
    with pytest.raises(UsageError, match="No space left on device.*free some") as e:
        save_checkpoint(path, {"weight": torch.zeros(1000), "step": 2})
    assert str(e.value).count(". ") == 0
    assert list(path.parent.iterdir()) == [path]
    assert_same(load_checkpoint(path), state)


@pytest.mark.parametrize("left", [0, 100, 1000, 3000])
def test_a_second_ctrl_c_within_a_write_interrupts_and_leaves_the_old_file(
    path, monkeypatch, left
):
    save_checkpoint(path, {"x": 1})

    def open_interrupted(*args):
        return FullFile(open(*args), left, KeyboardInterrupt())

    with monkeypatch.context() as patch:
        patch.setattr(files, "open", open_interrupted, raising=False)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, {"x": torch.zeros(2000)})
    assert load_checkpoint(path) == {"x": 1}
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_other_failures_to_write_are_one_sentence(path, monkeypatch, function):
    save_checkpoint(path, 1)

    def refuse(*args):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, refuse)
        with pytest.raises(UsageError, match=f"{path}.*Read-only.*writable"):
            save_checkpoint(path, 2)
    assert load_checkpoint(path) == 1
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Cannot write"):
        save_checkpoint(tmp_path / "file" / "variables.pt", 1)


def test_any_file_can_be_written_atomically(tmp_path):
    write_atomically(tmp_path / "new" / "a.txt", lambda file: file.write(b"hello"))
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"hello"
    with pytest.raises(RuntimeError):
        write_atomically(tmp_path / "new" / "a.txt", lambda file: fail())
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"hello"
    assert len(list((tmp_path / "new").iterdir())) == 1


def fail():
    raise RuntimeError


# Damaged and foreign files


def test_a_missing_file_is_one_sentence(path):
    with pytest.raises(UsageError, match=f"no checkpoint at {path}"):
        load_checkpoint(path)
    with pytest.raises(UsageError, match="no checkpoint at"):
        load_checkpoint(path.parent)


def test_a_flipped_bit_is_noticed_or_does_no_harm(path):
    state = {"weight": torch.arange(50.0), "rng": np.arange(9), "step": 12345}
    save_checkpoint(path, state)
    good = path.read_bytes()
    rng = random.Random(0)
    noticed = 0
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        try:
            assert_same(load_checkpoint(path), state)
        except UsageError as error:
            assert str(path) in str(error)
            assert "because it" in str(error)  # our words, not a library's
            assert "restore" in str(error)
            noticed += 1
    assert noticed > 100  # the others hit padding and time stamps


def test_a_flipped_bit_in_a_tensor_is_always_noticed(path):
    weight = torch.arange(100.0)
    save_checkpoint(path, {"weight": weight})
    good = path.read_bytes()
    start = good.index(weight.numpy().tobytes())
    for at in range(start, start + 400, 13):
        bad = bytearray(good)
        bad[at] ^= 1
        path.write_bytes(bad)
        with pytest.raises(UsageError, match="part .* is damaged"):
            load_checkpoint(path)


def test_a_cut_file_is_always_noticed(path):
    save_checkpoint(path, {"weight": torch.arange(50.0)})
    good = path.read_bytes()
    for size in [0, 1, *range(2, len(good), 37), len(good) - 1]:
        path.write_bytes(good[:size])
        with pytest.raises(UsageError, match="cut short|damaged"):
            load_checkpoint(path)


@pytest.mark.parametrize("kind", ["pickle", "torch", "torch_old", "in_ours", "zip"])
def test_code_in_a_file_is_refused_and_not_run(path, tmp_path, kind):
    trap = tmp_path / "trap"
    evil = Evil(trap)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif kind == "torch":
        torch.save(evil, path)
    elif kind == "torch_old":
        torch.save(evil, path, _use_new_zipfile_serialization=False)
    elif kind == "in_ours":
        content = {"format": statefile.FORMAT, "version": statefile.VERSION}
        torch.save({**content, "state": {"weight": evil}}, path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", pickle.dumps(evil, protocol=2))
            archive.writestr("x/version", "3\n")
    with pytest.raises(UsageError, match=f"{path}.*cannot be loaded"):
        load_checkpoint(path)
    assert not trap.exists()


def test_files_of_other_programs_and_versions_are_refused(path):
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(UsageError, match="not written by this program"):
        load_checkpoint(path)
    torch.save({"format": statefile.FORMAT, "version": 99, "state": 0}, path)
    with pytest.raises(UsageError, match="format 99"):
        load_checkpoint(path)
    data = torch.zeros(3, dtype=torch.uint8)
    array = {"__numpy__": "|O", "shape": [1], "scalar": False, "data": data}
    content = {"format": statefile.FORMAT, "version": statefile.VERSION}
    torch.save({**content, "state": array}, path)
    with pytest.raises(UsageError, match="type object"):
        load_checkpoint(path)


# match_state


def test_states_that_match_pass_whatever_their_order():
    a = {"x": torch.zeros(2, 3), "y": torch.zeros(())}
    match_state(a, {"y": torch.ones(()), "x": np.ones((2, 3))}, "model")


def test_missing_extra_and_misshapen_names_are_listed_with_counts():
    expected = {f"layer{i}": torch.zeros(4) for i in range(9)}
    found = {"layer8": torch.zeros(4, 2), "old": torch.zeros(1)}
    with pytest.raises(UsageError) as error:
        match_state(expected, found, "variables.pt: model")
    assert str(error.value) == (
        "variables.pt: model does not fit this configuration, with 8 missing (layer0, "
        "layer1, layer2, layer3, layer4, ...), 1 extra (old), 1 misshapen (layer8 is "
        "4x2 where 4 is needed): use the config that it was saved with, or another "
        "--logdir."
    )
