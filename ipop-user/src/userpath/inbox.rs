//! Datagrams that other nodes have carried here, or that came by TCP, on their way to a data thread.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipop_overlay::Endpoint;

/// Datagrams that wait for one thread: what a fast path brings in some milliseconds.
const DATAGRAMS_MAX: usize = 512;
/// Their bytes.
const BYTES_MAX: usize = 1 << 20;

/// More has come than the data thread takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    waiting: Mutex<Waiting>,
    /// So that a thread which gets nothing this way takes no lock.
    has_some: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    datagrams: VecDeque<(Endpoint, Box<[u8]>)>,
    bytes: usize,
}

/// Datagrams of one length from one place, the last perhaps shorter, as one receive call delivers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) from: Endpoint,
    pub(super) len: usize,
    pub(super) segment_len: usize,
}

impl Inbox {
    /// Adds a datagram; says whether it is the first, of which the thread does not know.
    pub(super) fn push(&self, from: Endpoint, datagram: &[u8]) -> Result<bool, Full> {
        let mut waiting = self.lock();
        if waiting.datagrams.len() >= DATAGRAMS_MAX || waiting.bytes + datagram.len() > BYTES_MAX {
            return Err(Full);
        }
        let was_empty = waiting.datagrams.is_empty();
        waiting.bytes += datagram.len();
        waiting.datagrams.push_back((from, datagram.into()));
        self.has_some.store(true, Ordering::Release);
        Ok(was_empty)
    }

    /// Whether something waits.
    pub(super) fn has_some(&self) -> bool {
        self.has_some.load(Ordering::Acquire)
    }

    /// Moves the first datagrams that may lie in one buffer into `out`; `None` where none waits.
    pub(super) fn take(&self, out: &mut [u8]) -> Option<Taken> {
        let mut waiting = self.lock();
        let mut taken: Option<Taken> = None;
        while let Some((from, datagram)) = waiting.datagrams.front() {
            let at = taken.map_or(0, |taken| taken.len);
            let joins = taken.is_none_or(|taken| {
                let closed = !taken.len.is_multiple_of(taken.segment_len);
                taken.from == *from && datagram.len() <= taken.segment_len && !closed
            });
            let room = out.get_mut(at..).and_then(|rest| rest.get_mut(..datagram.len()));
            match (room, joins, datagram.is_empty()) {
                (_, _, true) | (None, true, _) if taken.is_none() => {
                    // It is nothing, or fits no buffer.
                    let gone = datagram.len();
                    waiting.datagrams.pop_front();
                    waiting.bytes -= gone;
                    continue;
                }
                (Some(room), true, false) => room.copy_from_slice(datagram),
                _ => break,
            }
            let (from, len) = (*from, datagram.len());
            waiting.datagrams.pop_front();
            waiting.bytes -= len;
            let segment_len = taken.map_or(len, |taken| taken.segment_len);
            taken = Some(Taken { from, len: at + len, segment_len });
        }
        self.has_some.store(!waiting.datagrams.is_empty(), Ordering::Release);
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use ipop_overlay::NodeAddress;

    use super::*;

    fn node(number: u8) -> Endpoint {
        NodeAddress([number; 20]).into()
    }

    #[test]
    fn datagrams_of_one_length_and_node_are_taken_together_and_a_shorter_one_ends_them() {
        let inbox = Inbox::default();
        assert!(!inbox.has_some());
        let sent = [(1, 100), (1, 100), (1, 60), (1, 60), (2, 60), (2, 61)];
        for (index, (from, len)) in sent.into_iter().enumerate() {
            assert_eq!(inbox.push(node(from), &vec![index as u8; len]), Ok(index == 0));
        }
        let mut out = [0; 4096];
        let mut all = Vec::new();
        while inbox.has_some() {
            let taken = inbox.take(&mut out).unwrap();
            let datagrams: Vec<u8> =
                out[..taken.len].chunks(taken.segment_len).map(|bytes| bytes[0]).collect();
            all.push((taken.from, taken.len, datagrams));
        }
        let (one, two) = (node(1), node(2));
        assert_eq!(
            all,
            [(one, 260, vec![0, 1, 2]), (one, 60, vec![3]), (two, 60, vec![4]), (two, 61, vec![5])]
        );
        assert_eq!(inbox.take(&mut out), None);
    }

    #[test]
    fn a_buffer_holds_what_fits_and_the_rest_waits() {
        let inbox = Inbox::default();
        for _ in 0..3 {
            inbox.push(node(1), &[7; 40]).unwrap();
        }
        let mut out = [0; 100];
        assert_eq!(inbox.take(&mut out).map(|taken| taken.len), Some(80));
        assert_eq!(inbox.take(&mut out).map(|taken| taken.len), Some(40));
    }

    #[test]
    fn what_is_nothing_or_fits_nowhere_is_in_nobodys_way() {
        let inbox = Inbox::default();
        inbox.push(node(1), &[]).unwrap();
        inbox.push(node(1), &[7; 200]).unwrap();
        inbox.push(node(1), &[7; 40]).unwrap();
        inbox.push(node(1), &[]).unwrap();
        let mut out = [0; 100];
        assert_eq!(inbox.take(&mut out).map(|taken| taken.len), Some(40));
        assert_eq!(inbox.take(&mut out), None);
        assert!(!inbox.has_some());
        assert_eq!(inbox.push(node(1), &[7; 40]), Ok(true));
    }

    #[test]
    fn it_is_bounded_in_number_and_in_bytes() {
        for len in [1, 20_000] {
            let inbox = Inbox::default();
            let taken = (0..10_000).filter(|_| inbox.push(node(1), &vec![7; len]).is_ok()).count();
            assert_eq!(taken, (BYTES_MAX / len).min(DATAGRAMS_MAX));
        }
    }
}
