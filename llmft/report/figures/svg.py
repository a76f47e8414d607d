"""Matplotlib's SVG as a part of the page: its marks show their values, and it needs no inline styles and no wider policy.

Browsers treat style attributes as inline styles, which the page's policy forbids: each becomes a class, whose rule is in the
page's own style sheet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.artist import Artist

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
HREF = f"{{{XLINK}}}href"
MARKS = "marks "
"""Start of the id of an artist whose marks have tooltips, followed by a JSON list of these."""
NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
UNTURNED = re.compile(r"rotate\(-?0 [^)]*\)")


def say(artist: Artist, tips: Iterable[str]) -> None:
    """Set the tooltips that the page shows for the marks of an artist, in drawing order; "" for marks without one. Marks
    without a finite position are not drawn and have no tooltip."""
    artist.set_gid(MARKS + json.dumps(list(tips)))


def inline(svg: str, name: str, title: str, styles: MutableMapping[str, str]) -> str:
    """The picture as an element of the page.

    Args:
        svg: matplotlib's file, drawn with `svg.fonttype` none.
        name: prefix of its ids, unique on the page.
        title: its name for assistive technology.
        styles: declarations -> class; those of this picture are added.

    Raises:
        ValueError: the numbers of marks and tooltips of an artist differ.
    """
    root = ElementTree.fromstring(NOT_IN_XML.sub("\ufffd", svg))
    for child in [child for child in root if child.tag == _tag("metadata") or child.find(_tag("style")) is not None]:
        root.remove(child)
    for group in list(root.iter(_tag("g"))):
        if group.get("id", "").startswith(MARKS):
            drawn = list(group.iter(_tag("use"))) or list(group.iter(_tag("path")))  # uses of a marker, else lines or shapes
            for mark, tip in zip(drawn, json.loads(group.attrib["id"][len(MARKS) :]), strict=True):
                if tip:
                    mark.attrib.update(role="img", tabindex="0")
                    ElementTree.SubElement(mark, _tag("title")).text = tip
    _rename(root, name)
    for element in root.iter():
        _shorten(element, styles)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "group", "aria-label": title}
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    return ElementTree.tostring(root, encoding="unicode")


def _tag(name: str) -> str:
    return f"{{{SVG}}}{name}"


def _rename(root: ElementTree.Element, name: str) -> None:
    """Rename ids that are referred to so that they are unique on the page, and drop the others."""
    names: dict[str, str] = {}
    for element in root.iter():
        for key, pattern in ((HREF, "#{}"), ("clip-path", "url(#{})")):
            if key in element.attrib:
                before = element.attrib[key].removeprefix("url(").strip("#)")
                element.set(key, pattern.format(names.setdefault(before, f"{name}-{len(names)}")))
    for element in root.iter():
        before = element.attrib.pop("id", None)
        if before in names:
            element.set("id", names[before])


def _shorten(element: ElementTree.Element, styles: MutableMapping[str, str]) -> None:
    """Turn the style into a class, round positions to a hundredth of a point, and drop invisible white space."""
    style = element.attrib.pop("style", None)
    if style is not None:
        element.set("class", styles.setdefault(style, f"s{len(styles)}"))
    for key in {"d", "x", "y", "transform"} & element.attrib.keys():
        short = LONG_NUMBER.sub(lambda number: f"{float(number[0]):.2f}", UNTURNED.sub("", element.attrib[key]))
        element.set(key, " ".join(short.split()))
        if not element.attrib[key]:
            del element.attrib[key]
    element.tail = None
    if element.tag not in (_tag("text"), _tag("title")):
        element.text = None
