import io
import pickle
import subprocess

import pytest

from pocketnet_fast.data.plain_pickle import RefusedPickle, load_plain
from pocketnet_fast.errors import PocketNetError

DATA = {b"numbers": [1, 2.5, 10**30], "text": ("a", b"b", None, True), "nested": [[], {}]}


class StandIn:
    __slots__ = ("arguments",)

    def __call__(self, *arguments):
        if arguments != ("fine",):
            raise RefusedPickle("it asks for too much")
        return "made"


class Calls:
    def __init__(self, argument):
        self.argument = argument

    def __reduce__(self):
        return subprocess.getoutput, (self.argument,)


def load(data, names=None):
    return load_plain(io.BytesIO(data), "x.p", "list", names or {})


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_data_is_read(protocol):
    assert load(pickle.dumps(DATA, protocol)) == DATA


def test_what_is_named_is_refused_and_not_called():
    with pytest.raises(PocketNetError, match=r"x\.p: refused, it names subprocess\.getoutput; a list holds"):
        load(pickle.dumps([Calls("exit 1")]))


def test_stand_ins_take_the_place_of_what_is_named():
    names = {("subprocess", "getoutput"): StandIn}
    assert load(pickle.dumps([Calls("fine")]), names) == ["made"]
    with pytest.raises(PocketNetError, match="refused, it asks for too much"):
        load(pickle.dumps([Calls("else")]), names)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x80\x03.", b"\x80\x03]q\x00h\x05.", b"\x80\x02r\xff\xff\xff\x7f."]
)
def test_damaged_files_are_one_error(data):
    with pytest.raises(PocketNetError, match=r"x\.p: (damaged|refused)"):
        load(data)
