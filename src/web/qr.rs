//! Owns the drawing of a QR code: an SVG without styles or scripts, because the page's policy allows neither inline.

use std::fmt::Write as _;

use qrcode::{Color, EcLevel, QrCode};

/// Light modules around it, as the standard wants.
const QUIET: usize = 4;

/// The text as a QR code; `None` if it is too long for one.
pub(super) fn svg(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let width = code.width();
    let side = width + 2 * QUIET;
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}" shape-rendering="crispEdges" role="img"><rect width="{side}" height="{side}" fill="#fff"/><path fill="#000" d=""##
    );
    for (y, row) in code.to_colors().chunks(width).enumerate() {
        let mut x = 0;
        while x < width {
            let run = row[x..].iter().take_while(|c| **c == Color::Dark).count();
            if run > 0 {
                // Writing to a string cannot fail.
                let _ = write!(svg, "M{} {}h{run}v1h-{run}z", x + QUIET, y + QUIET);
            }
            x += run.max(1);
        }
    }
    svg.push_str(r#""/></svg>"#);
    Some(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drawing_has_every_dark_module_and_no_style() {
        let text = "2@abcdefghijklmnop,qrstuvwxyz0123456789,ABCDEFGHIJKLMNOP,QRSTUVWXYZ";
        let svg = svg(text).expect("short enough");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>"));
        assert!(!svg.contains("style") && !svg.contains("script") && !svg.contains("<?"));
        let code = QrCode::with_error_correction_level(text, EcLevel::L).expect("short enough");
        let dark = code
            .to_colors()
            .iter()
            .filter(|c| **c == Color::Dark)
            .count();
        let drawn: usize = svg
            .split('h')
            .skip(1)
            .filter_map(|piece| piece.split_once('v'))
            .filter_map(|(run, _)| run.parse::<usize>().ok())
            .sum();
        assert_eq!(drawn, dark);
    }

    #[test]
    fn a_text_too_long_for_a_code_is_not_drawn() {
        assert_eq!(svg(&"x".repeat(5000)), None);
    }
}
