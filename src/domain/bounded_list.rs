//! The list in a response. It is bounded in entries and bytes, so that no response exceeds Lambda's limit of 6 MB and memory
//! use does not grow with the table.

use serde::Serialize;
use std::{cmp::Ordering, collections::BinaryHeap, io};

/// The maximum number of entries in a list.
pub const MAX_ENTRIES: usize = 4_000;
/// The maximum size of a list's JSON, in bytes. Lambda limits a whole response to 6 MB.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
pub const MAX_BYTES: usize = 4_000_000;

/// Keeps the entries with the lowest ranks, as many as fit.
#[derive(Debug)]
pub struct BoundedList<R, T> {
    /// A max-heap: the entry on top is the first to drop.
    heap: BinaryHeap<Entry<R, T>>,
    bytes: usize,
    left_out: u64,
}

#[derive(Debug)]
struct Entry<R, T> {
    rank: R,
    bytes: usize,
    value: T,
}

impl<R: Ord, T> Default for BoundedList<R, T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), bytes: 0, left_out: 0 }
    }
}

impl<R: Ord, T: Serialize> BoundedList<R, T> {
    /// Adds an entry. Drops the entries with the highest ranks if the list exceeds its bounds.
    pub fn push(&mut self, rank: R, entry: T) {
        if self.heap.len() >= MAX_ENTRIES && self.heap.peek().is_some_and(|last| last.rank <= rank) {
            self.left_out += 1;
            return;
        }
        let bytes = json_len(&entry) + 1;
        self.bytes += bytes;
        self.heap.push(Entry { rank, bytes, value: entry });
        while self.heap.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            let Some(dropped) = self.heap.pop() else { break };
            self.bytes -= dropped.bytes;
            self.left_out += 1;
        }
    }

    /// The entries in ascending order of rank, and how many were left out, if any.
    pub fn finish(self) -> (Vec<T>, Option<u64>) {
        let entries = self.heap.into_sorted_vec().into_iter().map(|entry| entry.value).collect();
        (entries, (self.left_out > 0).then_some(self.left_out))
    }
}

impl<R: Ord, T> Ord for Entry<R, T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank)
    }
}

impl<R: Ord, T> PartialOrd for Entry<R, T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R: Ord, T> PartialEq for Entry<R, T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<R: Ord, T> Eq for Entry<R, T> {}

/// The length of a value's JSON, in bytes.
pub fn json_len(value: &impl Serialize) -> usize {
    let mut counter = ByteCounter(0);
    serde_json::to_writer(&mut counter, value).map_or(0, |()| counter.0)
}

struct ByteCounter(usize);

impl io::Write for ByteCounter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_lowest_ranks_are_listed_in_order_and_the_rest_are_counted() {
        let mut list = BoundedList::default();
        for rank in (0..MAX_ENTRIES + 10).rev() {
            list.push(rank, rank);
        }
        let (entries, left_out) = list.finish();
        assert_eq!(entries, (0..MAX_ENTRIES).collect::<Vec<_>>());
        assert_eq!(left_out, Some(10));
    }

    #[test]
    fn long_entries_are_bounded_in_bytes() {
        let mut list = BoundedList::default();
        for rank in 0..100 {
            list.push(rank, "ă".repeat(50_000));
        }
        let (entries, left_out) = list.finish();
        assert_eq!((entries.len(), left_out), (39, Some(61)));
        assert!(json_len(&entries) <= MAX_BYTES);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_entry_is_listed_or_counted(lens in proptest::collection::vec(0..400_000_usize, 0..30)) {
            let mut list = BoundedList::default();
            for (rank, len) in lens.iter().enumerate() {
                list.push(rank, "x".repeat(*len));
            }
            let (entries, left_out) = list.finish();
            prop_assert_eq!(entries.len() as u64 + left_out.unwrap_or(0), lens.len() as u64);
            prop_assert!(json_len(&entries) <= MAX_BYTES);
        }
    }
}
