"""HTML as a tree: writing it escapes every text and attribute."""

from collections.abc import Iterable
from xml.etree.ElementTree import Element, tostring

Child = Element | str


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """Return an element with children in order.

    Args:
        tag: such as ``"table"``; never script or style, whose text HTML does not escape.
        children: elements and texts.
        attributes: their values as text; None leaves an attribute out. A trailing underscore is dropped (``class_``,
            ``for_``), and other underscores become hyphens.

    Example:
        >>> html(element("td", "a < b", class_="number", data_value=0.5))
        '<td class="number" data-value="0.5">a &lt; b</td>'
    """
    assert tag not in ("script", "style")
    named = {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items() if value is not None}
    made = Element(tag, named)
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + child
        else:
            made.text = (made.text or "") + child
    return made


def html(*elements: Element) -> str:
    """Return elements as HTML."""
    return "\n".join(tostring(each, encoding="unicode", method="html") for each in elements)


def section(identifier: str, title: str, *children: Child) -> Element:
    """Return a section with a heading; links to ``#identifier`` lead to it."""
    heading = element("h2", title, id=f"{identifier}-title")
    return element("section", heading, *children, id=identifier, aria_labelledby=f"{identifier}-title")


def table(columns: Iterable[Element], rows: Iterable[Element], **attributes: object) -> Element:
    """Return a table in a box that scrolls with the mouse or the keyboard."""
    body = element(
        "table",
        element("thead", element("tr", *columns)),
        element("tbody", *rows),
        **attributes,
    )
    label = str(attributes.get("aria_label", "table"))
    return element("div", body, class_="scroll", tabindex=0, role="region", aria_label=label)


def number(text: str, **attributes: object) -> Element:
    """Return a table cell with a number."""
    return element("td", text, class_="number", **attributes)
