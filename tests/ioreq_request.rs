//! The life of a request: every state with every move, legal or not.

use portunus::access::{AccessWidth, Direction, MmioAccess};
use portunus::ids::{Ipa, ServerId, Ticks};
use portunus::ioreq::request::{IllegalMove, Move, Pending};
use portunus::ioreq::{Answer, OnFailure, Policy, Request};

fn pending(on_failure: OnFailure) -> Pending {
    Pending {
        access: MmioAccess {
            ipa: Ipa(0x0200_0000),
            width: AccessWidth::Halfword,
            direction: Direction::Read,
        },
        policy: Policy {
            timeout: None,
            attach_timeout: None,
            on_failure,
        },
    }
}

const A: ServerId = ServerId(1);
const B: ServerId = ServerId(2);
const NOW: Ticks = Ticks(77);

fn states(on_failure: OnFailure) -> Vec<Request> {
    let pending = pending(on_failure);
    vec![
        Request::Idle,
        Request::Waiting {
            pending,
            since: Ticks(1),
            late: None,
        },
        Request::Waiting {
            pending,
            since: Ticks(1),
            late: Some(A),
        },
        Request::InFlight {
            pending,
            server: A,
            posted: Ticks(2),
            strikes: 0,
        },
        Request::InFlight {
            pending,
            server: A,
            posted: Ticks(2),
            strikes: 1,
        },
        Request::Finished { answer: Answer::Abort },
    ]
}

fn moves(on_failure: OnFailure) -> Vec<Move> {
    vec![
        Move::Start {
            pending: pending(on_failure),
            now: NOW,
        },
        Move::Posted {
            server: B,
            runnable: Ticks(9),
        },
        Move::Refused,
        Move::Working,
        Move::Nonsense { now: NOW },
        Move::Answered { data: u64::MAX },
        Move::Failed { now: NOW, late: false },
        Move::Failed { now: NOW, late: true },
        Move::LateAnswer {
            server: A,
            data: 0x1_2345,
        },
        Move::LateAnswer {
            server: B,
            data: 0x1_2345,
        },
        Move::LateGone { server: A },
        Move::LateGone { server: B },
        Move::AttachLimit,
        Move::Taken,
        Move::Cancel,
    ]
}

/// The whole table, written down once more and independently: rows as [`states`], columns as [`moves`].
/// `-` illegal, `I` idle, `w` waiting since before without a late server, `W` since now without one, `l` since before
/// with a late server, `L` since now with one, `f` in flight to A without strikes, `s` with one strike, `F` to B,
/// `o` ones, `a` abort, `d` the data.
fn expected(on_failure: OnFailure) -> [&'static str; 6] {
    match on_failure {
        OnFailure::Wait => [
            "W-------------I",
            "-Fw---------o-I",
            "-Fl-----d-w-o-I",
            "---fsoWL------I",
            "---fLoWL------I",
            "-------------II",
        ],
        OnFailure::Ones => [
            "W-------------I",
            "-Fo---------o-I",
            "-Fo-----d-w-o-I",
            "---fsooo------I",
            "---foooo------I",
            "-------------II",
        ],
        OnFailure::Abort => [
            "W-------------I",
            "-Fa---------a-I",
            "-Fa-----d-w-a-I",
            "---fsoaa------I",
            "---faoaa------I",
            "-------------II",
        ],
    }
}

fn symbol(outcome: Result<Request, IllegalMove>) -> char {
    match outcome {
        Err(_) => '-',
        Ok(Request::Idle) => 'I',
        Ok(Request::Waiting {
            since: Ticks(1),
            late: None,
            ..
        }) => 'w',
        Ok(Request::Waiting {
            since: NOW, late: None, ..
        }) => 'W',
        Ok(Request::Waiting {
            since: Ticks(1),
            late: Some(A),
            ..
        }) => 'l',
        Ok(Request::Waiting {
            since: NOW,
            late: Some(A),
            ..
        }) => 'L',
        Ok(Request::InFlight {
            server: A,
            strikes: 0,
            posted: Ticks(2),
            ..
        }) => 'f',
        Ok(Request::InFlight {
            server: A,
            strikes: 1,
            posted: Ticks(2),
            ..
        }) => 's',
        Ok(Request::InFlight {
            server: B,
            strikes: 0,
            posted: Ticks(9),
            ..
        }) => 'F',
        Ok(Request::Finished {
            answer: Answer::Value(0xffff),
        }) => 'o',
        Ok(Request::Finished {
            answer: Answer::Value(0x2345),
        }) => 'd',
        Ok(Request::Finished { answer: Answer::Abort }) => 'a',
        Ok(_) => '?',
    }
}

#[test]
fn every_state_takes_the_moves_it_has_and_refuses_the_others() {
    for on_failure in [OnFailure::Wait, OnFailure::Ones, OnFailure::Abort] {
        for (state, row) in states(on_failure).into_iter().zip(expected(on_failure)) {
            let actual: String = moves(on_failure)
                .into_iter()
                .map(|cause| symbol(state.after(cause)))
                .collect();
            assert_eq!(actual, row, "{on_failure:?}, {state:?}");
        }
    }
}

#[test]
fn an_illegal_move_says_which_state_lacks_it() {
    let error = Request::Idle.after(Move::Taken).unwrap_err();
    assert_eq!(error.to_string(), "a request that is idle has no move taken");
}

#[test]
fn only_a_request_without_an_answer_holds_its_vcpu() {
    let holds = states(OnFailure::Wait)
        .iter()
        .map(Request::holds_vcpu)
        .collect::<Vec<_>>();
    assert_eq!(holds, [false, true, true, true, true, false]);
}
