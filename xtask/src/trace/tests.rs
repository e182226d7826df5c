//! Rings of machines that never were: made of events, wrapped around, torn, or nothing but noise.

use portunus::abi::hypercall::{DM_OP, EVENT_CHANNEL_OP};
use portunus::ids::{DomainId, EventPort, MAX_DOMAINS, MAX_PCPUS, ServerId, VcpuId};
use portunus::trace::{Event, Kind, call, rung, served, vcpu_byte};

use super::memory::{Rings, decode};
use super::story::{Cause, State, Story, Window};
use super::{TraceOptions, chrome, expect, picture};

/// Ticks a second: a tick is a microsecond.
const FREQUENCY: u64 = 1_000_000;
/// Events of each ring.
const EVENTS: usize = 64;
/// ESR_EL2 of WFI.
const WFI: u32 = 0x01 << 26 | 1 << 25;
/// ESR_EL2 of a load from a device.
const LOAD: u32 = 0x24 << 26 | 1 << 25 | 7;

const fn vcpu(domain: u16) -> VcpuId {
    VcpuId {
        domain: DomainId(domain),
        index: 0,
    }
}
const GUEST: VcpuId = vcpu(1);
const BACKEND: VcpuId = vcpu(2);
const BY_BACKEND: u32 = served(BACKEND.domain, ServerId(0));

const fn event(time: u64, vcpu: VcpuId, kind: Kind, argument: u32) -> Event {
    Event {
        time,
        kind,
        vcpu: Some(vcpu),
        argument,
    }
}

fn about() -> Vec<u8> {
    let mut about = FREQUENCY.to_le_bytes().to_vec();
    for name in (0..=MAX_DOMAINS).map(|domain| ["", "guest", "dm <&>"].get(domain).copied().unwrap_or_default()) {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(32, 0);
        about.extend(bytes);
    }
    about
}

/// Memory of rings in which each pCPU wrote its events one after the other, from the start.
fn memory(pcpus: &[&[Event]]) -> Vec<u8> {
    let mut memory = vec![0; MAX_PCPUS * EVENTS * 16];
    for (pcpu, events) in pcpus.iter().enumerate() {
        for (index, event) in events.iter().enumerate() {
            let at = (pcpu * EVENTS + index % EVENTS) * 16;
            let bytes = event.encode().map(u64::to_le_bytes).concat();
            memory[at..at + 16].copy_from_slice(&bytes);
        }
    }
    memory
}

fn rings(pcpus: &[&[Event]]) -> Rings {
    decode(&about(), &memory(pcpus)).unwrap()
}

/// One request of a guest, on a pCPU that it shares with its backend; then the backend interrupts it.
fn shared_cpu() -> Vec<Event> {
    vec![
        event(100, GUEST, Kind::Switched, 0),
        event(110, GUEST, Kind::Trap, LOAD),
        event(111, GUEST, Kind::Posted, BY_BACKEND),
        event(112, BACKEND, Kind::Switched, vcpu_byte(GUEST).into()),
        event(113, BACKEND, Kind::Injected, 31),
        event(120, BACKEND, Kind::Hypercall, call(EVENT_CHANNEL_OP, 4)),
        event(121, GUEST, Kind::Answered, BY_BACKEND),
        event(122, BACKEND, Kind::Hypercall, call(DM_OP, 1)),
        event(125, BACKEND, Kind::Trap, WFI),
        event(126, GUEST, Kind::Switched, vcpu_byte(BACKEND).into()),
        event(127, GUEST, Kind::Taken, 0),
        event(128, GUEST, Kind::Injected, 33),
        event(140, GUEST, Kind::Trap, WFI),
        event(141, GUEST, Kind::Idle, 0),
    ]
}

#[test]
fn a_request_on_a_shared_cpu_is_told_with_who_waited_for_whom() {
    let events = shared_cpu();
    let story = Story::tell(rings(&[&events]));
    let spans = |vcpu| -> Vec<(u64, u64, State)> {
        let spans = story.vcpus[&vcpu].iter();
        spans
            .map(|span| (span.start / 1000, span.end / 1000, span.state))
            .collect()
    };
    assert_eq!(
        spans(GUEST),
        [
            (0, 11, State::Runs(0)),
            (11, 27, State::Waits(Some(BACKEND.domain))),
            (27, 40, State::Runs(0)),
            (40, 41, State::Sleeps)
        ]
    );
    assert_eq!(spans(BACKEND), [(12, 25, State::Runs(0)), (25, 41, State::Sleeps)]);
    let arrows: Vec<(Cause, VcpuId, u64, VcpuId, u64)> = (story.arrows.iter())
        .map(|arrow| {
            (
                arrow.cause,
                arrow.from.0,
                arrow.from.1 / 1000,
                arrow.to.0,
                arrow.to.1 / 1000,
            )
        })
        .collect();
    assert_eq!(
        arrows,
        [
            (Cause::Request, GUEST, 11, BACKEND, 12),
            (Cause::Answer, BACKEND, 21, GUEST, 27),
            (Cause::Interrupt, BACKEND, 22, GUEST, 28)
        ]
    );
}

#[test]
fn a_sleeping_pcpu_runs_its_vcpu_again_from_the_interrupt_that_woke_it() {
    let sleeper = [
        event(10, GUEST, Kind::Switched, 0),
        event(20, GUEST, Kind::Trap, WFI),
        event(21, GUEST, Kind::Idle, 0),
        event(30, GUEST, Kind::Interrupt, 0),
        // That was not for it.
        event(31, GUEST, Kind::Idle, 0),
        event(50, GUEST, Kind::Interrupt, 27),
        event(52, GUEST, Kind::Injected, 27),
        event(60, GUEST, Kind::Trap, LOAD),
    ];
    let story = Story::tell(rings(&[&sleeper]));
    let states: Vec<(u64, State)> = story.vcpus[&GUEST]
        .iter()
        .map(|span| (span.start / 1000, span.state))
        .collect();
    assert_eq!(states, [(0, State::Runs(0)), (10, State::Sleeps), (40, State::Runs(0))]);
    let loaded: Vec<(u64, bool)> = story.pcpus[&0]
        .iter()
        .map(|span| (span.start / 1000, span.state.is_some()))
        .collect();
    assert_eq!(loaded, [(0, true), (11, false), (40, true)]);
}

#[test]
fn a_doorbell_points_at_the_backend_that_goes_on() {
    let guest = [
        event(10, GUEST, Kind::Switched, 0),
        event(20, GUEST, Kind::Doorbell, rung(BACKEND.domain, EventPort(1024))),
        event(30, GUEST, Kind::Trap, WFI),
    ];
    let backend = [
        event(5, BACKEND, Kind::Idle, 0),
        event(22, BACKEND, Kind::Interrupt, 0),
        event(23, BACKEND, Kind::Injected, 31),
    ];
    let story = Story::tell(rings(&[&guest, &backend]));
    let arrow = story.arrows[0];
    assert_eq!(
        (arrow.cause, arrow.from.0, arrow.to.0),
        (Cause::Doorbell, GUEST, BACKEND)
    );
}

#[test]
fn a_ring_that_went_round_is_read_from_its_oldest_event_on() {
    for count in [1, EVENTS - 1, EVENTS, EVENTS + 1, 3 * EVENTS + 7] {
        let events: Vec<Event> = (0..count as u64)
            // Several at one time, as a coarse counter shows them.
            .map(|number| event(1000 + number / 3, GUEST, Kind::Trap, number as u32))
            .collect();
        let read = rings(&[&events]);
        let kept = &events[count.saturating_sub(EVENTS)..];
        assert_eq!(read.events[0], kept, "{count} events");
        assert!(read.events[1..].iter().all(Vec::is_empty));
    }
}

#[test]
fn halves_of_events_are_left_out_and_the_rest_is_told() {
    let events = shared_cpu();
    let mut torn = memory(&[&events]);
    // The second word of one event is of another, the first of a third was never written.
    let (at, other) = (2 * 16 + 8, 5 * 16 + 8);
    torn.copy_within(other..other + 8, at);
    torn[7 * 16..7 * 16 + 8].fill(0);
    let read = decode(&about(), &torn).unwrap();
    let mut kept = events;
    kept.remove(7);
    kept.remove(2);
    assert_eq!(read.events[0], kept);
    check(&Story::tell(read));
}

/// Whatever was told can be written, by the rules of the formats.
fn check(story: &Story) {
    for window in [
        story.last(None),
        story.last(Some(0.000_1)),
        story.last(Some(1e9)),
        story.legible(),
    ] {
        let text = chrome::write(story, window).unwrap();
        if let Err(failure) = chrome::lines(&text) {
            panic!("{failure}");
        }
        well_formed(&picture::draw(story, window));
    }
}

/// Tags are closed in order, nothing is executed, nothing comes from elsewhere.
fn well_formed(picture: &str) {
    let mut open = Vec::new();
    for tag in picture.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect("a tag ends");
        assert!(!text.contains('>'), "{text}");
        let name = tag.trim_matches('/').split_whitespace().next().unwrap();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "in {tag}");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        assert!(!tag.contains("NaN") && !tag.contains("inf"), "{tag}");
    }
    assert!(open.is_empty(), "{open:?}");
    for forbidden in ["<script", "href", "javascript", "<image"] {
        assert!(!picture.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn memory_that_holds_anything_gives_a_story_or_an_error_and_nothing_worse() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut events_seen = 0;
    for round in 0..60 {
        // Noise; noise with whole events in between, in any order, about anybody; and noise as names.
        let mut noise: Vec<u8> = (0..MAX_PCPUS * EVENTS * 16).map(|_| random() as u8).collect();
        if round % 3 > 0 {
            for place in noise.as_chunks_mut::<16>().0 {
                let time = if round % 3 == 1 { random() % 5_000 } else { random() };
                let number = random();
                let wild = Event {
                    time,
                    kind: Kind::ALL[number as usize % Kind::ALL.len()],
                    vcpu: portunus::trace::vcpu_of((number >> 8) as u8 & if round % 2 == 0 { 0xff } else { 0x19 }),
                    argument: (number >> 32) as u32 & if round % 2 == 0 { u32::MAX } else { 0x0003_00ff },
                };
                place.copy_from_slice(&wild.encode().map(u64::to_le_bytes).concat());
            }
        }
        let mut names: Vec<u8> = about();
        if round % 5 == 0 {
            names.iter_mut().for_each(|byte| *byte = random() as u8);
        }
        if round % 7 == 0 {
            names[..8].copy_from_slice(&random().max(1).to_le_bytes());
        }
        if let Ok(rings) = decode(&names, &noise) {
            events_seen += rings.events.iter().map(Vec::len).sum::<usize>();
            check(&Story::tell(rings));
        }
    }
    assert!(events_seen > 10_000, "{events_seen}");
    for (about, rings) in [(&[][..], &[][..]), (&[1; 7], &[]), (&[0; 600], &[0; 4096])] {
        assert!(decode(about, rings).is_err());
    }
    check(&Story::tell(decode(&[1; 8], &[1; 15]).unwrap()));
}

#[test]
fn the_file_for_viewers_is_sorted_and_balanced_and_its_rules_are_checked() {
    let events = shared_cpu();
    let story = Story::tell(rings(&[&events]));
    check(&story);
    let text = chrome::write(&story, story.last(None)).unwrap();
    let lines = chrome::lines(&text).unwrap();
    for line in [
        "guest vCPU 0: waits for dm <&>",
        "guest vCPU 0: -> request",
        "dm <&> vCPU 0: <- request",
        "pCPUs pCPU 0: switch to dm <&> vCPU 0",
        "guest vCPU 0: gets SPI 1",
    ] {
        assert!(lines.iter().any(|found| found == line), "{line} is not in {lines:?}");
    }
    let metadata = r#"{"displayTimeUnit":"ns","traceEvents":["#;
    let slice = |ts, dur| format!(r#"{{"ph":"X","name":"a","pid":1,"tid":1,"ts":{ts},"dur":{dur}}}"#);
    let flow = |phase, ts| format!(r#"{{"ph":"{phase}","id":1,"name":"a","pid":1,"tid":1,"ts":{ts}}}"#);
    for (what, entries) in [
        ("out of order", vec![slice(5, 1), slice(4, 1)]),
        ("overlap", vec![slice(5, 3), slice(6, 3)]),
        ("no time", vec![slice(5, 0)]),
        ("a flow that only begins", vec![flow("s", 1)]),
        ("a flow that only ends", vec![flow("f", 1)]),
        ("a flow that ends twice", vec![flow("s", 1), flow("f", 2), flow("f", 3)]),
        ("an unknown phase", vec![flow("q", 1)]),
        (
            "no thread",
            vec![r#"{"ph":"i","s":"t","name":"a","pid":1,"ts":1}"#.into()],
        ),
    ] {
        let text = format!("{metadata}{}]}}", entries.join(","));
        assert!(chrome::lines(&text).is_err(), "{what}");
    }
    let fine = format!("{metadata}{}]}}", [slice(5, 1), flow("s", 6), flow("f", 6)].join(","));
    assert_eq!(chrome::lines(&fine).unwrap().len(), 3);
}

#[test]
fn what_a_scenario_expects_of_the_trace_must_come_in_order() {
    let events = shared_cpu();
    let story = Story::tell(rings(&[&events]));
    let steps = |steps: &[&str]| steps.iter().map(|step| (*step).to_owned()).collect::<Vec<_>>();
    assert!(
        expect(
            &story,
            &steps(&["guest.*request posted", "switch to dm", "answer taken"])
        )
        .is_ok()
    );
    assert!(expect(&story, &steps(&["answer taken", "guest.*request posted"])).is_err());
    assert!(expect(&story, &steps(&["("])).is_err());
}

#[test]
fn a_window_is_the_end_of_the_story() {
    let events = shared_cpu();
    let story = Story::tell(rings(&[&events]));
    assert_eq!(story.last(None), Window { start: 0, end: 41_000 });
    let last = story.last(Some(0.01));
    // The last thing that the guest did, sleeping apart, was to take an interrupt.
    assert_eq!((last.start, last.length() > 10_000), (18_000, true));
    assert_eq!(story.last(Some(1e300)).start, 0);
}

#[test]
fn files_are_told_by_their_names() {
    let options = |file: &str| TraceOptions {
        files: vec![file.into()],
        last: None,
    };
    for (file, fine) in [("a.json", true), ("b/c.svg", true), ("a.txt", false), ("json", false)] {
        assert_eq!(options(file).check().is_ok(), fine, "{file}");
    }
}
