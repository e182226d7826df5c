//! Trace events as Perfetto and chrome://tracing read them (Trace Event Format, JSON object form).
//!
//! A process is a domain and a thread a vCPU; the process `pCPUs` has a thread for each pCPU. Complete events (`X`) say what
//! a vCPU did, instants (`i`) are events, flows (`s`, `f`) go from a request to its service and back.

use std::collections::BTreeMap;

use portunus::ids::VcpuId;
use portunus::trace::Kind;
use serde_json::{Value, json};

use super::names;
use super::story::{State, Story, Window};
use crate::failure::{Doing, Result, failed};

/// The process of the pCPUs' tracks; domains have their numbers.
const PCPUS: u64 = 1000;

/// Microseconds, as the format wants them.
fn microseconds(nanoseconds: u64) -> Value {
    json!(nanoseconds as f64 / 1e3)
}

fn place(vcpu: VcpuId) -> (u64, u64) {
    (vcpu.domain.0.into(), vcpu.index.into())
}

/// The part of the story in `window` as JSON.
pub(super) fn write(story: &Story, window: Window) -> Result<String> {
    let mut events = Vec::new();
    let clip = |start: u64, end: u64| {
        let (start, end) = (start.max(window.start), end.min(window.end));
        (end > start).then_some((start, end))
    };
    let slice = |name: String, category: &str, (process, thread): (u64, u64), (start, end): (u64, u64)| {
        let entry = json!({
            "ph": "X", "name": name, "cat": category, "pid": process, "tid": thread,
            "ts": microseconds(start), "dur": microseconds(end - start),
        });
        (start, entry)
    };
    for (vcpu, spans) in &story.vcpus {
        for span in spans {
            let (name, category) = match span.state {
                State::Runs(pcpu) => (format!("runs on pCPU {pcpu}"), "runs"),
                State::Ready => ("ready".into(), "ready"),
                State::Sleeps => ("sleeps".into(), "sleeps"),
                State::Waits(Some(backend)) => (format!("waits for {}", story.rings.name(backend)), "waits"),
                State::Waits(None) => ("waits for a server".into(), "waits"),
            };
            events.extend(clip(span.start, span.end).map(|clipped| slice(name, category, place(*vcpu), clipped)));
        }
    }
    for (pcpu, spans) in &story.pcpus {
        for span in spans {
            let name = span.state.map_or("idle".into(), |vcpu| story.vcpu_name(vcpu));
            let category = if span.state.is_some() { "pcpu" } else { "idle" };
            let place = (PCPUS, u64::from(*pcpu));
            events.extend(clip(span.start, span.end).map(|clipped| slice(name, category, place, clipped)));
        }
    }
    for mark in story.marks.iter().filter(|mark| window.has(mark.at)) {
        let on_pcpu = matches!(mark.event.kind, Kind::Interrupt | Kind::Idle | Kind::Switched);
        let (process, thread) = match mark.event.vcpu {
            Some(vcpu) if !on_pcpu => place(vcpu),
            _ => (PCPUS, u64::from(mark.pcpu)),
        };
        let name = match (mark.event.kind, mark.event.vcpu) {
            (Kind::Switched, Some(vcpu)) => format!("switch to {}", story.vcpu_name(vcpu)),
            _ => names::name(&mark.event),
        };
        let entry = json!({
            "ph": "i", "s": "t", "name": name, "cat": mark.event.kind.name(),
            "pid": process, "tid": thread, "ts": microseconds(mark.at),
            "args": { "event": mark.event.to_string(), "pcpu": mark.pcpu },
        });
        events.push((mark.at, entry));
    }
    let shown = |arrow: &&super::story::Arrow| window.has(arrow.from.1) && window.has(arrow.to.1);
    for (id, arrow) in story.arrows.iter().filter(shown).enumerate() {
        for (phase, (vcpu, at)) in [("s", arrow.from), ("f", arrow.to)] {
            let (process, thread) = place(vcpu);
            let mut entry = json!({
                "ph": phase, "id": id + 1, "name": arrow.cause.name(), "cat": "flow",
                "pid": process, "tid": thread, "ts": microseconds(at),
            });
            if phase == "f" {
                entry["bp"] = json!("e");
            }
            events.push((at, entry));
        }
    }
    events.sort_by_key(|(at, _)| *at);
    let mut all = tracks(story);
    all.extend(events.into_iter().map(|(_, entry)| entry));
    let lines: Vec<String> = all.iter().map(Value::to_string).collect();
    Ok(format!(
        "{{\"displayTimeUnit\":\"ns\",\"otherData\":{},\"traceEvents\":[\n{}\n]}}\n",
        json!({ "of": "Portunus", "ticks-per-second": story.rings.frequency }),
        lines.join(",\n")
    ))
}

/// Names and order of processes and threads.
fn tracks(story: &Story) -> Vec<Value> {
    let mut entries = Vec::new();
    let mut name = |kind: &str, process: u64, thread: u64, name: String| {
        let entry = json!({ "ph": "M", "name": kind, "pid": process, "tid": thread, "args": { "name": name } });
        entries.push(entry);
    };
    let mut last = None;
    for vcpu in story.vcpus.keys() {
        let (process, thread) = place(*vcpu);
        if last != Some(process) {
            name("process_name", process, 0, story.rings.name(vcpu.domain));
            last = Some(process);
        }
        name("thread_name", process, thread, format!("vCPU {}", vcpu.index));
    }
    name("process_name", PCPUS, 0, "pCPUs".into());
    for pcpu in story.pcpus.keys() {
        name("thread_name", PCPUS, u64::from(*pcpu), format!("pCPU {pcpu}"));
    }
    entries
}

/// A line for each entry of a file that [`write`] made, `PROCESS THREAD: NAME` with `->` or `<-` before the name where a flow
/// begins or ends; an error where the file breaks the format's rules.
///
/// The rules: every entry has the members of its phase; times never go back; slices of a thread do not overlap; each flow
/// begins once and ends once, not before it begins.
pub(super) fn lines(text: &str) -> Result<Vec<String>> {
    let file: Value = serde_json::from_str(text).doing("reading the trace")?;
    let Some(entries) = file["traceEvents"].as_array() else {
        return failed("the trace has no list traceEvents");
    };
    let mut names = BTreeMap::new();
    let mut free = BTreeMap::<(u64, u64), f64>::new();
    let mut flows = BTreeMap::<u64, bool>::new();
    let (mut lines, mut now) = (Vec::new(), 0.0);
    for entry in entries {
        let broken = |what: &str| failed(format!("the trace has an entry {what}: {entry}"));
        let (Some(phase), Some(name)) = (entry["ph"].as_str(), entry["name"].as_str()) else {
            return broken("without ph or name");
        };
        let (Some(process), Some(thread)) = (entry["pid"].as_u64(), entry["tid"].as_u64()) else {
            return broken("of no thread");
        };
        if phase == "M" {
            let Some(called) = entry["args"]["name"].as_str() else {
                return broken("that names nothing");
            };
            let key = (process, (name == "thread_name").then_some(thread));
            names.insert(key, called.to_owned());
            continue;
        }
        let at = match entry["ts"].as_f64() {
            Some(at) if at >= now => at,
            _ => return broken("without a time, or before its time"),
        };
        now = at;
        let arrow = match phase {
            "X" => {
                let Some(duration) = entry["dur"].as_f64().filter(|duration| *duration > 0.0) else {
                    return broken("that takes no time");
                };
                let free = free.entry((process, thread)).or_default();
                // A nanosecond is what rounding may lose.
                if at + 0.001 < *free {
                    return broken("that overlaps another");
                }
                *free = at + duration;
                ""
            }
            "i" if entry["s"] == "t" => "",
            "s" | "f" => {
                let begins = phase == "s";
                let Some(id) = entry["id"].as_u64() else {
                    return broken("without id");
                };
                let before = flows.insert(id, begins);
                if before != (!begins).then_some(true) {
                    return broken("that begins or ends a flow twice");
                }
                if begins { "-> " } else { "<- " }
            }
            _ => return broken("of an unknown phase"),
        };
        let called = |key| names.get(&key).map_or("?", String::as_str);
        lines.push(format!(
            "{} {}: {arrow}{name}",
            called((process, None)),
            called((process, Some(thread)))
        ));
    }
    if flows.values().any(|open| *open) {
        return failed("the trace has a flow that does not end");
    }
    Ok(lines)
}
