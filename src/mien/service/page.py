"""The page at ``/docs``: the OpenAPI description for people, without a script or another server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

PAGE_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""What lets a browser load nothing else for the page."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em; }
pre { padding: 0.75rem; overflow-x: auto; border: 1px solid #8888; border-radius: 4px; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { text-align: left; vertical-align: top; padding: 0.2rem 1rem 0.2rem 0;
  border-bottom: 1px solid #8884; }
section { margin-top: 2.5rem; }
"""
_EXAMPLES = """\
curl -F image=@photo.jpg http://HOST:PORT/v1/analyze
curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" http://HOST:PORT/v1/analyze
curl -N -F video=@clip.mp4 'http://HOST:PORT/v1/video?every=0.5'"""
_FORM = """\
<form method="post" action="v1/analyze" enctype="multipart/form-data">
<p><label>Try it: <input type="file" name="image" accept="image/*" required></label>
<button>Read the faces</button></p>
</form>"""


def page_html(description: Mapping[str, Any]) -> str:
    """Return the page of an OpenAPI description, as ``/openapi.json`` has it."""
    info = description["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    body = [
        f"<h1>{title}</h1>",
        f"<p>{escape(info['description'])} For programs: "
        '<a href="openapi.json">openapi.json</a>. For people: <a href="./">the studio</a>.</p>',
        f"<pre>{escape(_EXAMPLES)}</pre>",
        _FORM,
    ]
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            body += _operation(method.upper(), path, operation)
    for name, schema in description["components"]["schemas"].items():
        body += _schema(name, schema)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"<section><h2><code>{escape(method)} {escape(path)}</code></h2>"
    yield f"<p>{escape(operation.get('summary', ''))}.</p>"
    if "requestBody" in operation:
        body = operation["requestBody"]
        types = ", ".join(f"<code>{escape(kind)}</code>" for kind in body["content"])
        yield f"<p>Body: {escape(body['description'])} Types: {types}.</p>"
    if "parameters" in operation:
        given = [
            (f"<code>{escape(each['name'])}</code>", escape(each["description"]))
            for each in operation["parameters"]
        ]
        yield _table(("in the query", "what it does"), given)
    rows = [
        (f"<code>{escape(status)}</code>", escape(reply["description"]), _reply_kind(reply))
        for status, reply in operation["responses"].items()
    ]
    yield _table(("status", "when", "body"), rows) + "</section>"


def _schema(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f'<section><h2 id="{escape(name)}">{escape(name)}</h2>'
    yield f"<p>{escape(schema.get('description', ''))}</p>"
    rows = [
        (f"<code>{escape(key)}</code>", _kind(value), escape(value.get("description", "")))
        for key, value in schema.get("properties", {}).items()
    ]
    yield _table(("field", "type", "what it is"), rows) + "</section>"


def _reply_kind(reply: Mapping[str, Any]) -> str:
    content = reply.get("content", {})
    return ", ".join(
        _kind(media["schema"]) if media.get("schema") else f"<code>{escape(kind)}</code>"
        for kind, media in content.items()
    )


def _kind(schema: Mapping[str, Any]) -> str:
    """Return the type of a field in few words, linked to its own table where it has one."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(each))}</code>" for each in schema["enum"])
    kind = escape(str(schema.get("type", "anything")))
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_kind(schema['additionalProperties'])}"
    return kind


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(each)}</th>" for each in header)
    lines = ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>\n" + "\n".join(lines) + "</table>"
