//! The dashboard: one page with its style and scripts in it, so that it works without any
//! other server. Its parts are files of their own beside this one; `mqtt.js` is tested alone.

pub(super) const PAGE: &str = concat!(
    include_str!("dashboard/page.html"),
    include_str!("dashboard/style.css"),
    include_str!("dashboard/body.html"),
    include_str!("dashboard/mqtt.js"),
    include_str!("dashboard/plot.js"),
    include_str!("dashboard/app.js"),
    include_str!("dashboard/end.html"),
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        let remote = PAGE.match_indices("http").map(|(at, _)| &PAGE[at..(at + 17).min(PAGE.len())]);
        let remote = remote.filter(|text| text.contains("://"));
        // The name of SVG, which nobody fetches.
        let others: Vec<&str> = remote.filter(|text| *text != "http://www.w3.org").collect();
        assert_eq!(others, Vec::<&str>::new());
        assert!(!PAGE.contains("<script src") && !PAGE.contains("@import"));
    }
}
