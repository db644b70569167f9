import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.runtime import text_format as pb
from service.runtime.text_format import INT64, STRING, Enum, InvalidText, Message, Repeated, read

INNER = Message("Inner", {"s": STRING, "i": INT64})
SCALARS: dict[str, Any] = {"s": STRING, "b": pb.BOOL, "i": pb.INT32, "u": pb.UINT32, "d": pb.DOUBLE}
FIELDS: dict[str, Any] = {
    "e": Enum("Color", {"RED": 0, "BLUE": 7}),
    "one": INNER,
    "many": Repeated(INNER),
    "numbers": Repeated(INT64),
    "strings": Repeated(STRING),
    "labels": pb.map_of(STRING, INT64),
    "any": pb.Unread("google.protobuf.Any"),
}
OUTER = Message("Outer", {**SCALARS, **FIELDS}, [("one", "any")])


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", {}),
        ("# nothing\n  # at all", {}),
        ("s: 'a' # a comment\n'b' \"c\"", {"s": "abc"}),
        (r"""s: "\n\t\"\'\\\?\a" """, {"s": "\n\t\"'\\?\a"}),
        (r"s: '\101\x42\u00e4\U0001F457\303\266'", {"s": "ABä👗ö"}),
        ("\ufeffs: 'ä'", {"s": "ä"}),
        ("b: true i: -0x1F d: 1.5f e: BLUE", {"b": True, "i": -31, "d": 1.5, "e": 7}),
        ("b: f i: 017 d: -2e-3 e: 9", {"b": False, "i": 15, "d": -0.002, "e": 9}),
        ("b: 1 i: - 3 d: .5", {"b": True, "i": -3, "d": 0.5}),
        ("d: 3", {"d": 3.0}),
        ("d: -inf", {"d": float("-inf")}),
        ("one { s: 'x' i: 1 }", {"one": {"s": "x", "i": 1}}),
        ("one: { s: 'x', i: 1; }", {"one": {"s": "x", "i": 1}}),
        ("one < s: 'x' >;", {"one": {"s": "x"}}),
        ("many {} many: { i: 2 }, many: [{ i: 3 }, < i: 4 >]", {"many": [{}, {"i": 2}, {"i": 3}, {"i": 4}]}),
        ("numbers: 1 numbers: [2, 3] numbers: []", {"numbers": [1, 2, 3]}),
        ("strings: ['a' 'b', 'c']", {"strings": ["ab", "c"]}),
        ("labels { key: 'stable' value: 42 }", {"labels": [{"key": "stable", "value": 42}]}),
        ("any { [type.googleapis.com/a.B] { x: 1 y { z: ['q', -2.5] } w <> } t: NAME }", {"any": {}}),
    ],
)
def test_text_is_read(text: str, content: object) -> None:
    assert read(text.encode(), OUTER) == content


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("x: 1", "1:1", 'Message type "Outer" has no field named "x"; expected one of s, b'),
        ("s: 'a'\none { q: 1 }", "2:7", 'Message type "Inner" has no field named "q"'),
        ("s 'a'", "1:3", '"s": expected ":"'),
        ("s: a", "1:4", "\"s\": expected a string in quotes, not 'a'"),
        ("s: 'a", "1:4", "a string that does not end in its line"),
        ("s: 'a\n'", "1:4", "a string that does not end in its line"),
        (r"s: '\q'", "1:4", r"\q is no escape sequence"),
        (r"s: '\777'", "1:4", r"\777 is no escape sequence"),
        (r"s: '\ud800'", "1:4", "is no escape sequence"),
        (r"s: '\xff'", "1:4", '"s": expected UTF-8'),
        ("s: 'a' s: 'b'", "1:8", 'Non-repeated field "s" is specified multiple times'),
        ("one {} any {}", "1:8", 'Field "any" is specified along with field "one"'),
        ("b: yes", "1:4", '"b": expected true or false'),
        ("i: 1.5", "1:4", '"i": expected a whole number'),
        ("i: 3x", "1:4", "\"i\": expected a whole number, not '3x'"),
        ("i: 08", "1:4", '"i": expected a whole number'),
        ("one { i: 9223372036854775808 }", "1:10", '"one.i": expected a whole number from -9223372036854775808'),
        ("u: -1", "1:4", '"u": expected a whole number from 0 to 4294967295 (uint32)'),
        ("i: " + "9" * 10_000, "1:4", "expected a whole number"),
        ("d: 'x'", "1:4", '"d": expected a number'),
        ("e: GREEN", "1:4", '"e": expected one of RED, BLUE'),
        ("one 3", "1:5", '"one": expected "{"'),
        ("\n\none { s: 'a'", "3:13", '"one": expected "}"'),
        ("one { s: 'a' >", "1:14", "\"one\": expected the name of a field, not '>'"),
        ("numbers: [1 2]", "1:13", '"numbers": expected "," or "]"'),
        ("numbers: [1,", "1:13", '"numbers": expected a whole number, not the end'),
        ("[a.b]: 3", "1:1", "not an extension"),
        ("}", "1:1", "expected the name of a field"),
        ("any { x }", "1:9", '"any": expected ":" or "{"'),
        ("any { [a", "1:9", '"any": expected "]"'),
        ("any {" + "x {" * 200, "1:306", "expected at most 100 messages in each other"),
    ],
)
def test_error_names_line_column_and_what_was_expected(text: str, place: str, what: str) -> None:
    with pytest.raises(InvalidText) as raised:
        read(text.encode(), OUTER)
    assert str(raised.value).startswith(f"{place}: ")
    assert what in str(raised.value)


@pytest.mark.parametrize("text", [b"s: '\xff'", "s: 'a'".encode("utf-16")])
def test_other_encodings_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidText, match="expected UTF-8"):
        read(text, OUTER)


def literal(text: str) -> str:
    return '"' + "".join(f"\\{byte:03o}" for byte in text.encode()) + '"'


INT64S = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(st.tuples(st.text(), INT64S, st.sampled_from(["{}", "<>"]), st.sampled_from(",; \n"))))
def test_text_round_trips(rows: list[tuple[str, int, str, str]]) -> None:
    text = "".join(
        f"many{braces[0]}s:{literal(name)}{separator}i:{number:#x}{braces[1]}{separator}".replace("0x-", "-0x")
        for name, number, braces, separator in rows
    )
    assert read(text.encode(), OUTER).get("many", []) == [{"s": name, "i": number} for name, number, _, _ in rows]


VALID = b"s: 'x' b: true i: -3 d: 1.5 one { s: \"a\\n\" } many: [{ i: 3 }] numbers: [1, 2] labels { key: 'k' value: 4 }"


@given(st.data())
def test_fuzzed_text_is_read_or_refused_with_a_place(data: st.DataObject) -> None:
    text = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(place, min(place + 9, len(text))))
        text[place:end] = data.draw(st.binary(max_size=4) | st.text(string.printable, max_size=4).map(str.encode))
    try:
        read(bytes(text), OUTER)
    except InvalidText as error:
        line, column, _ = str(error).split(":", 2)
        assert int(line) >= 1
        assert int(column) >= 1
