"""Charts are text and colours of the page, and a class has one colour wherever it is drawn."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from detection.utils.drawing import Box, BoxPainter, class_color
from detection.workshop.reports.charts import heat_map, histogram, lines
from detection.workshop.reports.page import PageBox, picture, swatch

EVIL = "종이 <$a$> \ud800"
TICKS = [(0, "0"), (2, "2")]


def make_histogram() -> str:
    series = {EVIL: np.array([1, 3]), "val": np.array([2, 2])}
    edges = np.array([0.0, 1.0, 2.0])
    return histogram("종이: 4", edges, series, TICKS, "종이 폭", "images", [(1, "½")], "images")


def make_heat_map() -> str:
    return heat_map(
        *("종이: 4", np.array([[0, 1], [2, 1]]), (0, 2, 0, 2), TICKS, TICKS, "종이 폭", ""),
        marks=[(1, 1, EVIL)],
    )


def make_lines() -> str:
    series = {EVIL: (np.arange(3), np.array([1, np.nan, 2])), "mean": (np.arange(3), np.ones(3))}
    return lines("종이: 4", series, TICKS, TICKS, "종이 폭", "loss", is_named=True)


@pytest.mark.parametrize("make", [make_histogram, make_heat_map, make_lines])
def test_a_chart_is_text_in_the_colours_of_the_page(make, recwarn):
    chart = make()
    assert chart == make()
    assert not recwarn.list
    svg = ElementTree.fromstring(
        chart.encode("utf-8", "replace").decode().replace("xlink:href", "href")
    )
    assert svg.attrib["aria-label"] == "종이: 4" and svg.attrib["role"] == "img"
    texts = ["".join(e.itertext()) for e in svg.iter() if e.tag == "text"]
    assert {"종이 폭", "0", "2"} <= set(texts)
    titles = [e.text for e in svg.iter() if e.tag == "title"]
    assert any(title.startswith("종이 <$a$>") for title in titles)
    # what is drawn follows light and dark
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", chart)) <= {
        "none",
        *(f"var(--{name})" for name in ("accent", "ink", "muted", "line", "mark")),
    }
    assert "font-family" not in chart and "url(" not in chart and "<style" not in chart


def test_bars_and_lines_are_where_their_values_are():
    chart = make_histogram()
    heights = [
        float(bottom) - float(top)
        for bottom, top in re.findall(r"<path d=\"M \S+ (\S+) \nL \S+ \S+ \nL \S+ (\S+) ", chart)
    ]
    assert any(abs(high / low - 3) < 0.01 for low in heights if low for high in heights)
    assert "75.0%" in chart and "25.0%" in chart


@pytest.mark.parametrize("label", [0, 3, 8, 40])
def test_a_class_has_one_colour_in_pictures_and_on_pages(label):
    color = class_color(label)
    css = "#{:02x}{:02x}{:02x}".format(*color)
    page_box = PageBox(label, (10, 10, 30, 30), "name")
    assert f'stroke="{css}"' in picture(None, (60, 60), [page_box], "") and css in swatch(label)
    painter = BoxPainter([f"c{k}" for k in range(41)])
    drawn = painter.draw(np.full((60, 60, 3), 77, np.uint8), [Box(label, (10, 10, 40, 40))])
    assert (drawn == color).all(axis=2).sum() > 100
    assert len({class_color(k) for k in range(63)}) == 63
