//! Random operations on servers against an array of owners.

use crate::world::{BACKEND, OTHER_BACKEND, World, load, policy, range};
use portunus::abi::HypercallError::{Exists, NoEntry, NoSpace, NotPermitted};
use portunus::abi::ioreq::State;
use portunus::access::AccessWidth;
use portunus::ids::ServerId;
use portunus::ioreq::{Answer, Begun, DeviceRange, OnFailure, Range, Request};

const WORD: AccessWidth = AccessWidth::Word;
const DONE: u8 = State::IORESP_READY.0;

/// One address space of 48 bytes, a device each 8 bytes; who serves what is an array.
#[test]
fn random_operations_agree_with_a_naive_model() {
    #[derive(Clone, Copy, PartialEq)]
    struct Model {
        owner: portunus::ids::DomainId,
        born: u64,
        enabled: bool,
    }
    for seed in 1..30u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = move |limit: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) % limit
        };
        let devices = (0..6)
            .map(|index| DeviceRange {
                state_page: None,
                range: Range::from_length(index * 8, 8).unwrap(),
                policy: policy(OnFailure::Ones),
            })
            .collect();
        let mut world = World::with_devices(1, devices);
        let mut map = [None::<u16>; 48];
        let mut model = [None::<Model>; 8];
        for step in 0..500 {
            let caller = [BACKEND, OTHER_BACKEND][random(2) as usize];
            let id = random(8) as u16;
            let start = random(48);
            let end = (start + random(10)).min(47);
            let slice = start as usize..=end as usize;
            let known = match model[usize::from(id)] {
                None => Err(NoEntry),
                Some(server) if server.owner != caller => Err(NotPermitted),
                Some(server) => Ok(server),
            };
            let context = format!("seed {seed}, step {step}");
            match random(6) {
                0 => {
                    let expected = model.iter().position(Option::is_none).ok_or(NoSpace);
                    let expected = expected.map(|index| ServerId(index as u16));
                    assert_eq!(world.create(caller), expected, "{context}");
                    if let Ok(ServerId(new)) = expected {
                        model[usize::from(new)] = Some(Model {
                            owner: caller,
                            born: step,
                            enabled: false,
                        });
                    }
                }
                1 | 2 => {
                    let expected = known.and_then(|server| {
                        let yields = |other: &u16| {
                            let other = model[usize::from(*other)].unwrap();
                            other.owner == caller && other.born < server.born
                        };
                        if map[slice.clone()].iter().flatten().all(yields) {
                            Ok(())
                        } else {
                            Err(Exists)
                        }
                    });
                    let (servers, around, _) = world.parts();
                    let result = servers.map_range(caller, &range(ServerId(id), start, end), true, &around);
                    assert_eq!(result.map(drop), expected, "{context}");
                    if expected.is_ok() {
                        map[slice].fill(Some(id));
                    }
                }
                3 => {
                    let all = map[slice.clone()].iter().all(|owner| *owner == Some(id));
                    let expected = known.and(if all { Ok(()) } else { Err(NoEntry) });
                    let (servers, around, _) = world.parts();
                    let result = servers.unmap_range(caller, &range(ServerId(id), start, end), &around);
                    assert_eq!(result.map(drop), expected, "{context}");
                    if expected.is_ok() {
                        map[slice].fill(None);
                    }
                }
                4 => {
                    let enabled = random(3) != 0;
                    let (servers, around, _) = world.parts();
                    let result = servers.set_enabled(caller, ServerId(id), enabled, &around);
                    assert_eq!(result.map(drop), known.map(drop), "{context}");
                    if known.is_ok() {
                        model[usize::from(id)].as_mut().unwrap().enabled = enabled;
                    }
                }
                _ if random(3) == 0 => {
                    let (servers, around, mut resources) = world.parts();
                    let result = servers.destroy(caller, ServerId(id), &around, &mut resources);
                    assert_eq!(result.map(drop), known.map(drop), "{context}");
                    if known.is_ok() {
                        model[usize::from(id)] = None;
                        map.iter_mut()
                            .filter(|owner| **owner == Some(id))
                            .for_each(|owner| *owner = None);
                    }
                }
                _ => {}
            }
            let at = random(48);
            let width = [AccessWidth::Byte, AccessWidth::Halfword, WORD][random(3) as usize];
            let bytes = &map[at as usize..(at + width.bytes()).min(48) as usize];
            let whole = bytes.len() as u64 == width.bytes();
            let server = bytes[0].filter(|id| whole && bytes.iter().all(|other| *other == Some(*id)));
            let server = server.filter(|id| model[usize::from(*id)].unwrap().enabled);
            let device = whole && at / 8 == (at + width.bytes() - 1) / 8;
            let begun = world.begin(0, load(at, width));
            let claimed = device || server.is_some();
            assert_eq!(
                begun,
                if claimed { Begun::Accepted } else { Begun::Unclaimed },
                "{context}: {at}"
            );
            match (world.servers.request(0), server) {
                (Request::InFlight { server, .. }, Some(expected)) => {
                    assert_eq!(server, ServerId(expected), "{context}");
                    let owner = model[usize::from(expected)].unwrap().owner;
                    let _ = world.answer(server, owner, 0, DONE, step);
                    let answer = Answer::Value(step & width.mask());
                    assert_eq!(world.servers.take(0), Some(answer), "{context}");
                }
                (Request::Waiting { .. }, None) | (Request::Idle, None) => world.servers.cancel_all(),
                (request, expected) => panic!("{context}: {request:?}, expected {expected:?}"),
            }
        }
    }
}
