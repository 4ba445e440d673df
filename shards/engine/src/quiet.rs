//! Log lines that a flood could cause: each kind at most once a second and shard, with the
//! number of those left out since.

use std::time::Duration;

use crate::event::Instant;

const EVERY: Duration = Duration::from_secs(1);

/// One kind of line.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    until: Instant,
    unsaid: u64,
}

impl Quiet {
    /// Counts one more; how many were left out since the last line, if one may be written now.
    pub(crate) fn may_say(&mut self, now: Instant) -> Option<u64> {
        if now < self.until {
            self.unsaid += 1;
            return None;
        }
        self.until = now.after(EVERY);
        Some(std::mem::take(&mut self.unsaid))
    }
}

/// Every kind of line that is not written as often as it could be. Scope: shard.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(crate) dropped: Quiet,
    pub(crate) refused: Quiet,
    pub(crate) slowed: Quiet,
    pub(crate) memory: Quiet,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_has_one_line_a_second_and_says_how_many_it_left_out() {
        let mut quiet = Quiet::default();
        let at = |ms: u64| Instant(ms * 1000);
        assert_eq!(quiet.may_say(at(0)), Some(0));
        assert_eq!(quiet.may_say(at(1)), None);
        assert_eq!(quiet.may_say(at(999)), None);
        assert_eq!(quiet.may_say(at(1000)), Some(2));
        assert_eq!(quiet.may_say(at(2000)), Some(0));
    }
}
