import importlib
import itertools
import sys

import pytest

import quantizers
from quantizers import InputError, Quantizer, registry
from quantizers.errors import unknown_name

METHOD = """
from quantizers.methods.identity import Identity

class {cls}(Identity):
    name = "{name}"
"""
NUMBER = itertools.count()


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Writes packages and entry points to a folder on the path, and searches them as the registry does."""

    class World:
        package = f"some_methods_{next(NUMBER)}"
        group = "embedding_frontier.test_methods"

        def write(self, name, text):
            path = tmp_path / self.package / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

        def entry_point(self, name, value):
            folder = tmp_path / f"{name}_dist-1.0.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.0\n")
            (folder / "entry_points.txt").write_text(f"[{self.group}]\n{name} = {value}\n")

        def discover(self):
            importlib.invalidate_caches()
            package = importlib.import_module(self.package)
            return registry.discover(package, Quantizer, self.group, "quantizer")

    monkeypatch.syspath_prepend(tmp_path)
    world = World()
    world.write("__init__", "")
    yield world
    for name in [name for name in sys.modules if name.split(".")[0] == world.package]:
        del sys.modules[name]


def test_a_method_is_one_new_file(world):
    world.write("zebra", METHOD.format(cls="Zebra", name="zebra"))
    world.write("ant", METHOD.format(cls="Ant", name="ant"))
    found = world.discover()
    assert list(found) == ["ant", "zebra"]
    assert found["ant"].__name__ == "Ant"


def test_imported_and_nameless_classes_are_no_methods_of_a_module(world):
    world.write("own", METHOD.format(cls="Own", name="own"))
    world.write(
        "other",
        f"from {world.package}.own import Own\nfrom quantizers.codes import CodeQuantizer\nclass Helper(Own):\n    pass\n",
    )
    assert list(world.discover()) == ["own"]


def test_two_methods_of_one_name_are_refused(world):
    world.write("one", METHOD.format(cls="One", name="same"))
    world.write("two", METHOD.format(cls="Two", name="same"))
    with pytest.raises(InputError, match=r"Two quantizers are called 'same': .*\.one and .*\.two"):
        world.discover()


def test_unfinished_method_says_what_is_missing(world):
    world.write(
        "half",
        "from quantizers.codes import CodeQuantizer\nclass Half(CodeQuantizer):\n    name = 'half'\n    encode = None\n",
    )
    with pytest.raises(InputError, match="'half' of .*half does not define _fit_steps, code_values, configs_for, decode"):
        world.discover()


def test_entry_points_of_classes_modules_and_packages(world):
    for name in ("by_class", "by_module"):
        world.write(name, METHOD.format(cls="Method", name=name))
    world.entry_point("one", f"{world.package}.by_class:Method")
    world.entry_point("two", f"{world.package}.by_module")
    assert list(world.discover()) == ["by_class", "by_module"]


def test_the_same_class_twice_is_one_method(world):
    world.write("own", METHOD.format(cls="Own", name="own"))
    world.entry_point("again", f"{world.package}.own:Own")
    assert list(world.discover()) == ["own"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:Method", "broken-dist's entry point broken = no_such_module:Method cannot be loaded"),
        ("{package}.empty:Missing", "cannot be loaded"),
        ("{package}.empty", "holds no quantizer with a name"),
        ("{package}.empty:NUMBER", "holds no quantizer with a name"),
        ("{package}.empty:Nameless", "holds no quantizer with a name"),
    ],
)
def test_entry_points_that_hold_no_method(world, value, message):
    world.write("empty", "from quantizers.codes import CodeQuantizer as Nameless\nNUMBER = 3\n")
    world.entry_point("broken", value.format(package=world.package))
    with pytest.raises(InputError, match=message):
        world.discover()


def test_methods_are_sorted_and_named_as_they_say():
    found = quantizers.list_methods()
    assert list(found) == sorted(found)
    assert all(cls.name == name for name, cls in found.items())
    assert {"identity", "cast"} <= set(found)
    found.clear()  # a copy: nobody can empty the registry
    assert quantizers.list_methods()


def test_the_nearest_name_is_suggested():
    with pytest.raises(InputError, match="Unknown quantizer 'identty'. Did you mean 'identity'\\? Known: .*cast.*identity"):
        quantizers.get("identty")
    with pytest.raises(InputError, match="Unknown parameter of quantizer cast 'dtyp'. Did you mean 'dtype'"):
        quantizers.create("cast", dtyp="float16")
    assert "Did you mean" not in str(unknown_name("task", "xyz", ["sentiment"]))
    assert str(unknown_name("task", "xyz", [])) == "Unknown task 'xyz'. Known: none."


def test_a_wrong_value_says_where_and_what_was_given():
    with pytest.raises(InputError) as caught:
        quantizers.create("cast", dtype="float7")
    assert str(caught.value).startswith("Quantizer cast, dtype: ")
    assert "'float16', 'bfloat16'" in str(caught.value)
    assert "(given: 'float7')" in str(caught.value)
    assert "\n" not in str(caught.value)
