"""The name of a model is read from a request only if every parser finds the same name."""

import json
from collections.abc import AsyncGenerator
from mmap import mmap
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.formparsers import FormParser, MultiPartParser

from hourpass import InvalidRequestError, from_form, from_json, from_query
from hourpass.guard.body_formats import MAX_MEMBERS
from hourpass.guard.name_readers import MAX_NAMES, RequestHead, fold

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=xyz"

reads = from_json("model")


def head(*content_types: str, encoding: str = "", query: bytes = b"") -> RequestHead:
    return RequestHead(content_types, [encoding] if encoding else [], query)


ACCEPTED_JSON = {
    "plain": b'{"model": "a"}',
    "after other members": b'{"messages": [{"model": "b", "role": "user"}], "model":"a", "n": 1}',
    "white space": b' \t\r\n{ "model" :\n"a" }\r\n',
    "an escape in the value": rb'{"model": "\u0061"}',
    "an escape in another name": rb'{"\u00e9t\u00e9": 1, "model": "a"}',
    "other texts": '{"model": "a", "\u00fc": "\U0001f600", "e": ""}'.encode(),
    "other values": b'{"x": [], "y": {}, "z": -1.5e3, "w": null, "model": "a", "v": true}',
}
REFUSED_JSON = {
    "empty": b"",
    "no object": b'["model"]',
    "a text": b'"model"',
    "no name": b'{"messages": []}',
    "two": b'{"model": "a", "model": "a"}',
    "two, one of another case": b'{"model": "a", "Model": "b"}',
    "only one of another case": b'{"MODEL": "a"}',
    "two, one of full width": '{"model": "a", "\uff4dodel": "b"}'.encode(),
    "two, one escaped": rb'{"model": "a", "mod\u0065l": "b"}',
    "only one escaped": rb'{"mod\u0065l": "a"}',
    "two, one with NUL": rb'{"model": "a", "model\u0000x": "b"}',
    "two, one with a space": b'{"model": "a", "model ": "b"}',
    "two, one as PHP writes it": b'{"model": "a", "model[]": "b"}',
    "a number": b'{"model": 1}',
    "null": b'{"model": null}',
    "a list": b'{"model": ["a"]}',
    "an object": b'{"model": {"a": "b"}}',
    "BOM": b'\xef\xbb\xbf{"model": "a"}',
    "UTF-16": '{"model": "a"}'.encode("utf-16"),
    "UTF-16 without BOM": '{"model": "a"}'.encode("utf-16-le"),
    "UTF-32": '{"model": "a"}'.encode("utf-32-be"),
    "UTF-7": b"+AHsAIg-model+ACI-: +ACI-a+ACIAfQ-",
    "Latin-1": '{"model": "a", "x": "\u00fc"}'.encode("latin-1"),
    "an overlong encoding": b'{"model": "a", "x": "\xc0\xae"}',
    "two documents": b'{"model": "a"}{"model": "b"}',
    "text behind it": b'{"model": "a"} x',
    "NUL behind it": b'{"model": "a"}\0',
    "a comma at the end": b'{"model": "a",}',
    "no comma": b'{"model": "a" "x": 1}',
    "a comment": b'{/* {"model": "b"} */"model": "a"}',
    "single quotes": b"{'model': 'a'}",
    "no quotes": b'{model: "a"}',
    "NaN": b'{"model": "a", "x": NaN}',
    "Infinity": b'{"model": "a", "x": [-Infinity]}',
    "a control character": b'{"model": "a", "x": "\x01"}',
    "a line end in a text": b'{"model": "a", "x": "\n"}',
    "a leading zero": b'{"model": "a", "x": 01}',
    "half a document": b'{"model": "a"',
    "half a member": b'{"model": ',
    "invalid further on": b'{"model": "a", "x": [1,]}',
    "a very long number": b'{"model": "a", "x": ' + b"1" * 5_000 + b"}",
    "deep": b'{"model": "a", "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "many members": json.dumps({"model": "a", **{str(n): n for n in range(MAX_MEMBERS)}}).encode(),
    "a long name": json.dumps({"model": "a", "x" * 1_001: 1}).encode(),
}


def test_the_name_is_read_from_json(subtests: pytest.Subtests) -> None:
    for case, body in ACCEPTED_JSON.items():
        with subtests.test(case):
            assert reads.names(head(JSON), body) == ["a"]
            assert json.loads(body)["model"] == "a"
    for case, body in REFUSED_JSON.items():
        with subtests.test(case), pytest.raises(InvalidRequestError):
            reads.names(head(JSON), body)


ACCEPTED_TYPES = (
    "application/json",
    "Application/JSON",
    "application/json; charset=utf-8",
    'application/json;charset="UTF-8"',
    "application/merge-patch+json",
)
REFUSED_TYPES: dict[str, tuple[str, ...]] = {
    "none": (),
    "empty": ("",),
    "two": (JSON, JSON),
    "text": ("text/plain",),
    "a form": (FORM,),
    "a list": ("application/json, text/plain",),
    "UTF-16": ("application/json; charset=utf-16",),
    "Latin-1": ("application/json; charset=iso-8859-1",),
    "two charsets": ("application/json; charset=utf-8; charset=utf-16",),
    "two charsets of another case": ("application/json; charset=utf-8; CHARSET=utf-16",),
    "a malformed parameter": ("application/json; charset",),
}


def test_the_content_type_has_to_be_that_of_the_body(subtests: pytest.Subtests) -> None:
    body = b'{"model": "a"}'
    for accepted in ACCEPTED_TYPES:
        with subtests.test(accepted):
            assert reads.names(head(accepted), body) == ["a"]
    for case, refused in REFUSED_TYPES.items():
        with subtests.test(case), pytest.raises(InvalidRequestError):
            reads.names(head(*refused), body)
    for encoding in ("gzip", "deflate", "br", "identity, gzip", "x"):
        with subtests.test(encoding), pytest.raises(InvalidRequestError, match="compressed"):
            reads.names(head(JSON, encoding=encoding), body)
    assert reads.names(head(JSON, encoding="identity"), body) == ["a"]


def test_each_model_of_a_fallback_list_is_read(subtests: pytest.Subtests) -> None:
    listed = from_json("model", "models", "fallbacks")
    for others, expected in (
        ({}, []),
        ({"models": None}, []),
        ({"models": []}, []),
        ({"models": ["b", "c"]}, ["b", "c"]),
        ({"fallbacks": "d", "models": ["b"]}, ["b", "d"]),
    ):
        with subtests.test(str(others)):
            body = json.dumps({"model": "a", **others}).encode()
            assert listed.names(head(JSON), body) == ["a", *expected]
    wrong: list[Any] = [1, [1], ["b", None], [["b"]], {"b": "c"}, [{"b": ["c"]}], ["b"] * MAX_NAMES]
    for value in wrong:
        with subtests.test(str(value)), pytest.raises(InvalidRequestError):
            listed.names(head(JSON), json.dumps({"model": "a", "models": value}).encode())
    for body in (b'{"models": ["b"]}', b'{"model": "a", "models": ["b"], "Models": ["c"]}'):
        with subtests.test(str(body)), pytest.raises(InvalidRequestError):
            listed.names(head(JSON), body)


ACCEPTED_PAIRS = (b"model=a", b"x=1&model=a&y=", b"model=%61", b"=&&model=a", b"x=1;y=2&model=a")
REFUSED_PAIRS = {
    "none": b"",
    "another": b"x=1",
    "two": b"model=a&model=b",
    "two alike": b"model=a&model=a",
    "two, behind a semicolon": b"model=a;model=b",
    "two, behind another": b"x=1;model=b&model=a",
    "only behind a semicolon": b"x=1;model=a",
    "a semicolon in the value": b"model=a;b",
    "a semicolon in the name": b"model;=a",
    "another case": b"model=a&MODEL=b",
    "an escaped name": b"mod%65l=a",
    "two, one escaped": b"model=a&mod%65l=b",
    "a list": b"model=a&model[]=b",
    "an index": b"model=a&model[0]=b",
    "an escaped list": b"model=a&model%5B%5D=b",
    "a space before it": b"model=a&+model=b",
    "a point": b"model=a&mo.del=b",
    "NUL": b"model=a&model%00=b",
    "many": b"model=a" + b"&x" * MAX_MEMBERS,
    "many semicolons": b"model=a&x" + b";x" * MAX_MEMBERS,
}
# No names of models (hourpass.scopes).
MALFORMED_PAIRS = (
    b"model=a%",
    b"model=a%zz",
    b"model=%u0061",
    b"model=%ff",
    b"model=%c0%ae",
    b"model=a+b",
    b"model=" + b"a" * 2_000,
)


def test_the_name_is_read_from_a_query_and_an_urlencoded_form(subtests: pytest.Subtests) -> None:
    from hourpass import Requirement, User

    query, form = from_query("model"), from_form("model")
    for text in ACCEPTED_PAIRS:
        with subtests.test(str(text)):
            assert query.names(head(query=text), b"") == ["a"]
            assert form.names(head(FORM), text) == ["a"]
    for case, text in REFUSED_PAIRS.items():
        with subtests.test(case):
            with pytest.raises(InvalidRequestError):
                query.names(head(query=text), b"")
            with pytest.raises(InvalidRequestError):
                form.names(head(FORM), text)
    needs = Requirement("predict:{model}", model=query)
    everything = User(1, "ada", frozenset({"predict:*"}), None)  # type: ignore[arg-type] # no expiry
    for text in MALFORMED_PAIRS:
        with subtests.test(str(text)), pytest.raises(InvalidRequestError):
            needs.check(everything, {"model": query.names(head(query=text), b"")})


def part(headers: str, value: str = "a") -> str:
    return f"--xyz\r\n{headers}\r\n\r\n{value}\r\n"


NAMED = 'Content-Disposition: form-data; name="model"'
FILE = part(
    'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav', "\0"
)
END = "--xyz--\r\n"

ACCEPTED_FORMS = {
    "one": part(NAMED) + END,
    "beside a file": FILE + part(NAMED) + END,
    "before a file": part(NAMED) + FILE + END,
    "of aiohttp": part(f"Content-Type: text/plain; charset=utf-8\r\n{NAMED}") + END,
    "of Java": part(
        f"{NAMED}\r\nContent-Type: text/plain; charset=ISO-8859-1\r\n"
        "Content-Transfer-Encoding: 8bit"
    )
    + END,
    "without quotes": part("Content-Disposition: form-data; name=model") + END,
    "a name of a file with UTF-8": part(
        'Content-Disposition: form-data; name="file"; filename="\u00fc.wav"; '
        "filename*=UTF-8''%c3%bc.wav"
    )
    + part(NAMED)
    + END,
    "no line end at the end": part(NAMED) + "--xyz--",
    "a part like a header": part('Content-Disposition: form-data; name="x"', "model: b\r\n\r\n")
    + part(NAMED)
    + END,
}
REFUSED_FORMS = {
    "empty": "",
    "only the end": "--xyz--\r\n",
    "no name": FILE + END,
    "two": part(NAMED) + part(NAMED, "b") + END,
    "another case": part(NAMED) + part(NAMED.replace("model", "Model"), "b") + END,
    "a list": part(NAMED) + part(NAMED.replace("model", "model[]"), "b") + END,
    "a file": part(f'{NAMED}; filename="x"') + END,
    "an empty file name": part(f'{NAMED}; filename=""') + END,
    "a file name in UTF-8": part(f"{NAMED}; filename*=UTF-8''x") + END,
    "two names": part(f'{NAMED}; name="x"') + END,
    "two names, the other way": part(f'{NAMED.replace("model", "x")}; name="model"') + END,
    "a name in UTF-8": part(f"{NAMED.replace('model', 'x')}; name*=UTF-8''model") + END,
    "a file name that hides another": part(
        'Content-Disposition: form-data; name="x"; filename="\\"; name=\\"model"'
    )
    + part(NAMED)
    + END,
    "an escape in the name": part(NAMED.replace("model", "mo\\del")) + END,
    "two dispositions": part(f"{NAMED.replace('model', 'x')}\r\n{NAMED}") + END,
    "no disposition": part("Content-Type: text/plain") + part(NAMED) + END,
    "an attachment": part(NAMED.replace("form-data", "attachment")) + END,
    "UTF-16": part(f"{NAMED}\r\nContent-Type: text/plain; charset=utf-16") + END,
    "JSON in a part": part(f"{NAMED}\r\nContent-Type: application/json", '"a"') + END,
    "base64": part(f"{NAMED}\r\nContent-Transfer-Encoding: base64", "YQ==") + END,
    "quoted": part(f"{NAMED}\r\nContent-Transfer-Encoding: quoted-printable", "=61") + END,
    "the field _charset_": part(NAMED.replace("model", "_charset_"), "utf-16") + part(NAMED) + END,
    "a folded header": part(NAMED.replace("; ", ";\r\n ")) + END,
    "a space before the colon": part(NAMED.replace(":", " :")) + END,
    "text before it": "x\r\n" + part(NAMED) + END,
    "an empty line before it": "\r\n" + part(NAMED) + END,
    "text behind it": part(NAMED) + END + part(NAMED, "b"),
    "no end": part(NAMED),
    "another boundary": part(NAMED).replace("xyz", "abc") + "--abc--\r\n",
    "a longer boundary": part(NAMED) + "--xyzz--\r\n",
    "line feeds alone": (part(NAMED) + END).replace("\r\n", "\n"),
    # werkzeug, and others, would begin a part there.
    "a boundary behind a line feed": part(
        'Content-Disposition: form-data; name="x"', f"y\n--xyz\r\n{NAMED}\r\n\r\nb"
    )
    + part(NAMED)
    + END,
    "a boundary within a line": part(NAMED, "a--xyz") + END,
    "no line between headers and text": f"--xyz\r\n{NAMED}\r\n--xyz--\r\n",
    "no line between an empty text and the boundary": f"--xyz\r\n{NAMED}\r\n\r\n--xyz--\r\n",
    "a long header": part(f"{NAMED}\r\nX: {'x' * 5_000}") + END,
    "many parts": part(NAMED)
    + part('Content-Disposition: form-data; name="x"') * MAX_MEMBERS
    + END,
    "a long value": part(NAMED, "a" * 2_000) + END,
}


def test_the_name_is_read_from_a_multipart_form(subtests: pytest.Subtests) -> None:
    form = from_form("model")
    for case, body in ACCEPTED_FORMS.items():
        with subtests.test(case):
            assert form.names(head(MULTIPART), body.encode()) == ["a"]
    for case, body in REFUSED_FORMS.items():
        with subtests.test(case), pytest.raises(InvalidRequestError):
            form.names(head(MULTIPART), body.encode())
    form_body = (part(NAMED) + part(NAMED.replace("model", "models"), "b") + END).encode()
    listed = from_form("model", "models")
    assert listed.names(head(MULTIPART), form_body) == ["a", "b"]
    encoded = form_body.replace(b'"models"', b'"models"\r\nContent-Transfer-Encoding: base64')
    with pytest.raises(InvalidRequestError):
        listed.names(head(MULTIPART), encoded)
    for case, content_type in {
        "no boundary": "multipart/form-data",
        "two boundaries": f"{MULTIPART}; boundary=abc",
        "an encoded boundary": "multipart/form-data; boundary*=utf-8''xyz",
        "a space in the boundary": 'multipart/form-data; boundary="x yz"',
        "a long boundary": f"multipart/form-data; boundary={'x' * 71}",
        "another charset": f"{MULTIPART}; charset=utf-16",
        "another multipart": "multipart/mixed; boundary=xyz",
    }.items():
        with subtests.test(case), pytest.raises(InvalidRequestError):
            form.names(head(content_type), form_body)


def test_a_form_in_a_file_is_read_as_one_in_memory(subtests: pytest.Subtests) -> None:
    form = from_form("model")
    for case, text in {**ACCEPTED_FORMS, **REFUSED_FORMS}.items():
        body = text.encode() or b"x"
        with subtests.test(case), mmap(-1, len(body)) as mapped:
            mapped[:] = body
            try:
                expected = form.names(head(MULTIPART), body)
            except InvalidRequestError:
                with pytest.raises(InvalidRequestError):
                    form.names(head(MULTIPART), mapped)
            else:
                assert form.names(head(MULTIPART), mapped) == expected


async def test_starlette_finds_the_same_name_in_a_form(subtests: pytest.Subtests) -> None:
    async def stream(body: bytes) -> AsyncGenerator[bytes, None]:
        yield body

    for case, text in ACCEPTED_FORMS.items():
        with subtests.test(case):
            headers = Headers({"Content-Type": MULTIPART})
            parsed = await MultiPartParser(headers, stream(text.encode())).parse()
            assert parsed.getlist("model") == ["a"]
            await parsed.close()
    for pairs in ACCEPTED_PAIRS:
        with subtests.test(str(pairs)):
            parsed = await FormParser(Headers({"Content-Type": FORM}), stream(pairs)).parse()
            assert parsed.getlist("model") == ["a"]


def test_similar_names_are_alike(subtests: pytest.Subtests) -> None:
    for name in (
        "MODEL",
        "model[]",
        "model[0]",
        "mo_del",
        "mo-del",
        " model",
        "model\0x",
        "\uff4dodel",
    ):
        with subtests.test(name):
            assert fold(name) == fold("model")
    assert fold("model") != fold("models")
    assert fold("\u212aey") == "key"  # encoding/json of Go takes the Kelvin sign for a K
    for wrong in (("model", "Model"), ("",), ("-",)):
        with subtests.test(str(wrong)), pytest.raises(ValueError, match="names"):
            from_json(*wrong)
    with pytest.raises(ValueError, match="max_body"):
        from_json("model", max_body=0)
