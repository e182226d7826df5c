//! A cost against a size as a small picture in SVG: the size in doublings, the cost from zero.

use std::fmt::Write;

/// One line of a picture.
pub(crate) struct Curve {
    /// What it is.
    pub(crate) name: String,
    /// Size and cost, in ascending order of sizes, of which none is zero.
    pub(crate) points: Vec<(u32, u64)>,
}

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 96.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 48.0;
/// Lines of the grid above zero, at the most.
const GRID: u64 = 5;
/// One colour and one dash pattern for each curve, as not everybody sees colours.
const STYLES: [(&str, &str); 4] = [
    ("#1f5fa8", "none"),
    ("#c2571a", "6 3"),
    ("#3a7d34", "2 3"),
    ("#7a3f98", "8 3 2 3"),
];

/// A step of the grid: 1, 2 or 5 times a power of ten, so that [`GRID`] of them reach `most`.
fn step(most: u64) -> u64 {
    let powers = (0..18).map(|power| 10_u64.pow(power));
    let mut steps = powers.flat_map(|power| [1, 2, 5].map(|digit| digit * power));
    steps.find(|step| step * GRID >= most).unwrap_or(u64::MAX)
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The picture.
pub(crate) fn svg(title: &str, unit: &str, curves: &[Curve]) -> String {
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let step = step(all().map(|point| point.1).max().unwrap_or(1));
    let most = step * GRID;
    let doublings = |size: u32| f64::from(size.max(1)).log2();
    let first = all().map(|point| doublings(point.0)).fold(f64::INFINITY, f64::min);
    let last = all().map(|point| doublings(point.0)).fold(first + 1.0, f64::max);
    let x = |size: u32| LEFT + (WIDTH - LEFT - RIGHT) * (doublings(size) - first) / (last - first);
    let y = |cost: u64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * cost as f64 / most as f64;
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n<title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{title}</text>\n",
        title = escaped(title)
    );
    // Writing to a string does not fail.
    let mut put = |text: std::fmt::Arguments<'_>| picture.write_fmt(text).unwrap_or_default();
    let (left, right, bottom) = (LEFT, WIDTH - RIGHT, HEIGHT - BOTTOM);
    for cost in (0..=GRID).map(|line| line * step) {
        let (y, colour) = (y(cost), if cost == 0 { "#222" } else { "#ddd" });
        put(format_args!(
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"{colour}\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n",
            left - 6.0,
            y + 4.0,
            with_commas(cost)
        ));
    }
    let mut sizes: Vec<u32> = all().map(|point| point.0).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for size in sizes {
        let x = x(size);
        put(format_args!(
            "<path d=\"M{x:.1} {bottom}v5\" stroke=\"#222\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            bottom + 18.0,
            with_commas(size.into())
        ));
    }
    put(format_args!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
        (left + right) / 2.0,
        HEIGHT - 10.0,
        escaped(unit)
    ));
    put(format_args!(
        "<text x=\"14\" y=\"{:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {:.1})\">instructions</text>\n",
        (TOP + bottom) / 2.0,
        (TOP + bottom) / 2.0
    ));
    // Names of curves that end at about the same cost stand below each other.
    let mut above = f64::NEG_INFINITY;
    let mut order: Vec<(usize, &Curve)> = curves
        .iter()
        .enumerate()
        .filter(|(_, curve)| !curve.points.is_empty())
        .collect();
    order.sort_by_key(|(_, curve)| std::cmp::Reverse(curve.points.last().map(|point| point.1)));
    for (index, curve) in order {
        let (colour, dashes) = STYLES[index % STYLES.len()];
        let mut path = String::new();
        for (place, (size, cost)) in curve.points.iter().enumerate() {
            let command = if place == 0 { 'M' } else { 'L' };
            path.push_str(&format!("{command}{:.1} {:.1}", x(*size), y(*cost)));
            put(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"><title>{} at {}</title></circle>\n",
                x(*size),
                y(*cost),
                with_commas(*cost),
                with_commas((*size).into())
            ));
        }
        put(format_args!(
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-dasharray=\"{dashes}\"/>\n"
        ));
        let end = curve.points.last().map_or(0, |point| point.1);
        let at = (y(end) + 4.0).max(above + 15.0);
        above = at;
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{at:.1}\" fill=\"{colour}\">{}: {}</text>\n",
            right + 8.0,
            escaped(&curve.name),
            with_commas(end)
        ));
    }
    picture.push_str("</svg>\n");
    picture
}

#[cfg(test)]
mod tests {
    use super::{Curve, GRID, step, svg, with_commas};

    #[test]
    fn the_grid_reaches_every_cost_in_round_steps() {
        for (most, wanted) in [
            (0, 1),
            (1, 1),
            (5, 1),
            (6, 2),
            (554, 200),
            (5_892, 2_000),
            (10_001, 5_000),
        ] {
            assert_eq!(step(most), wanted, "{most}");
            assert!(step(most) * GRID >= most);
        }
    }

    #[test]
    fn numbers_have_commas() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (6_487_369, "6,487,369")] {
            assert_eq!(with_commas(number), text);
        }
    }

    #[test]
    fn every_size_every_name_and_every_point_is_in_the_picture() {
        let curve = |name: &str, end| Curve {
            name: name.into(),
            points: vec![(1, 500), (64, 520), (1_023, end)],
        };
        let picture = svg(
            "send & deliver",
            "ports <of one domain>",
            &[curve("GICv3", 530), curve("GICv2", 531)],
        );
        for part in [
            "send &amp; deliver",
            "ports &lt;of",
            ">1,023<",
            ">64<",
            "GICv3: 530",
            "GICv2: 531",
        ] {
            assert!(picture.contains(part), "{part}");
        }
        assert_eq!(picture.matches("<circle").count(), 6);
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
        // One size, and none at all, are pictures too.
        let one = Curve {
            name: "GICv3".into(),
            points: vec![(1, 0)],
        };
        for curves in [vec![one], Vec::new()] {
            let picture = svg("t", "u", &curves);
            assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
        }
    }
}
