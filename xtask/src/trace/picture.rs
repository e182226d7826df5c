//! The story as a picture: a lane for each vCPU and each pCPU, time from left to right, arrows from causes to effects.
//!
//! Plain SVG: no script, no font of its own, nothing from elsewhere; what is small has a `<title>` that viewers show.

use std::collections::BTreeMap;
use std::fmt::Write;

use portunus::ids::{DomainId, VcpuId};
use portunus::trace::Kind;

use super::names;
use super::story::{Arrow, Cause, Mark, Span, State, Story, Window};

const WIDTH: f64 = 1400.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 84.0;
const LANE: f64 = 46.0;
const BAR: f64 = 24.0;
const PCPU_LANE: f64 = 26.0;
const PCPU_BAR: f64 = 14.0;
const LEGEND: f64 = 62.0;
/// Letters are about this wide.
const LETTER: f64 = 6.3;
/// Steps of the time axis, at most.
const STEPS: u64 = 10;

const PALETTE: [&str; 8] = [
    "#4c78a8", "#e8912d", "#54a24b", "#b279a2", "#d1605e", "#499894", "#9d755d", "#c4a000",
];
const READY: &str = "#f6d776";
const ASLEEP: &str = "#c9ccd1";

fn colour(domain: DomainId) -> &'static str {
    PALETTE[usize::from(domain.0.wrapping_sub(1)) % PALETTE.len()]
}

fn arrow_colour(cause: Cause) -> &'static str {
    match cause {
        Cause::Request => "#1f2328",
        Cause::Answer => "#1a7f37",
        Cause::Doorbell => "#8250df",
        Cause::Interrupt => "#cf222e",
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Where times are in the picture.
struct Scale {
    window: Window,
}

impl Scale {
    fn x(&self, at: u64) -> f64 {
        let at = at.clamp(self.window.start, self.window.end) - self.window.start;
        LEFT + at as f64 / self.window.length().max(1) as f64 * (WIDTH - LEFT - RIGHT)
    }

    /// Left end and width of what is seen of a span.
    fn part<S>(&self, span: &Span<S>) -> Option<(f64, f64)> {
        if span.end <= self.window.start || span.start >= self.window.end {
            return None;
        }
        let (left, right) = (self.x(span.start), self.x(span.end));
        Some((left, (right - left).max(0.6)))
    }
}

/// A round number of nanoseconds, so that the axis has [`STEPS`] of them at most.
fn step(length: u64) -> u64 {
    let units = (0..u64::MAX.ilog10()).map(|digits| 10_u64.pow(digits));
    let mut steps = units.flat_map(|unit| [unit, 2 * unit, 5 * unit]);
    steps.find(|step| length / step <= STEPS).unwrap_or(u64::MAX)
}

/// The part of the story in `window`.
pub(super) fn draw(story: &Story, window: Window) -> String {
    let scale = Scale { window };
    let mut lanes = BTreeMap::new();
    for (index, vcpu) in story.vcpus.keys().enumerate() {
        lanes.insert(*vcpu, TOP + index as f64 * LANE + LANE / 2.0);
    }
    let pcpus_at = TOP + lanes.len() as f64 * LANE + 10.0;
    let bottom = pcpus_at + story.pcpus.len() as f64 * PCPU_LANE + 6.0;
    let height = bottom + LEGEND;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#1f2328\">\n"
    );
    head(&mut out, story, window);
    axis(&mut out, &scale, bottom);
    for (vcpu, middle) in &lanes {
        lane(&mut out, story, &scale, *vcpu, *middle);
    }
    for (index, (pcpu, spans)) in story.pcpus.iter().enumerate() {
        let middle = pcpus_at + (index as f64 + 0.5) * PCPU_LANE;
        pcpu_lane(&mut out, story, &scale, *pcpu, spans, middle);
    }
    for mark in story.marks.iter().filter(|mark| window.has(mark.at)) {
        if let Some(middle) = mark.event.vcpu.and_then(|vcpu| lanes.get(&vcpu)) {
            glyph(&mut out, &scale, mark, *middle);
        }
    }
    for arrow in &story.arrows {
        draw_arrow(&mut out, story, &scale, &lanes, arrow);
    }
    legend(&mut out, story, bottom);
    out.push_str("</svg>\n");
    out
}

fn text(out: &mut String, x: f64, y: f64, more: &str, words: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\"{more}>{}</text>", escape(words));
}

fn head(out: &mut String, story: &Story, window: Window) {
    let _ = writeln!(out, "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>");
    out.push_str("<defs>\n");
    for cause in Cause::ALL {
        let _ = writeln!(
            out,
            "<marker id=\"{}\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" \
             orient=\"auto\"><path d=\"M0 0.5 L8 4 L0 7.5 z\" fill=\"{}\"/></marker>",
            cause.name(),
            arrow_colour(cause)
        );
    }
    let absent = (DomainId(0), "#8b949e");
    let domains = story.vcpus.keys().map(|vcpu| (vcpu.domain, colour(vcpu.domain)));
    let mut patterns: BTreeMap<DomainId, &str> = domains.collect();
    patterns.insert(absent.0, absent.1);
    for (domain, colour) in patterns {
        let _ = writeln!(
            out,
            "<pattern id=\"waits{}\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
             patternTransform=\"rotate(45)\"><rect width=\"6\" height=\"6\" fill=\"#ffffff\"/><rect width=\"2.2\" \
             height=\"6\" fill=\"{colour}\" opacity=\"0.6\"/></pattern>",
            domain.0
        );
    }
    out.push_str("</defs>\n");
    text(
        out,
        14.0,
        26.0,
        " font-size=\"17\" font-weight=\"bold\"",
        "Who waits for whom",
    );
    let words = format!(
        "{} long, from {} after the first event of the trace on; {} events",
        duration(window.length()),
        duration(window.start),
        story.events_in(window)
    );
    text(out, 14.0, 45.0, " fill=\"#57606a\"", &words);
}

/// A time in the unit that fits.
fn duration(nanoseconds: u64) -> String {
    let value = nanoseconds as f64;
    if nanoseconds >= 1_000_000_000 {
        format!("{:.3} s", value / 1e9)
    } else if nanoseconds >= 10_000_000 {
        format!("{:.1} ms", value / 1e6)
    } else {
        format!("{:.1} us", value / 1e3)
    }
}

fn axis(out: &mut String, scale: &Scale, bottom: f64) {
    let step = step(scale.window.length());
    for at in (0..=STEPS).map_while(|index| index.checked_mul(step)) {
        if at > scale.window.length() {
            break;
        }
        let x = scale.x(scale.window.start + at);
        let _ = writeln!(
            out,
            "<line x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\" stroke=\"#e3e6ea\"/>",
            TOP - 8.0
        );
        let microseconds = at as f64 / 1e3;
        let words = if step.is_multiple_of(1000) {
            format!("{microseconds:.0}")
        } else {
            format!("{microseconds:.2}")
        };
        text(
            out,
            x,
            TOP - 12.0,
            " text-anchor=\"middle\" fill=\"#57606a\" font-size=\"11\"",
            &words,
        );
    }
    text(
        out,
        LEFT - 34.0,
        TOP - 12.0,
        " text-anchor=\"end\" fill=\"#57606a\" font-size=\"11\"",
        "time in us",
    );
}

fn bar(out: &mut String, (x, width): (f64, f64), middle: f64, height: f64, fill: &str, title: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{x:.2}\" y=\"{:.1}\" width=\"{width:.2}\" height=\"{height}\" fill=\"{fill}\"><title>{}</title></rect>",
        middle - height / 2.0,
        escape(title)
    );
}

/// Words in the middle of a bar, if there is room.
fn label(out: &mut String, (x, width): (f64, f64), middle: f64, style: &str, words: &str) {
    if words.len() as f64 * LETTER + 8.0 <= width {
        let style = format!(" text-anchor=\"middle\" font-size=\"11\" {style}");
        text(out, x + width / 2.0, middle + 4.0, &style, words);
    }
}

fn lane(out: &mut String, story: &Story, scale: &Scale, vcpu: VcpuId, middle: f64) {
    let name = story.vcpu_name(vcpu);
    let style = format!(
        " text-anchor=\"end\" font-weight=\"bold\" fill=\"{}\"",
        colour(vcpu.domain)
    );
    text(out, LEFT - 12.0, middle + 4.0, &style, &name);
    for span in story.vcpus.get(&vcpu).into_iter().flatten() {
        let Some(part) = scale.part(span) else { continue };
        let took = duration(span.end - span.start);
        // What is written on hatching stands on white.
        let on_white = "stroke=\"#ffffff\" stroke-width=\"4\" paint-order=\"stroke\"";
        match span.state {
            State::Runs(pcpu) => {
                let title = format!("{name} runs on pCPU {pcpu}, {took}");
                bar(out, part, middle, BAR, colour(vcpu.domain), &title);
                label(out, part, middle, "fill=\"#ffffff\"", "runs");
            }
            State::Ready => {
                bar(out, part, middle, BAR, READY, &format!("{name} is ready, {took}"));
                label(out, part, middle, "", "ready");
            }
            State::Sleeps => bar(out, part, middle, 3.0, ASLEEP, &format!("{name} sleeps, {took}")),
            State::Waits(backend) => {
                let whom = backend.map_or("a server".into(), |backend| story.rings.name(backend));
                let fill = format!("url(#waits{})", backend.map_or(0, |backend| backend.0));
                bar(
                    out,
                    part,
                    middle,
                    BAR,
                    &fill,
                    &format!("{name} waits for {whom}, {took}"),
                );
                label(out, part, middle, on_white, &format!("waits for {whom}"));
            }
        }
    }
}

fn pcpu_lane(out: &mut String, story: &Story, scale: &Scale, pcpu: u8, spans: &[Span<Option<VcpuId>>], middle: f64) {
    let style = " text-anchor=\"end\" fill=\"#57606a\"";
    text(out, LEFT - 12.0, middle + 4.0, style, &format!("pCPU {pcpu}"));
    for span in spans {
        let Some(part) = scale.part(span) else { continue };
        let took = duration(span.end - span.start);
        match span.state {
            Some(vcpu) => {
                let name = story.vcpu_name(vcpu);
                let title = format!("pCPU {pcpu} has {name}, {took}");
                bar(out, part, middle, PCPU_BAR, colour(vcpu.domain), &title);
                label(out, part, middle, "fill=\"#ffffff\"", &story.rings.name(vcpu.domain));
            }
            None => bar(out, part, middle, 2.0, ASLEEP, &format!("pCPU {pcpu} is idle, {took}")),
        }
    }
}

/// An event on its vCPU's lane; what arrows and states show already, is not shown again.
fn glyph(out: &mut String, scale: &Scale, mark: &Mark, middle: f64) {
    let x = scale.x(mark.at);
    let (upper, lower) = (middle - BAR / 2.0, middle + BAR / 2.0);
    let (path, fill) = match mark.event.kind {
        Kind::Injected => (
            format!("M{:.1} {:.1} h7 l-3.5 6 z", x - 3.5, upper - 7.0),
            arrow_colour(Cause::Interrupt),
        ),
        Kind::Doorbell => (
            format!("M{x:.1} {:.1} l4 4 l-4 4 l-4 -4 z", lower),
            arrow_colour(Cause::Doorbell),
        ),
        Kind::Buffered => (format!("M{:.1} {lower:.1} h6 v6 h-6 z", x - 3.0), "#57606a"),
        Kind::Acknowledged => (
            format!("M{x:.1} {lower:.1} a3 3 0 1 0 0.1 0 z"),
            arrow_colour(Cause::Answer),
        ),
        Kind::Denied | Kind::Failed => (
            format!(
                "M{:.1} {:.1} l4 4 l4 -4 l2 2 l-4 4 l4 4 l-2 2 l-4 -4 l-4 4 l-2 -2 l4 -4 l-4 -4 z",
                x - 4.0,
                middle - 6.0
            ),
            "#cf222e",
        ),
        Kind::Trap | Kind::Hypercall | Kind::Firmware => {
            (format!("M{:.1} {lower:.1} h1.2 v5 h-1.2 z", x - 0.6), "#57606a")
        }
        _ => return,
    };
    let _ = writeln!(
        out,
        "<path d=\"{path}\" fill=\"{fill}\"><title>{} at {}</title></path>",
        escape(&names::name(&mark.event)),
        duration(mark.at.saturating_sub(scale.window.start))
    );
}

fn draw_arrow(out: &mut String, story: &Story, scale: &Scale, lanes: &BTreeMap<VcpuId, f64>, arrow: &Arrow) {
    let ((from, start), (to, end)) = (arrow.from, arrow.to);
    let (Some(from_y), Some(to_y)) = (lanes.get(&from), lanes.get(&to)) else {
        return;
    };
    if !scale.window.has(start) || !scale.window.has(end) {
        return;
    }
    let side = if to_y > from_y { BAR / 2.0 } else { -BAR / 2.0 };
    let _ = writeln!(
        out,
        "<line x1=\"{:.2}\" y1=\"{:.1}\" x2=\"{:.2}\" y2=\"{:.1}\" stroke=\"{}\" stroke-width=\"1.4\" \
         marker-end=\"url(#{})\"><title>{}: {} to {}, {}</title></line>",
        scale.x(start),
        from_y + side,
        scale.x(end),
        to_y - side,
        arrow_colour(arrow.cause),
        arrow.cause.name(),
        arrow.cause.name(),
        escape(&story.vcpu_name(from)),
        escape(&story.vcpu_name(to)),
        duration(end.saturating_sub(start))
    );
}

fn legend(out: &mut String, story: &Story, bottom: f64) {
    let mut x = LEFT;
    let y = bottom + 22.0;
    let some = story.vcpus.keys().next().map_or(DomainId(1), |vcpu| vcpu.domain);
    let waits = format!("url(#waits{})", some.0);
    for (fill, height, words) in [
        (colour(some), 14.0, "runs (a colour for each domain)"),
        (waits.as_str(), 14.0, "waits for the domain of that colour"),
        (READY, 14.0, "ready, another runs"),
        (ASLEEP, 3.0, "sleeps"),
    ] {
        bar(out, (x, 26.0), y, height, fill, words);
        text(out, x + 32.0, y + 4.0, "", words);
        x += 32.0 + words.len() as f64 * LETTER + 22.0;
    }
    let (mut x, y) = (LEFT, bottom + 44.0);
    for cause in Cause::ALL {
        let _ = writeln!(
            out,
            "<line x1=\"{x}\" y1=\"{y}\" x2=\"{}\" y2=\"{y}\" stroke=\"{}\" stroke-width=\"1.4\" marker-end=\"url(#{})\"/>",
            x + 26.0,
            arrow_colour(cause),
            cause.name()
        );
        text(out, x + 32.0, y + 4.0, "", cause.name());
        x += 32.0 + cause.name().len() as f64 * LETTER + 22.0;
    }
    for (path, fill, words) in [
        ("h7 l-3.5 6 z", arrow_colour(Cause::Interrupt), "interrupt given"),
        (
            "m4 -2 l4 4 l-4 4 l-4 -4 z",
            arrow_colour(Cause::Doorbell),
            "doorbell rung",
        ),
        ("h6 v6 h-6 z", "#57606a", "write buffered"),
        (
            "m4 0 a3 3 0 1 0 0.1 0 z",
            arrow_colour(Cause::Answer),
            "interrupt acknowledged",
        ),
        ("m3 0 h1.2 v6 h-1.2 z", "#57606a", "trap or call"),
        (
            "l4 4 l4 -4 l1 1 l-4 4 l4 4 l-1 1 l-4 -4 l-4 4 l-1 -1 l4 -4 l-4 -4 z",
            "#cf222e",
            "denied or failed",
        ),
    ] {
        let _ = writeln!(out, "<path d=\"M{x} {} {path}\" fill=\"{fill}\"/>", y - 3.0);
        text(out, x + 14.0, y + 4.0, "", words);
        x += 14.0 + words.len() as f64 * LETTER + 18.0;
    }
}
