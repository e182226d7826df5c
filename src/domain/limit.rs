//! How often a domain may start again by itself: so many times in so many seconds.

use crate::ids::Ticks;
use crate::manifest::lifecycle::RestartLimit;

/// When a domain last started again.
#[derive(Clone, Debug, Default)]
pub struct RestartTimes {
    times: heapless::Deque<Ticks, { RestartLimit::MAX_COUNT as usize }>,
}

impl RestartTimes {
    /// Notes a restart at `now`, unless there were as many as `limit` allows; whether it is allowed. `frequency` is the
    /// system counter's, in Hz.
    pub fn allow(&mut self, limit: RestartLimit, now: Ticks, frequency: u64) -> bool {
        let span = u64::from(limit.seconds).saturating_mul(frequency);
        while self
            .times
            .front()
            .is_some_and(|time| now.0.saturating_sub(time.0) >= span)
        {
            self.times.pop_front();
        }
        if self.times.len() >= limit.count as usize {
            return false;
        }
        // There is room for as many as a limit can have.
        let _ = self.times.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{RestartLimit, RestartTimes, Ticks};

    #[test]
    fn so_many_restarts_in_so_many_seconds_and_no_more_until_the_first_of_them_is_that_old() {
        let limit = RestartLimit { count: 3, seconds: 2 };
        let mut times = RestartTimes::default();
        let frequency = 10;
        let asked = [
            (0, true),
            (1, true),
            (15, true),
            (16, false),
            (19, false),
            // The first one is two seconds old.
            (20, true),
            (20, false),
            (21, true),
            (34, false),
            (35, true),
            (1_000, true),
        ];
        for (now, allowed) in asked {
            assert_eq!(times.allow(limit, Ticks(now), frequency), allowed, "at {now}");
        }
    }

    #[test]
    fn the_greatest_limit_is_kept() {
        let count = RestartLimit::MAX_COUNT;
        let limit = RestartLimit {
            count,
            seconds: u32::MAX,
        };
        let mut times = RestartTimes::default();
        let allowed = (0..100).filter(|now| times.allow(limit, Ticks(*now), u64::MAX)).count();
        assert_eq!(allowed as u32, count);
    }
}
