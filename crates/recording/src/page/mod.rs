//! A recording as one HTML page that needs nothing else: its charts are drawn by Apache `ECharts`, which is in the page, and its policy lets it
//! load nothing.

mod model;

use std::fmt::Write;

use crate::Recording;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// What draws, in order; the library first.
const SCRIPTS: [&str; 5] = [
    include_str!("../../vendor/echarts/echarts.min.js"),
    include_str!("common.js"),
    include_str!("timeline.js"),
    include_str!("charts.js"),
    include_str!("events.js"),
];
/// What the library's licences ask to be kept with it.
const LICENCES: [(&str, &str); 4] = [
    ("Apache ECharts", include_str!("../../vendor/echarts/NOTICE")),
    ("Apache ECharts, licence", include_str!("../../vendor/echarts/LICENSE")),
    ("d3, of which Apache ECharts has parts", include_str!("../../vendor/echarts/LICENSE-d3")),
    ("zrender, which Apache ECharts draws with", include_str!("../../vendor/echarts/LICENSE-zrender")),
];

/// The page.
#[must_use]
pub fn html(recording: &Recording) -> String {
    let data = serde_json::to_string(&model::Page::new(recording)).unwrap_or_else(|error| {
        // Numbers, texts and lists of them are always JSON.
        unreachable!("the page's data is no JSON: {error}")
    });
    let scripts = SCRIPTS.iter().fold(String::new(), |mut all, script| {
        let _ = write!(all, "<script>\n{script}\n</script>\n");
        all
    });
    let licences = LICENCES.iter().fold(String::new(), |mut all, (name, text)| {
        let _ = write!(all, "<h3>{name}</h3><pre>{}</pre>", escaped(text));
        all
    });
    // The data last, so that nothing in it is taken for a place to fill.
    [("STYLE", STYLE), ("SCRIPTS", &scripts), ("LICENCES", &licences), ("DATA", &data.replace('<', "\\u003c"))]
        .into_iter()
        .fold(TEMPLATE.to_owned(), |page, (place, text)| page.replacen(&format!("{{{{{place}}}}}"), text, 1))
}

/// Text that stays text in HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Origin, Snapshot};

    fn page(computer: &str) -> String {
        let mut recording = Recording::begin(Origin::Windows { computer: computer.to_owned() }, Snapshot::default());
        recording.snapshots.push(Snapshot::default());
        html(&recording)
    }

    #[test]
    fn a_page_has_everything_in_it_and_no_place_is_left_empty() {
        let page = page("lab7");
        for part in
            ["<!doctype html>", "prefers-color-scheme", "echarts", "lab7", "The Apache Software Foundation", "Baidu"]
        {
            assert!(page.contains(part), "{part}");
        }
        for place in ["STYLE", "SCRIPTS", "LICENCES", "DATA"] {
            assert!(!page.contains(&format!("{{{{{place}}}}}")), "{place}");
        }
    }

    #[test]
    fn no_name_in_a_recording_can_end_the_data() {
        let page = page("</script><script>alert(1)</script>{{STYLE}}");
        assert!(!page.contains("alert(1)</script>"));
        assert!(page.contains(r"\u003c/script>\u003cscript>alert(1)\u003c/script>{{STYLE}}"));
    }
}
