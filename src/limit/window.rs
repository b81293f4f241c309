//! The sliding-window log: the exact hits of the last `length`, in bounded memory.
//!
//! Time is divided into grains (see [`WindowLength`]). A hit counts from the *later* end of its
//! grain, so rounding can only delay an admission. The hits of one grain form a run. Runs are
//! stored oldest first as `(gap to the next run, count)` in a byte queue, both as LEB128 varints; a
//! count of 1 is omitted. The newest run is stored beside the queue because it still grows. A
//! window has at most about 60,000 grains and a run takes a few bytes, so a window stays below 512
//! KiB at any limit; a full window of 60 per minute takes about 120 bytes.

use std::num::NonZeroU32;

use smallvec::SmallVec;

use crate::limit::WindowLength;
use crate::time::Moment;

/// The hits of one window. Callers pass the time; an earlier `now` than before is treated as the
/// previous one.
///
/// The fields that most hits change come first.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct SlidingLog {
    length: WindowLength,
    /// Grain of the oldest run, or of the newest if `older` is empty.
    oldest: u64,
    /// Grain of the newest run, relative to `oldest`.
    newest_offset: u32,
    /// Hits in the newest run; 0 only if the log is empty.
    newest_count: u32,
    used: u32,
    /// The number of bytes of expired runs in `older`.
    gone: u32,
    /// The older runs, after the expired ones. As large as a `Vec`, and a few runs are inline.
    older: SmallVec<[u8; 16]>,
}

impl SlidingLog {
    pub(crate) fn new(length: WindowLength) -> Self {
        Self {
            length,
            oldest: 0,
            newest_offset: 0,
            newest_count: 0,
            used: 0,
            gone: 0,
            older: SmallVec::new(),
        }
    }

    pub(crate) fn length(&self) -> WindowLength {
        self.length
    }

    /// The number of hits at the last evaluation.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Removes expired hits and returns the number of hits that still count.
    #[inline]
    pub(crate) fn used_at(&mut self, now: Moment) -> u32 {
        if self.used > 0 && self.leaves_at(self.oldest) <= now {
            self.forget_until(now);
        }
        self.used
    }

    /// Adds `cost` hits at `now`. The caller ensures that `used + cost` fits 32 bits.
    #[inline]
    pub(crate) fn consume(&mut self, now: Moment, cost: NonZeroU32) {
        // Avoids a division while the newest run is still growing.
        let grain = if self.used > 0 && now <= self.ends_at(self.newest()) {
            self.newest()
        } else {
            self.grain_of(now)
        };
        self.push(grain, cost.get());
    }

    /// Adds `cost` hits at `now`, saturating.
    pub(crate) fn charge(&mut self, now: Moment, cost: u64) {
        let room = u32::MAX - self.used_at(now);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX).min(room);
        if let Some(cost) = NonZeroU32::new(cost) {
            self.consume(now, cost);
        }
    }

    /// Removes `cost` hits recorded at `at`, if they still count.
    pub(crate) fn refund(&mut self, now: Moment, at: Moment, cost: u32) {
        if self.used_at(now) == 0 {
            return;
        }
        let grain = self.grain_of(at);
        if grain == self.newest() && cost < self.newest_count {
            self.newest_count -= cost;
            self.used -= cost;
            return;
        }
        let mut rest = Self::new(self.length);
        for (run, count) in self.all_runs() {
            let count = if run == grain {
                count.saturating_sub(cost)
            } else {
                count
            };
            if count > 0 {
                rest.push(run, count);
            }
        }
        *self = rest;
    }

    /// The hits, oldest first: the moment from which they count, and their number.
    pub(crate) fn hits(&self) -> impl Iterator<Item = (Moment, u32)> {
        let runs = self.all_runs().filter(|(_, count)| *count > 0);
        runs.map(|(grain, count)| (self.ends_at(grain), count))
    }

    /// Adds saved hits that still count at `now`, oldest first.
    pub(crate) fn restore(&mut self, now: Moment, hits: impl Iterator<Item = (Moment, u32)>) {
        for (at, count) in hits {
            let grain = self.grain_of(at.min(now));
            if self.leaves_at(grain) > now {
                let count = count.min(u32::MAX - self.used);
                if count > 0 {
                    self.push(grain.max(self.newest()), count);
                }
            }
        }
    }

    /// The earliest time at which `cost` more hits fit under `limit` if nothing else is admitted;
    /// [`Moment::NEVER`] if `cost` is above `limit`.
    pub(crate) fn retry_at(&self, now: Moment, limit: u64, cost: NonZeroU32) -> Moment {
        if limit < cost.get().into() {
            return Moment::NEVER;
        }
        let mut excess = (u64::from(self.used) + u64::from(cost.get())).saturating_sub(limit);
        match excess {
            0 => return now,
            // Every run contains a hit.
            1 => return self.oldest_leaves_at(now),
            _ => {}
        }
        for (grain, count) in self.runs() {
            excess = excess.saturating_sub(u64::from(count));
            if excess == 0 {
                return self.leaves_at(grain);
            }
        }
        self.leaves_at(self.newest())
    }

    /// The time at which the oldest hit expires; `now` for an empty log.
    #[inline]
    pub(crate) fn oldest_leaves_at(&self, now: Moment) -> Moment {
        if self.used == 0 {
            now
        } else {
            self.leaves_at(self.oldest)
        }
    }

    fn newest(&self) -> u64 {
        self.oldest + u64::from(self.newest_offset)
    }

    /// The grain of a hit at `at`.
    #[inline]
    fn grain_of(&self, at: Moment) -> u64 {
        let length = self.length;
        length.grains(at.nanos() + (length.grain_nanos() - 1))
    }

    #[inline]
    fn ends_at(&self, grain: u64) -> Moment {
        Moment::from_nanos(grain * self.length.grain_nanos())
    }

    #[inline]
    fn leaves_at(&self, grain: u64) -> Moment {
        Moment::from_nanos(grain * self.length.grain_nanos() + self.length.nanos())
    }

    #[inline]
    fn push(&mut self, grain: u64, count: u32) {
        if self.used == 0 {
            self.oldest = grain;
            self.newest_offset = 0;
            self.newest_count = 0;
        } else if grain > self.newest() {
            self.start_run(grain);
        }
        self.newest_count += count;
        self.used += count;
    }

    fn start_run(&mut self, grain: u64) {
        // Live runs are less than one window (about 60,000 grains) apart.
        let gap = (grain - self.newest()) as u32;
        let count = self.newest_count;
        let mut buffer = [0; 10];
        let mut len = write_varint(&mut buffer, 0, (u64::from(gap) << 1) | u64::from(count > 1));
        if count > 1 {
            len = write_varint(&mut buffer, len, u64::from(count));
        }
        self.make_room(len);
        self.older.extend_from_slice(&buffer[..len]);
        self.newest_offset += gap;
        self.newest_count = 0;
    }

    /// Makes room for `len` more bytes, by at least a sixteenth: reuses expired bytes or, if those
    /// are fewer, grows. Total copying stays linear and little memory is unused.
    fn make_room(&mut self, len: usize) {
        if self.older.capacity() - self.older.len() >= len {
            return;
        }
        let step = len.max(self.older.len() / 16).max(8);
        let gone = self.gone as usize;
        if gone >= step {
            self.older.drain(..gone);
            self.gone = 0;
        } else {
            self.older.reserve_exact(step);
        }
    }

    fn forget_until(&mut self, now: Moment) {
        if self.leaves_at(self.newest()) <= now {
            *self = Self::new(self.length);
            return;
        }
        while self.leaves_at(self.oldest) <= now {
            let Some((gap, count, len)) = read_run(self.older_bytes()) else {
                return;
            };
            // A window has fewer than 512 Ki bytes.
            self.gone += len as u32;
            self.used -= count;
            self.oldest += u64::from(gap);
            self.newest_offset -= gap;
        }
    }

    fn older_bytes(&self) -> impl Iterator<Item = u8> {
        self.older[self.gone as usize..].iter().copied()
    }

    /// All runs, oldest first, as `(grain, count)`.
    fn all_runs(&self) -> impl Iterator<Item = (u64, u32)> {
        let newest = (self.newest(), self.newest_count);
        self.runs().chain(std::iter::once(newest))
    }

    /// All runs but the newest, oldest first, as `(grain, count)`.
    fn runs(&self) -> impl Iterator<Item = (u64, u32)> {
        let mut bytes = self.older_bytes();
        let mut grain = self.oldest;
        std::iter::from_fn(move || {
            let (gap, count, _) = read_run(&mut bytes)?;
            let run = (grain, count);
            grain += u64::from(gap);
            Some(run)
        })
    }
}

/// One run from the front of `bytes`: the gap to the next run, its count and its length in bytes.
#[inline]
fn read_run(mut bytes: impl Iterator<Item = u8>) -> Option<(u32, u32, usize)> {
    let (head, head_len) = read_varint(&mut bytes)?;
    let gap = (head >> 1) as u32;
    if head & 1 == 0 {
        return Some((gap, 1, head_len));
    }
    let (count, count_len) = read_varint(&mut bytes)?;
    Some((gap, count as u32, head_len + count_len))
}

#[inline]
fn write_varint(buffer: &mut [u8; 10], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        buffer[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    buffer[at] = value as u8;
    at + 1
}

#[inline]
fn read_varint(bytes: &mut impl Iterator<Item = u8>) -> Option<(u64, usize)> {
    let mut value = 0;
    for len in 1..=5 {
        let byte = bytes.next()?;
        value |= u64::from(byte & 0x7f) << (7 * (len - 1));
        if byte < 0x80 {
            return Some((value, len));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    fn millis(n: u64) -> Moment {
        Moment::from_nanos(n * 1_000_000)
    }

    #[test]
    fn hits_count_for_exactly_one_window() {
        let mut log = SlidingLog::new(WindowLength::MINUTE);
        log.consume(millis(5), cost(1));
        assert_eq!(log.used_at(millis(60_004)), 1);
        assert_eq!(log.oldest_leaves_at(millis(60_004)), millis(60_005));
        assert_eq!(log.used_at(millis(60_005)), 0);
    }

    #[test]
    fn hits_round_to_the_later_grain() {
        let mut log = SlidingLog::new(WindowLength::MINUTE);
        log.consume(Moment::from_nanos(1), cost(1));
        assert_eq!(log.used_at(Moment::from_nanos(60_000_000_001)), 1);
        assert_eq!(log.used_at(Moment::from_nanos(60_001_000_000)), 0);
    }

    #[test]
    fn costly_requests_wait_for_enough_hits_to_expire() {
        let mut log = SlidingLog::new(WindowLength::MINUTE);
        for second in 0..10 {
            log.consume(millis(second * 1_000), cost(1));
        }
        let now = millis(10_000);
        assert_eq!(log.retry_at(now, 10, cost(1)), millis(60_000));
        assert_eq!(log.retry_at(now, 10, cost(4)), millis(63_000));
        assert_eq!(log.retry_at(now, 10, cost(10)), millis(69_000));
    }

    #[test]
    fn memory_is_bounded_at_any_limit() {
        let mut log = SlidingLog::new(WindowLength::MINUTE);
        let per_grain = cost(u32::MAX / 60_001);
        for ms in 0..200_000 {
            log.used_at(millis(ms));
            log.consume(millis(ms), per_grain);
        }
        assert!(
            log.older.capacity() <= 512 * 1024,
            "{} bytes",
            log.older.capacity()
        );
    }

    #[test]
    fn a_full_window_of_sixty_a_minute_is_small() {
        let mut log = SlidingLog::new(WindowLength::MINUTE);
        for second in 0..600 {
            log.used_at(millis(second * 1_000));
            log.consume(millis(second * 1_000), cost(1));
        }
        assert_eq!(log.used, 60);
        assert!(
            log.older.capacity() <= 128,
            "{} bytes",
            log.older.capacity()
        );
    }
}
