//! Drawings of what leads to what.

use std::collections::{BTreeMap, BTreeSet};

use layout::backends::svg::SVGWriter;
pub use layout::core::base::Orientation;
use layout::core::color::Color;
use layout::core::geometry::Point;
use layout::core::style::StyleAttr;
use layout::std_shapes::shapes::{Arrow, Element, ShapeKind};
use layout::topo::layout::VisualGraph;

const LINE: u32 = 0x3344_55FF;
const FONT: usize = 15;
const HEIGHT: f64 = 36.0;
/// What a letter takes, and what is left at both ends of a name.
const LETTER: f64 = 9.0;
const MARGIN: f64 = 28.0;

/// What leads to what, by name.
pub type Edges = BTreeSet<(String, String)>;

/// The names that can be reached from `start` over at least one of `edges`.
fn reachable<'e>(edges: &'e Edges, start: &str) -> BTreeSet<&'e str> {
    let mut found = BTreeSet::new();
    let mut next = vec![start];
    while let Some(from) = next.pop() {
        let to = edges.iter().filter(|(edge, _)| edge == from).map(|(_, to)| to.as_str());
        next.extend(to.filter(|to| found.insert(*to)).collect::<Vec<_>>());
    }
    found
}

/// The edges without those that follow from others. There must be no way back to where one came from.
pub fn without_shortcuts(edges: &Edges) -> Edges {
    let follows = |(from, to): &(String, String)| {
        let others = edges.iter().filter(|(start, via)| start == from && via != to);
        others.into_iter().any(|(_, via)| reachable(edges, via).contains(to.as_str()))
    };
    edges.iter().filter(|edge| !follows(edge)).cloned().collect()
}

/// A picture of boxes, each with its colour as RGBA, and of arrows between them.
pub fn svg(boxes: &[(String, u32)], edges: &Edges, direction: Orientation) -> String {
    let mut graph = VisualGraph::new(direction);
    let mut handles = BTreeMap::new();
    for (name, fill) in boxes {
        let style = StyleAttr::new(Color::new(LINE), 1, Some(Color::new(*fill)), 6, FONT);
        let letters = u32::try_from(name.chars().count()).map_or(0.0, f64::from);
        let size = Point::new(letters.mul_add(LETTER, MARGIN), HEIGHT);
        let element = Element::create(ShapeKind::new_box(name), style, Orientation::LeftToRight, size);
        handles.insert(name.as_str(), graph.add_node(element));
    }
    for (from, to) in edges {
        if let (Some(from), Some(to)) = (handles.get(from.as_str()), handles.get(to.as_str())) {
            graph.add_edge(Arrow::simple(""), *from, *to);
        }
    }
    let mut writer = SVGWriter::new();
    graph.do_it(false, false, false, &mut writer);
    // Readable on a dark page too, and in the page's own kind of letters.
    let background = "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<defs>";
    let picture = writer.finalize().replacen("<defs>", background, 1).replace("Times, serif", "sans-serif");
    let lines: Vec<_> = picture.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::{Edges, Orientation, svg, without_shortcuts};

    fn edges(names: &[(&str, &str)]) -> Edges {
        names.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
    }

    #[test]
    fn what_follows_from_others_is_left_out() {
        let all = edges(&[("a", "b"), ("b", "c"), ("a", "c"), ("a", "d"), ("c", "d")]);

        assert_eq!(without_shortcuts(&all), edges(&[("a", "b"), ("b", "c"), ("c", "d")]));
    }

    #[test]
    fn every_box_and_every_arrow_is_in_the_picture_and_always_in_the_same_place() {
        let boxes = ["one", "two", "three"].map(|name| (name.to_owned(), 0xFFFF_FFFF));
        let arrows = edges(&[("one", "two"), ("one", "three")]);

        let picture = svg(&boxes, &arrows, Orientation::TopToBottom);

        assert!(boxes.iter().all(|(name, _)| picture.contains(&format!(">{name}<"))), "{picture}");
        assert_eq!(picture.matches("<path").count(), 2, "{picture}");
        assert_eq!(svg(&boxes, &arrows, Orientation::TopToBottom), picture);
    }
}
