"""Kinds of values, and what is said of values that are missing or of another kind."""

from cifar_lightning.io.schema import TEXT, check, mapping, nullable, number, optional, several, whole


def test_what_is_missing_and_what_is_wrong_is_named() -> None:
    kinds = {"a": whole(1, 3), "b/c": TEXT, "d": nullable(several(number(0, 1))), "e": mapping(TEXT)}
    assert check({"a": 1, "b": {"c": "x"}, "d": None, "e": {}}, kinds | {"f": optional(TEXT)}) == ([], [])
    missing, wrong = check({"a": True, "b": 7, "d": [2.0], "e": {"x": None}}, kinds)
    assert missing == ["b.c"]
    assert wrong == [
        "a is True; it must be a whole number from 1 to 3",
        "d is [2.0]; it must be a list, each item a number from 0 to 1, or null",
        "e is {'x': None}; it must be a mapping, each value a string",
    ]
    assert check(None, {"a": TEXT}) == (["a"], [])
